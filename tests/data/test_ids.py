"""Token files without an end of text, as nanoGPT writes them: from training to an export."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Shell

from minigpt.data.bin import Bin
from minigpt.data.files import Files
from minigpt.data.prepare import prepare
from minigpt.data.tokens import Tokens
from minigpt.errors import DataError
from minigpt.export import main
from minigpt.tokenizer.ids import Ids

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n" * 40
TINY = ["model.d_model=32", "model.n_heads=2", "model.max_seq_len=16", "train.batch_size=8"]
TINY += ["train.steps=3", "logger=none", "sample.max_new_tokens=5"]


@pytest.fixture
def characters(tmp_path: Path) -> Path:
    """train.bin and val.bin as data/shakespeare_char/prepare.py of nanoGPT leaves them."""
    ids = {character: number for number, character in enumerate(sorted(set(TEXT)))}
    encoded = np.array([ids[character] for character in TEXT], np.uint16)
    encoded[: len(encoded) * 9 // 10].tofile(tmp_path / "train.bin")
    encoded[len(encoded) * 9 // 10 :].tofile(tmp_path / "val.bin")
    return tmp_path


def prepare_in(folder: Path, **options: Any) -> Tokens:
    source = Bin(str(folder / "train.bin"), str(folder / "val.bin"))
    return prepare(source, Ids(65), folder / "t", **options)


def test_characters_of_nanogpt_train_as_they_stand(characters: Path, shell: Shell) -> None:
    base = [
        "data=bin",
        f"data.train={characters / 'train.bin'}",
        f"data.val={characters / 'val.bin'}",
    ]
    base += ["data.tokenizer.vocab_size=65", *TINY]
    assert shell("train", *base) == 0, shell.err
    run = shell.run_folder()
    assert json.loads((run / "run.json").read_bytes())["data"]["vocab_size"] == 65
    assert shell("generate", f"run={run}", "max_new_tokens=5", "prompt=") == 0
    assert shell.out.count("<") == 5
    assert shell("generate", f"run={run}", "prompt=Romeo") == 3
    assert "error: this tokenizer knows ids only: " in shell.err
    assert main([str(run), str(characters / "exported")]) == 0
    for name in ("config.json", "generation_config.json"):
        assert json.loads((characters / "exported" / name).read_bytes())["eos_token_id"] is None
    assert shell("generate", f"run={characters / 'exported'}", "max_new_tokens=5") == 0
    assert shell.out.count("<") == 5
    assert shell("train", *base, "train.document_mask=true") == 3
    assert "error: no end of text between documents: train.document_mask=true" in shell.err


def test_the_end_of_text_follows_from_the_vocabulary() -> None:
    """Unless it is given; a wrong one is an error, not none."""
    assert Ids().describe() == {"kind": "ids", "vocab_size": 50_257, "end_of_text": 50_256}
    assert Ids(50_304).end_of_text == 50_256
    assert Ids(65).end_of_text is None
    assert Ids(50_257, None).end_of_text is None
    assert Ids(65, 3).end_of_text == 3
    with pytest.raises(
        ValueError, match=r"end_of_text=65 is outside vocab_size=65 \(null: there is none\)"
    ):
        Ids(65, 65)


def test_a_stream_without_ends_is_one_document(characters: Path) -> None:
    tokens = prepare_in(characters)
    assert (tokens.train.n_documents, tokens.val.n_documents) == (1, 1)
    assert tokens.tokenizer.end_of_text is None
    assert tokens.train.n_tokens + tokens.val.n_tokens == len(TEXT)


def test_max_tokens_cuts_no_token_files(characters: Path) -> None:
    with pytest.raises(
        ValueError, match="max_tokens=100 is not used: token files that exist are taken whole"
    ):
        prepare_in(characters, max_tokens=100)
    assert not (characters / "t").exists()


def test_text_needs_an_end_of_text(characters: Path) -> None:
    (characters / "x.txt").write_text(TEXT)
    with pytest.raises(DataError, match="no end of text to put between documents"):
        prepare(Files(str(characters / "x.txt")), Ids(65), characters / "t")


@pytest.mark.faults(31)
def test_foreign_files_are_regular_files(characters: Path) -> None:
    (characters / "train.bin").unlink()
    os.mkfifo(characters / "train.bin")
    with pytest.raises(DataError, match=r"not a regular file: data\.train: .*train\.bin"):
        prepare_in(characters)
