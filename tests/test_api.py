"""`import minigpt` in a notebook: the commands as functions."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, SMALL, Shell, rows

import minigpt
from minigpt import errors, interrupt
from minigpt.run.folder import RunFolder


def state() -> list[Any]:
    """What a notebook shares with the run."""
    import torch

    log = logging.getLogger("minigpt")
    handlers = [signal.getsignal(number) for number in interrupt.SIGNALS]
    return [
        sys.stdout, sys.stderr, sys.argv, *handlers, torch.get_num_threads(),
        log.level, log.propagate, [*log.handlers], interrupt.requested(), logging.root.handlers,
    ]  # fmt: skip


def places(folder: Path) -> list[str]:
    return [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]


def test_it_trains_the_run_of_the_command_twice_in_a_process(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("train", *SMALL) == 0
    theirs = shell.run_folder()
    ours = tmp_path / "notebook"
    stderr = io.StringIO()  # it has no file descriptor
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(logging.getLogger("minigpt"), "handlers", [])  # whatever tests have left
    before = state()
    assert minigpt.train([*SMALL, *places(ours), "train.stop_after=6"]) is None
    summary = minigpt.train([*SMALL, *places(ours)])
    assert summary is not None
    assert state() == before
    folder = Path(summary.pop("folder"))
    assert folder.name == theirs.name
    assert rows(folder) == rows(theirs)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert json.loads((folder / "run.json").read_text())["command"][0] == "minigpt.train"
    assert "stopped at step 6 of 12" in stderr.getvalue()
    assert "resuming at step 6 of 12" in stderr.getvalue()
    again = minigpt.train([*SMALL, *places(ours)])
    assert again == {**summary, "folder": str(folder)}
    assert "already finished" in stderr.getvalue()

    (row,) = minigpt.runs(ours / "outputs", "status=finished", "val_loss")
    assert (row["folder"], row["val_loss"]) == (str(folder), summary["val_loss"])
    loaded = minigpt.load(folder)
    assert loaded.config["train"]["steps"] == loaded.step == 12
    assert "Embedding" not in repr(loaded)
    assert loaded.tokenizer.vocab_size == loaded.model.embed.num_embeddings
    assert shell("generate", f"run={theirs}", "prompt=To be", "max_new_tokens=20", "seed=3") == 0
    assert loaded.generate("To be", max_new_tokens=20, seed=3) == shell.out.removesuffix("\n")


def test_errors_are_raised_as_ours(tmp_path: Path) -> None:
    before = state()
    with pytest.raises(errors.ConfigError, match=r"did you mean train\.steps") as wrong:
        minigpt.train(["train.step=3", "optim=moun"])
    assert len(wrong.value.problems) == 2
    for overrides, said in {
        "-m": "only key=value", "experiment=muon_vs_adamw": "is a study", "seed=0,1": "seed",
        "logger.api_key=x": "secret",
    }.items():  # fmt: skip
        with pytest.raises(errors.ConfigError, match=said):
            minigpt.train(overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(errors.ConfigError, match="under torchrun"):
            minigpt.train(SMALL)
    with pytest.raises(errors.ConfigError, match="no such folder"):
        minigpt.runs(tmp_path / "nothing")
    with pytest.raises(errors.ConfigError, match="no run there"):
        minigpt.load(tmp_path)
    assert state() == before


LONG = [*SMALL, "train.steps=100_000", "eval.every=null"]


def test_an_interrupted_cell_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minigpt.train.bar import ProgressBar

    def step(self: ProgressBar) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "step", step)
    before = state()
    with pytest.raises(errors.Stopped, match=r"SIGINT: .* at step 1 "):
        minigpt.train([*LONG, *places(tmp_path)])
    assert state() == before
    (row,) = minigpt.runs(tmp_path / "outputs")
    assert (row["status"], row["step"]) == ("unfinished", 1)


def test_in_a_thread_it_leaves_signals_alone_and_keeps_its_lock(tmp_path: Path) -> None:
    """While it trains, its run is listed and another is refused; the lock is still its own."""
    found: list[Any] = []
    begun, go_on = threading.Event(), threading.Event()

    def train() -> None:
        found.append(minigpt.train([*SMALL, *places(tmp_path)]))

    def wait(self: RunFolder, *arguments: Any) -> None:
        begin(self, *arguments)
        begun.set()
        go_on.wait(60)

    before, begin = state(), RunFolder.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "begin", wait)
        thread = threading.Thread(target=train)
        thread.start()
        assert begun.wait(60)
        assert [signal.getsignal(number) for number in interrupt.SIGNALS] == before[3:8]
        (row,) = minigpt.runs(tmp_path / "outputs")
        assert row["status"] == "running"
        with pytest.raises(errors.BusyError, match="is being trained in this process"):
            minigpt.train([*SMALL, *places(tmp_path)])
        code = "from minigpt.files import lock; import pathlib, sys\n"
        code += f"sys.exit(not lock.lock_is_held(pathlib.Path({row['folder']!r})))"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        go_on.set()
        thread.join()
    assert found[0]["status"] == "finished"
    assert state() == before


def test_the_names_hold_whatever_is_imported_before_and_after() -> None:
    code = """
import sys
import minigpt
assert "minigpt.api" not in sys.modules
import minigpt.runs, minigpt.train
from minigpt.train import bar
from minigpt import load, runs, train
import minigpt.train.bar, minigpt.runs
for function in (minigpt.load, minigpt.runs, minigpt.train):
    assert type(function).__name__ == "function", function
assert (load, runs, train) == (minigpt.load, minigpt.runs, minigpt.train)
assert {"load", "runs", "train"} <= {*dir(minigpt)}
assert bar.ProgressBar and sys.modules["minigpt.runs"].main
assert not {"torch", "numpy", "hydra"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)
