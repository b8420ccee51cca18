"""Folders that transformers wrote: read, run, trained on, and written back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SMALL, Shell
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from minigpt import export
from minigpt.errors import CheckpointError
from minigpt.files import weights
from minigpt.generate import hugging_face
from minigpt.generate.hugging_face import from_hugging_face, to_hugging_face
from minigpt.model.transformer import Transformer
from minigpt.tokenizer.fast_bpe import BPE

TEXT = "To be, or not to be: that is the question: whether 'tis nobler in the mind to suffer\n"
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
LLAMA = {"rms_norm_eps": 1e-3, "rope_theta": 5e5}
SHAPES: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LLAMA),
    "llama, tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 12, "rope_theta": 1e6}),
    "qwen3, tied": (Qwen3Config, {"tie_word_embeddings": True, "head_dim": 8}),
}


def made(folder: Path, shape: str, shard: str = "1GB", vocab_size: int = 300, **more: Any) -> Any:
    """A model of transformers', drawn, its gains too, and saved."""
    kind, arguments = SHAPES[shape]
    torch.manual_seed(3)
    config = kind(vocab_size=vocab_size, **SIZES, **arguments, **more)
    model = (LlamaForCausalLM if kind is LlamaConfig else Qwen3ForCausalLM)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


def assert_equal(ours: Path, theirs: Path) -> None:
    ours, theirs = tensors_of(ours), tensors_of(theirs)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("shard", ["1GB", "40KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(tmp_path: Path, shape: str, shard: str) -> None:
    theirs = made(tmp_path / "theirs", shape, shard)
    assert (len(shards(tmp_path / "theirs")) > 1) == (shard != "1GB")
    arguments, found = from_hugging_face(tmp_path / "theirs")
    model = Transformer(**arguments).eval()
    model.load_state_dict(found)
    tokens = torch.arange(40).view(2, 20) * 7
    with torch.no_grad():
        logits = theirs(tokens).logits
        assert logits.std() > 0.3
        torch.testing.assert_close(model(tokens), logits, rtol=0, atol=1e-5)
    to_hugging_face(model, BPE(vocab_size=300).train([TEXT]), tmp_path / "ours")
    assert_equal(tmp_path / "ours", tmp_path / "theirs")


def test_a_foreign_folder_is_run_and_trained_on(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    tokenizer = BPE(vocab_size=290).train([TEXT])
    text = json.dumps(tokenizer.tokenizer_json())
    (tmp_path / "t.json").write_text(text)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "t.json"), eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    made(folder, "qwen3", "40KB", tokenizer.vocab_size + 3)  # padded, as Qwen's own are
    assert shell("generate", f"run={folder}", "prompt=To be", "max_new_tokens=4") == 0, shell.err
    assert shell.out.startswith("To be")

    (folder / "tokenizer.json").unlink()
    assert shell("generate", f"run={folder}", "prompt=To be") == 3
    assert f"no tokenizer: {folder} has no tokenizer.json" in shell.err
    (folder / "tokenizer.json").write_text(text)
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 50)
    data = ["data@stand_in=files", "data/tokenizer@stand_in.tokenizer=hf", f"stand_in.path={path}"]
    data += [f"stand_in.tokenizer.vocab_size={tokenizer.vocab_size + 3}"]
    data += [f"stand_in.tokenizer.path={folder}", "train.stop_after=0", f"output_dir={tmp_path}"]
    start = [*SMALL, *data, f"init_from={folder}"]
    assert shell("train", *start) == 4
    (way_out,) = {line.partition("(saved -> given; give ")[2].partition(", or ")[0]
                  for line in shell.err.splitlines() if "->" in line}  # fmt: skip
    assert shell("train", *start, *way_out.split(" ")) == 0, shell.err
    assert "was made with" not in shell.err
    (run,) = (found.parent for found in tmp_path.glob("*-????????/run.json"))
    assert export.main([str(run), str(tmp_path / "ours")]) == 0
    assert_equal(tmp_path / "ours", folder)

    assert shell("generate", f"run={run}", "prompt=To be", "max_new_tokens=4") == 0, shell.err
    assert shell("train", *start, "stand_in.tokenizer.vocab_size=5") == 3
    assert "vocab_size=5 does not fit a tokenizer.json of " in shell.err
    other = [word for word in way_out.split(" ") if "rope_theta" not in word]
    assert shell("train", *start, *other) == 0, shell.err
    assert f"init_from={folder} was made with model.rope_theta=1000000.0\n" in shell.err


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def rename(folder: Path, name: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shards(folder)[0].name, name))


def link_out(shard: Path) -> None:
    shard.rename(shard.parent.parent / "elsewhere")
    shard.symlink_to(shard.parent.parent / "elsewhere")


ODD = {
    "a missing shard": (lambda f: shards(f)[1].unlink(), r"has no model-00002-of-0000."),
    "a name that leads out": (lambda f: rename(f, "../a.safetensors"), "not the name of a file"),
    "a link out": (lambda f: link_out(shards(f)[0]), "a link that leads out"),
    "a tensor twice": (
        lambda f: save_file(
            load_file(shards(f)[2]) | load_file(shards(f)[1]), shards(f)[2]
        ),
        "in another shard too",
    ),
    "a header without end": (
        lambda f: shards(f)[0].write_bytes(b"\xff" * 7 + b"\x00"), "a header of"),
    "no index": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": 3}'),
        "weight_map is not a mapping",
    ),
}  # fmt: skip


@pytest.mark.faults(23, 25)
@pytest.mark.parametrize("name", ODD)
def test_odd_shards_are_one_line(tmp_path: Path, name: str) -> None:
    made(tmp_path / "theirs", "llama", "40KB")
    change, message = ODD[name]
    change(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=message) as error:
        from_hugging_face(tmp_path / "theirs")
    assert "\n" not in str(error.value)


@pytest.mark.faults(25)
def test_sizes_are_checked_before_a_weight_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    monkeypatch.setattr(hugging_face, "read_bytes", None)
    with pytest.raises(CheckpointError, match=r"mlp.down.weight \(32, 48\) -> \(32, 64\)") as error:
        from_hugging_face(tmp_path)
    assert str(error.value).endswith("; so with 5 more")


def test_a_head_beside_tied_embeddings_must_be_them(tmp_path: Path) -> None:
    made(tmp_path, "llama, tied")
    path = tmp_path / weights.WHOLE
    found = load_file(path)
    embedding = found["model.embed_tokens.weight"]
    rope = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}  # of old versions
    save_file(found | rope | {"lm_head.weight": embedding.clone()}, path)
    assert "head.weight" not in from_hugging_face(tmp_path)[1]
    save_file(found | {"lm_head.weight": embedding + 1}, path)
    with pytest.raises(CheckpointError, match="tie_word_embeddings=True beside a lm_head"):
        from_hugging_face(tmp_path)
