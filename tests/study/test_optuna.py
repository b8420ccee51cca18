"""A search by Optuna: its trials are ordinary runs, and the same command goes on with them."""

import json
import sys

import pytest
from runs import SMALL, Shell

SEARCH = ["-m", "hydra/sweeper=optuna", *SMALL, "optim.lr_scale=tag(log,interval(0.25,4))"]


def test_without_optuna(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert shell("train", *SEARCH) == 2
    assert "needs optuna (pip install optuna)" in shell.err
    assert shell("train", "-m", *SEARCH[2:]) == 2
    assert "no grid: " in shell.err
    assert "Traceback" not in shell.err


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Optuna and SQLAlchemy
def test_four_trials_and_no_fifth(shell: Shell) -> None:
    pytest.importorskip("optuna", reason="needs the extra: pip install optuna")
    assert shell("train", *SEARCH, "train.stop_after=3", "hydra.sweeper.n_trials=4") == 2
    assert "no loss: " in shell.err
    assert shell("train", *SEARCH, "hydra.sweeper.n_trials=2") == 0, shell.err
    assert shell("train", *SEARCH, "hydra.sweeper.n_trials=4") == 0, shell.err
    losses = {
        path.parent.name: json.loads(path.read_text())["val_loss"]
        for path in shell.folder.rglob("summary.json")
    }
    assert len(losses) == 4
    best = min(losses, key=lambda name: losses[name])
    assert f"best of 4 trials   {losses[best]:.4f}" in shell.out
    before = {path: path.stat().st_mtime_ns for path in shell.folder.rglob("summary.json")}
    assert shell("train", *SEARCH, "hydra.sweeper.n_trials=4") == 0, shell.err
    assert f"best of 4 trials   {losses[best]:.4f}" in shell.out
    assert shell.err.count(" done ") == 2, "the record of a command has what it launched"
    assert {path: path.stat().st_mtime_ns for path in shell.folder.rglob("*y.json")} == before
    assert shell("train", *SEARCH, "hydra.sweeper.n_trials=0") == 2
    assert "out of range: hydra.sweeper.n_trials=0 (at least 1)" in shell.err
    assert shell("train", *SEARCH, "optim.lr=interval(2,1)") == 2
    assert "no interval: optim.lr=interval(2,1): " in shell.err
