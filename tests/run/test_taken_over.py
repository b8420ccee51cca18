"""A run whose folder goes away or gets another owner while it trains; weights that are no longer
numbers.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from runs import ROOT, SMALL, Shell, rows
from safetensors.torch import load_file

ENDLESS = [*SMALL, "train.steps=1000000", "checkpoint.every=50", "eval.every=null"]


class Started:
    """train.py in a process of its own, which is known to train."""

    def __init__(self, folder: Path) -> None:
        places, pipe = [f"output_dir={folder / 'o'}", f"data_dir={folder / 't'}"], subprocess.PIPE
        command = [sys.executable, "train.py", *ENDLESS, *places]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
        self.outputs = folder / "o"

    def trains(self) -> Path:
        """Its run folder, once there is a checkpoint that this process saved."""
        before = time.time()
        while True:
            for lock in self.outputs.glob("*-????????/lock"):
                saved = list(lock.parent.glob("checkpoints/step_*"))
                if (
                    f"pid {self.process.pid} " in lock.read_text()
                    and saved
                    and saved[0].stat().st_mtime > before
                ):
                    return lock.parent
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.05)

    def ends(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Started]]:
    processes = [Started(tmp_path)]
    yield processes
    for one in processes:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


@pytest.mark.faults(15)
@pytest.mark.parametrize(
    "how",
    [
        pytest.param("removed", marks=pytest.mark.slow),
        pytest.param("moved", marks=pytest.mark.slow),
        "lock removed",
    ],
)
def test_a_folder_that_goes_away_ends_the_run(
    how: str, started: list[Started], tmp_path: Path
) -> None:
    (first,) = started
    folder = first.trains()
    if how == "lock removed":
        (folder / "lock").unlink()
    elif how == "moved":
        folder.rename(tmp_path / "moved")
    else:
        folder.rename(tmp_path / "going")  # at once, as one would wish of rm -r
        shutil.rmtree(tmp_path / "going", ignore_errors=True)
    code, said = first.ends()
    assert code == 6, said
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert line.startswith("error: run folder is gone: ")
    assert str(folder) in line
    assert "Traceback" not in said
    assert folder.exists() == (how == "lock removed")
    assert not list(tmp_path.rglob("failed.json"))


@pytest.mark.faults(15)
def test_a_run_whose_lock_was_removed_gives_way_to_the_one_that_took_it(
    started: list[Started], tmp_path: Path
) -> None:
    """The first one is held while the second begins; then both want to write."""
    (first,) = started
    folder = first.trains()
    first.process.send_signal(19)  # SIGSTOP
    (folder / "lock").unlink()
    started.append(Started(tmp_path))
    assert started[1].trains() == folder
    first.process.send_signal(18)  # SIGCONT
    code, said = first.ends()
    assert code == 7, said
    assert said.count("error: run folder was taken over: ") == 1
    assert started[1].process.poll() is None
    started[1].process.terminate()
    code, said = started[1].ends()
    assert code == 143, said
    assert "ended by BusyError" not in (folder / "train.log").read_text()
    steps = [row["step"] for row in rows(folder) if "train/loss" in row]
    assert steps == list(range(1, len(steps) + 1))


def finite(folder: Path) -> list[int]:
    """The steps of the checkpoints; all of their weights are numbers."""
    saved = sorted(folder.glob("checkpoints/step_*"))
    for path in saved:
        assert all(
            torch.isfinite(tensor).all()
            for tensor in load_file(path / "model.safetensors").values()
        ), path
    return [int(path.name.removeprefix("step_")) for path in saved]


@pytest.mark.faults(46)
@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(
            ["optim=adamw", "optim.hidden.weight_decay=10000", "optim.embed.weight_decay=10000"],
            marks=pytest.mark.slow,
        ),
        ["optim=lion", "optim.lr_scale=1e42"],
    ],
    ids=["decay", "lion"],
)
def test_weights_that_explode_never_push_out_good_ones(arm: list[str], shell: Shell) -> None:
    command = [
        *SMALL, *arm, "schedule=wsd", "schedule.warmup=6", "train.steps=100",
        "train.max_bad_steps=20", "checkpoint.every=1", "checkpoint.keep=2",
    ]  # fmt: skip
    assert shell("train", *command) == 5, shell.err
    folder = shell.run_folder()
    assert json.loads((folder / "summary.json").read_text())["status"] == "diverged"
    kept = finite(folder)
    bad = [row["step"] for row in rows(folder) if "skipped" in row]
    assert all(step not in bad for step in kept)


@pytest.mark.faults(46)
def test_weights_that_are_not_finite_end_the_run_at_its_next_save(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop right after the step that broke them: the save finds it before any loss tells."""
    from minigpt.train.run import Run

    real = Run.save

    def broken(live: Run, final: bool, beside: bool = False) -> None:
        if live.progress.step == 6:
            with torch.no_grad():
                next(iter(live.model.parameters())).view(-1)[3] = float("inf")
        real(live, final, beside)

    monkeypatch.setattr(Run, "save", broken)
    assert shell("train", *SMALL, "checkpoint.every=3") == 5
    assert "diverged: weights are not finite after step 6" in shell.err
    assert finite(shell.run_folder()) == [3]


def test_a_start_that_lost_its_folder_before_it_began_deletes_nothing_of_the_next(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from minigpt.errors import DataError
    from minigpt.train import assemble

    def replaced(*_: object) -> None:
        (folder,) = (path for path in (shell.folder / "outputs").iterdir() if path.is_dir())
        folder.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", folder)
        raise DataError("no tokens: here (prepare them)")

    monkeypatch.setattr(assemble, "prepare_tokens", replaced)
    assert shell("train", *SMALL) == 3
    (folder,) = (path for path in (shell.folder / "outputs").iterdir() if path.is_dir())
    left = {path.name for path in folder.iterdir()}
    assert left == {"checkpoints", "lock", "metrics.jsonl", "train.log"}
