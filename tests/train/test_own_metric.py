"""A metric of one's own: a model's `metrics` lands in both records of a run."""

import json
from typing import Any

import pytest
import torch
from runs import SMALL, Shell, rows

from minigpt.model.transformer import Transformer

OWN = [*SMALL, "model._target_=test_own_metric.Measured"]


class Measured(Transformer):
    """The example of conf/model/_base.yaml."""

    broken = False

    def metrics(
        self, inputs: torch.Tensor, targets: torch.Tensor, documents: torch.Tensor | None
    ) -> dict[str, Any]:
        if self.broken:
            return {"misses": float("nan")}
        wrong = self(inputs, documents=documents).argmax(-1) != targets
        return {"misses": (wrong & (targets != -100)).sum(), "tokens_seen": (targets != -100).sum()}


def test_it_is_logged_and_summarised(shell: Shell) -> None:
    assert shell("train", *OWN) == 0, shell.err
    folder = shell.run_folder()
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 < summary["val_misses"] < 1
    assert summary["val_tokens_seen"] == 1, "a mean over the scored tokens"
    found = [row["val/misses"] for row in rows(folder) if "val/loss" in row]
    assert len(found) == 3
    assert found[-1] == summary["val_misses"]


def test_one_that_is_no_number_is_a_run_that_diverged(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measured, "broken", True)
    assert shell("train", *OWN, "train.steps=2") == 5
    assert "diverged: validation misses is nan" in shell.err
