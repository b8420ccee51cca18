"""`python -m minigpt.evaluate`: a run's loss on any text, as its own validation would have it."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runs import SMALL, Shell, contents

from minigpt import evaluate
from minigpt.compare.statistics import ratio_interval
from minigpt.data.tokens import Tokens
from minigpt.export import main as export


def test_the_loss_on_its_own_validation_text_is_the_one_of_the_run(
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """From its tokens, from the text itself, from stdin, and of an exported folder."""
    assert shell("train", *SMALL, "model.max_seq_len=128", "train.steps=2") == 0, shell.err
    run = shell.run_folder()
    summary, before = json.loads((run / "summary.json").read_bytes()), contents(run)
    tokens = json.loads((run / "run.json").read_bytes())["data"]["folder"]
    val = Tokens.open(tokens).val
    text = bytes(val.read(1, val.n_tokens - 1).tolist())  # a byte an id, behind the end of text
    (tmp_path / "val.txt").write_bytes(text)
    assert export([str(run), str(tmp_path / "exported")]) == 0
    (checkpoint,) = (run / "checkpoints").glob("step_*")
    capfd.readouterr()

    def told(*arguments: Any) -> list[dict[str, Any]]:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        assert evaluate.main([*map(str, arguments), "--json"]) == 0
        return [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    found = told(run) + told(checkpoint, tmp_path / "val.txt")
    found += told(tmp_path / "exported", "--text", "-")
    assert len(found) == 3
    for one in found:
        assert one["tokens"] == summary["val_tokens"] == one["bytes"] == len(text)
        loss, bits = one["nats_per_token"], one["bits_per_byte"]
        assert loss["value"] == pytest.approx(summary["val_loss"], rel=1e-5)
        assert bits["value"] == pytest.approx(summary["val_bits_per_byte"], rel=1e-5)
        assert bits["low"] == pytest.approx(loss["low"] / math.log(2))  # a byte a token
        assert one["perplexity"]["high"] == pytest.approx(math.exp(loss["high"]))
        assert loss["low"] < loss["value"] < loss["high"]
    assert contents(run) == before
    (tmp_path / "short.txt").write_text("To be")
    assert evaluate.main([str(run), str(tmp_path / "short.txt")]) == 0
    assert "one window: no interval" in capfd.readouterr().out
    (tmp_path / "short.txt").write_text(" ")
    for wrong, message in (
        ([run, tmp_path / "short.txt"], "no text to score: "),
        ([tmp_path / "exported"], "is an exported folder (give TEXT)"),
    ):
        assert evaluate.main([*map(str, wrong)]) != 0
        assert message in capfd.readouterr().err


def test_the_interval_holds_where_the_windows_of_a_document_are_alike() -> None:
    """Of 300 texts of 60 documents of 10 windows each; single windows as draws would not do."""
    covered = {"stretches": 0, "windows": 0}
    for seed in range(300):
        draws = np.random.default_rng(seed)
        nats = (3 + np.repeat(draws.normal(size=60), 10) + draws.normal(size=600)).tolist()
        for name, values in (("stretches", evaluate.stretches(nats)), ("windows", nats)):
            found = ratio_interval(values, [len(nats) / len(values)] * len(values))
            covered[name] += found.low <= 3 <= found.high
    assert covered["windows"] < 210
    assert covered["stretches"] > 275
    assert evaluate.stretches([1.0, 2.0]) == [1.0, 2.0]
