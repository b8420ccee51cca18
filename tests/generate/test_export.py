"""Exported folders as transformers reads them, and read back."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minigpt.errors import CheckpointError, ConfigError, StorageError
from minigpt.export import main
from minigpt.generate.hugging_face import from_hugging_face, to_hugging_face
from minigpt.generate.sampling import Sampling, generate, sample_text
from minigpt.model.ngram_embedding import NgramEmbedding
from minigpt.model.relu_squared import ReLUSquared
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator
from minigpt.tokenizer.base import Tokenizer
from minigpt.tokenizer.fast_bpe import BPE

TEXT = (
    "To be, or not to be: that is the question — whether 'tis nobler in the mind to suffer "
    "123 slings, naïvely.\n\n"
)
SHAPES = {
    "mqa": {},
    "gqa, tied": {"n_kv_heads": 2, "tie_embeddings": True},
    "mha": {"n_kv_heads": 4, "rope_theta": 500.0, "norm_eps": 1e-6},
    "qwen3": {"qk_norm": True, "n_kv_heads": 2},
    "qwen3, tied": {"qk_norm": True, "tie_embeddings": True},
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return BPE(vocab_size=300).train([TEXT])


def draw(tokenizer: Tokenizer, **shape: object) -> Transformer:
    """A model that is far from uniform and says something."""
    sizes = {"n_layers": 2, "d_model": 32, "n_heads": 4, "max_seq_len": 64, **shape}
    model = Transformer(tokenizer.vocab_size, **sizes)
    numbers = generator(5, "init")
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=numbers)
            parameter.copy_(
                1 + 0.3 * noise if parameter.ndim == 1 else noise * 2 * parameter.shape[1] ** -0.5
            )
    return model.eval()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_transformers_and_what_is_read_back_compute_the_same(
    tokenizer: Tokenizer, tmp_path: Path, shape: dict
) -> None:
    model, folder = draw(tokenizer, **shape), tmp_path / "exported"
    to_hugging_face(model, tokenizer, folder)
    arguments, weights = from_hugging_face(folder)
    with torch.device("meta"):
        again = Transformer(**arguments)
    again.load_state_dict(weights, assign=True)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    their_tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__ == (
        "Qwen3ForCausalLM" if shape.get("qk_norm") else "LlamaForCausalLM"
    )
    assert theirs.num_parameters() == sum(p.numel() for p in model.parameters())

    ids = tokenizer.encode(TEXT[:60])
    assert their_tokenizer(TEXT)["input_ids"] == tokenizer.encode(TEXT)
    assert their_tokenizer.decode(ids) == TEXT[:60]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        assert torch.equal(model(tokens), theirs(tokens).logits)
        assert torch.equal(model(tokens), again.eval()(tokens))

    sampling = Sampling(temperature=0, max_new_tokens=20)
    produced = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=20,
        pad_token_id=tokenizer.end_of_text,
    )[0].tolist()  # fmt: skip
    steps = generate(model, ids, sampling, generator(0, "sampling"), stop=tokenizer.end_of_text)
    assert ids + [step.tokens[0] for step in steps] == produced
    [text] = sample_text(model, tokenizer, TEXT[:60], sampling, generator(0, "sampling"))
    assert text == their_tokenizer.decode(produced, skip_special_tokens=True)


def test_bf16_weights_stay_bf16(tokenizer: Tokenizer, tmp_path: Path) -> None:
    to_hugging_face(draw(tokenizer).bfloat16(), tokenizer, tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {value.dtype for value in from_hugging_face(tmp_path / "exported")[1].values()} == {
        torch.bfloat16
    }


def test_equal_models_give_equal_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("one", "two"):
        to_hugging_face(draw(tokenizer), tokenizer, tmp_path / name)
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two
    json_files = ("config", "generation_config", "tokenizer", "tokenizer_config")
    assert sorted(one) == sorted(["model.safetensors", *(f"{name}.json" for name in json_files)])


@pytest.mark.parametrize(
    ("key", "part", "known"),
    [("mlp", ReLUSquared, "SwiGLU"), ("embedding", NgramEmbedding, "Embedding")],
)
def test_parts_without_counterpart_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, key: str, part: type, known: str
) -> None:
    message = f"{part.__name__} has no counterpart in Llama or Qwen3 (model.{key}; they have what "
    with pytest.raises(ConfigError, match=re.escape(message + known)):
        to_hugging_face(draw(tokenizer, **{key: part}), tokenizer, tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(StorageError, match="exists already"):
            to_hugging_face(draw(tokenizer), tokenizer, folder)
    with pytest.raises(StorageError, match=r"cannot write: .*mine/exported: File exists"):
        to_hugging_face(draw(tokenizer), tokenizer, tmp_path / "mine" / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    to_hugging_face(draw(tokenizer), tokenizer, tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type=gpt2"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"head_dim": 10}, "does not fit the model"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "=linear"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"model_type": "qwen3_moe", "num_experts": 8}, "model_type=qwen3_moe, num_experts=8"),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope_type=llama3"),
        ({"hidden_size": None}, "damaged export"),
        ({"num_attention_heads": 0}, "damaged export"),
        ({"num_hidden_layers": "2"}, "damaged export"),
        ({"rope_parameters": {"rope_theta": "much"}}, "damaged export"),
    ],
    ids=str,
)
def test_foreign_configurations_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, change: dict, message: str
) -> None:
    folder = tmp_path / "exported"
    to_hugging_face(draw(tokenizer), tokenizer, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        from_hugging_face(folder)


def test_damaged_and_foreign_folders_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        from_hugging_face(folder)
    to_hugging_face(draw(tokenizer), tokenizer, folder)

    whole = (folder / "model.safetensors").read_bytes()
    weights = load_file(folder / "model.safetensors")
    bias = "model.layers.0.self_attn.q_proj.bias"
    save_file(weights | {bias: torch.zeros(32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"unknown weight {re.escape(bias)}"):
        from_hugging_face(folder)
    for damaged in (b"", whole[:100], whole[:-1], b"\xff" * 64):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged export"):
            from_hugging_face(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged export"):
        from_hugging_face(folder)


def test_a_snapshot_in_the_cache_of_hugging_face_is_read(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Its files are links to blobs beside it; no other link leads out of a folder."""
    to_hugging_face(draw(tokenizer), tokenizer, tmp_path / "exported")
    for name in ("models--a--b/snapshots/0f", "models--a--b/other/0f"):
        (tmp_path / name).mkdir(parents=True)
        for file in (tmp_path / "exported").iterdir():
            blob = tmp_path / "models--a--b" / "blobs" / f"{len(file.name)}{file.stem}"
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(file.read_bytes())
            (tmp_path / name / file.name).symlink_to(f"../../blobs/{blob.name}")
    assert len(from_hugging_face(tmp_path / "models--a--b/snapshots/0f")[1]) == 21
    with pytest.raises(CheckpointError, match="a link that leads out"):
        from_hugging_face(tmp_path / "models--a--b/other/0f")


def test_the_command_refuses_what_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path / "exported")]) == 4
    assert capsys.readouterr().err.startswith("error: ")
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(
        "error: arguments: the following arguments are required: DIR"
    )
