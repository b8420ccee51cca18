"""Branching: a run that begins at another's checkpoint has the bits of training it straight."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ROOT, SMALL, Shell, rows, tensors, vouch
from safetensors.torch import save as to_bytes

from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.load import load_checkpoint
from minigpt.optim.state_tree import encode
from minigpt.schedule.warmup_cosine import WarmupCosine
from minigpt.schedule.wsd import WSD
from minigpt.train.branch import shared_steps

WSD_RUN = [*SMALL, "schedule=wsd", "schedule.warmup=2", "checkpoint.keep_optimizer=true"]


def by_steps(shell: Shell) -> dict[int, Path]:
    """The runs of a shell, by their number of steps."""
    return {record(run)["steps"]: run for run in shell.runs()}


def record(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


def log_of(folder: Path) -> str:
    return (folder / "train.log").read_text()


def trained(folder: Path) -> str:
    """From which step to which a run itself has trained, by its log."""
    return next(
        (line.split(" ", 2)[2] for line in log_of(folder).splitlines() if "resuming" in line), "all"
    )


@pytest.mark.parametrize("optim", ["muon", pytest.param("adamw", marks=pytest.mark.slow)])
def test_a_sweep_of_budgets_trains_the_trunk_once_and_every_run_is_as_if_trained_straight(
    optim: str, shell: Shell, other: Shell
) -> None:
    command = [*WSD_RUN, f"optim={optim}", "model.dropout=0.1", "train.micro_batch_size=4"]
    assert shell("train", "-m", *command, "train.steps=40,10,20") == 0, shell.err
    assert "would reuse its weights" not in shell.err  # said of runs alone
    assert other("train", "-m", *command, "train.steps=10,20,40", "branch=off") == 0, other.err
    branched, straight = by_steps(shell), by_steps(other)
    assert branched.keys() == straight.keys() == {10, 20, 40}
    for steps in branched:
        assert branched[steps].name.rpartition("-")[2] == straight[steps].name.rpartition("-")[2]
        assert rows(branched[steps]) == rows(straight[steps])
        assert tensors(branched[steps]).keys() == {"model.safetensors", "optimizer.safetensors"}
        assert tensors(branched[steps]) == tensors(straight[steps])
        assert trained(straight[steps]) == "all"
        assert record(straight[steps])["branched_from"] is None
    assert record(branched[10])["branched_from"] is None
    assert record(branched[20])["branched_from"] == {"run": branched[10].name, "step": 8}
    assert record(branched[40])["branched_from"] == {"run": branched[20].name, "step": 16}
    assert "resuming at step 16 of 40" in log_of(branched[40])
    kept = {
        steps: [path.name for path in (folder / "checkpoints").iterdir()]
        for steps, folder in branched.items()
    }
    assert sorted(kept[40]) == ["step_00000032", "step_00000040"]
    assert [path.name for path in (straight[40] / "checkpoints").iterdir()] == ["step_00000040"]


@pytest.mark.slow
def test_a_branch_that_is_killed_before_its_first_checkpoint_and_later_is_the_straight_run(
    shell: Shell, other: Shell
) -> None:
    one = [*WSD_RUN, "checkpoint.every=120", "eval.every=null", "log.every=1"]
    command = [*one, "train.steps=10,300"]

    def kill_once(done: Any) -> None:
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(shell.command("-m", *command), cwd=ROOT, **silent) as process:
            while not (300 in by_steps(shell) and done(by_steps(shell)[300])):
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)

    kill_once(lambda folder: len(rows(folder)) > 20)
    long = by_steps(shell)[300]
    assert not list((long / "checkpoints").glob("step_*"))
    kill_once(lambda folder: (folder / "checkpoints" / "step_00000120" / "manifest.json").exists())
    assert shell("train", "-m", *command) == 0, shell.err
    assert log_of(long).count("going on from step 8 of") == 2
    assert other("train", *one, "train.steps=300", "branch=off") == 0
    assert rows(long) == rows(by_steps(other)[300])
    assert tensors(long) == tensors(by_steps(other)[300])


def test_what_trained_other_steps_is_not_taken(shell: Shell) -> None:
    assert shell("train", *WSD_RUN, "train.steps=10") == 0
    for change in ("seed=1", "schedule.warmup=3", "train.micro_batch_size=2"):
        assert shell("train", *WSD_RUN, "train.steps=20", change) == 0
        assert "going on from" not in shell.err, change
    assert shell("train", *WSD_RUN, "train.steps=21", "schedule.decay=0.5") == 0
    assert "going on from step 8 of" in shell.err
    fraction = [*WSD_RUN, "schedule.warmup=0.2"]
    assert shell("train", "-m", *fraction, "train.steps=10,20") == 0
    assert "going on from" not in shell.err


def test_a_run_of_changed_code_or_a_damaged_checkpoint_is_not_taken(shell: Shell) -> None:
    assert shell("train", *WSD_RUN, "train.steps=10") == 0
    short = by_steps(shell)[10]
    whole = (short / "run.json").read_bytes()
    changed = json.loads(whole)
    changed["source"]["minigpt.train.loop"] = "something else"
    (short / "run.json").write_text(json.dumps(changed))
    assert shell("train", *WSD_RUN, "train.steps=20") == 0
    assert "going on from" not in shell.err
    (short / "run.json").write_bytes(whole)
    weights = short / "checkpoints" / "step_00000008" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert shell("train", *WSD_RUN, "train.steps=40", f"branch={short}") == 4
    assert "cannot branch" in shell.err
    assert json.loads((by_steps(shell)[40] / "failed.json").read_text())["exit_code"] == 4
    assert shell("train", *WSD_RUN, "train.steps=40") == 0
    assert not (by_steps(shell)[40] / "failed.json").exists()


def test_nothing_that_a_neighbour_says_is_built_and_none_stops_a_run(
    shell: Shell, tmp_path: Path
) -> None:
    """Neighbours are found by their names alone: anybody may have put them there."""
    assert shell("train", *WSD_RUN, "train.steps=10") == 0
    short, canary = by_steps(shell)[10], tmp_path / "exploded"
    mkdir = {"_target_": "os.mkdir", "path": str(canary)}
    schedules: list[Any] = [
        mkdir, {"decay": mkdir}, {"decay": [mkdir]}, {"also": mkdir}, {"_args_": [mkdir]},
        {"decay": "0.2"}, {"decay": "${oc.env:HOME}"}, {"decay": None}, {"decay": -1},
        {"decay": 1e300}, {"decay": 10**400}, {"floor": 7},
    ]  # fmt: skip

    def neighbour(number: int, change: Callable[[Any], object]) -> Path:
        folder = short.parent / f"zzz-{number:08d}"
        shutil.copytree(short, folder)
        changed = record(folder)
        change(changed)
        (folder / "run.json").write_text(json.dumps(changed))
        return folder

    for number, schedule in enumerate(schedules):
        neighbour(number, lambda found: found["identity"]["schedule"].update(schedule))  # noqa: B023
    neighbour(100, lambda found: found.update(steps=10**15, identity={}))
    neighbour(101, lambda found: found.pop("chosen"))
    shutil.rmtree(neighbour(102, lambda found: None) / "checkpoints" / "step_00000008")
    pipe = neighbour(103, lambda found: None) / "metrics.jsonl"
    pipe.unlink()
    os.mkfifo(pipe)
    state = neighbour(104, lambda found: None) / "checkpoints" / "step_00000008" / "state.json"
    forged = json.loads(state.read_text())
    forged["metrics_bytes"] = "many"
    vouch(state.parent, state=json.dumps(forged).encode())

    assert shell("train", *WSD_RUN, "train.steps=20") == 0, shell.err
    assert not canary.exists()
    assert f"going on from step 8 of {short.name}," in shell.err
    bad = short.parent / "zzz-00000000"
    assert shell("train", *WSD_RUN, "train.steps=20", "attempt=2", f"branch={bad}") == 4
    assert "cannot branch" in shell.err
    assert not canary.exists()


def gain(tree: dict[str, Any]) -> dict[str, Any]:
    """The state of one parameter under AdamW."""
    found: dict[str, Any] = tree["parameters"]["embed.weight"]
    assert found.keys() == {"step", "exp_avg", "exp_avg_sq"}
    return found


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "another shape": lambda tree: gain(tree).update(exp_avg=torch.ones(3, 5)),
    "another dtype": lambda tree: gain(tree).update(exp_avg=gain(tree)["exp_avg"].long()),
    "text": lambda tree: gain(tree).update(exp_avg="many"),
    "nothing": lambda tree: gain(tree).clear(),
    "one parameter less": lambda tree: tree["parameters"].pop("embed.weight"),
    "another optimizer": lambda tree: tree["optimizers"].update(hidden="torch.SGD"),
    "a setting of another type": lambda tree: tree["groups"]["embed/embed/1"].update(betas=3),
    "a group without parameters": lambda tree: tree["groups"]["embed/embed/1"].update(params=[]),
    "a group too few": lambda tree: tree["groups"].pop("embed/embed/1"),
    "a group too many": lambda tree: tree["groups"].update(other={"x": 1}),
    "no groups": lambda tree: tree.pop("groups"),
}


@pytest.mark.faults(23)
def test_optimizer_state_that_our_optimizer_would_not_keep_is_not_taken(shell: Shell) -> None:
    """Its hashes are right. Named, it is refused in a line; otherwise the run trains by itself."""
    assert shell("train", *WSD_RUN, "train.steps=10") == 0, shell.err
    short = by_steps(shell)[10]
    trunk = short / "checkpoints" / "step_00000008"
    whole = {path.name: path.read_bytes() for path in trunk.iterdir()}

    for steps, (what, change) in enumerate(FORGED.items(), start=20):
        tree = load_checkpoint(trunk).optimizer
        assert tree is not None
        change(tree)
        tensors: dict[str, torch.Tensor] = {}
        state = json.loads(whole["state.json"]) | {"optimizer": encode(tree, tensors)}
        vouch(trunk, optimizer=to_bytes(tensors), state=json.dumps(state).encode())
        longer = [*WSD_RUN, f"train.steps={steps}", "train.stop_after=1"]
        assert shell("train", *longer, f"branch={short}") == 4, what
        (error,) = (line for line in shell.err.splitlines() if line.startswith("error: "))
        assert "optimizer state does not fit" in error, what
        assert "branch=off" in error, what
        assert "Traceback" not in shell.err, what
        assert shell("train", *longer) == 0, what
        assert f"of {short.name}" not in shell.err, what
        vouch(trunk, optimizer=whole["optimizer.safetensors"], state=whole["state.json"])
    assert shell("train", *WSD_RUN, "train.steps=40", "train.stop_after=9") == 0, shell.err
    assert f"going on from step 8 of {short.name}" in shell.err


def test_a_named_run_must_fit_and_checkpoint_at_keeps_more_branch_points(shell: Shell) -> None:
    assert shell("train", *WSD_RUN, "train.steps=40", "checkpoint.at=[8,16]") == 0
    long = by_steps(shell)[40]
    names = sorted(path.name for path in (long / "checkpoints").iterdir())
    assert names == ["step_00000008", "step_00000016", "step_00000032", "step_00000040"]
    assert shell("train", *WSD_RUN, "train.steps=20", f"branch={long}") == 0, shell.err
    assert record(by_steps(shell)[20])["branched_from"] == {"run": long.name, "step": 16}
    assert shell("train", *WSD_RUN, "train.steps=20", "seed=5", f"branch={long}") == 4
    assert "cannot branch" in shell.err
    assert "seed differs" in shell.err
    assert shell("train", *WSD_RUN, "branch=nowhere") == 2
    assert "no run: branch=nowhere" in shell.err
    assert shell("generate", f"run={long}", "max_new_tokens=4") == 0, (
        "the newest checkpoint is the finished model"
    )


def test_shared_steps_are_those_with_equal_multipliers() -> None:
    # steps 0..8: the last at full lr is n - d = 8
    assert shared_steps(WSD(warmup=3), 10, WSD(warmup=3), 100) == 9
    assert shared_steps(WSD(warmup=3), 10, WSD(warmup=4), 100) == 0
    assert shared_steps(WSD(warmup=3, decay=5), 100, WSD(warmup=3, decay=50), 100) == 51
    assert shared_steps(WarmupCosine(warmup=3), 100, WarmupCosine(warmup=3), 200) == 4
    assert WSD(warmup=3).trunk_steps(100) == 80
    assert WSD(warmup=0.1).trunk_steps(100) is None


WRONG_STATES: list[dict[str, Any]] = [
    {"tokens": "many"}, {"metrics_bytes": None}, {"seconds": [1]}, {"scaler": 3},
    {"norms": "x"}, {"final": {}}, {"optimizer": {"@dict": []}},
    {"optimizer": {"@dict": [["optimizers", 1], ["like", 2], ["groups", []]]}},
]  # fmt: skip


@pytest.mark.faults(23)
def test_a_state_that_cannot_be_gone_on_from_is_one_line(shell: Shell) -> None:
    assert shell("train", *WSD_RUN, "train.steps=10", "train.stop_after=5") == 0
    (folder,) = steps_on_disk(by_steps(shell)[10] / "checkpoints")
    state = json.loads((folder / "state.json").read_text())
    for change in WRONG_STATES:
        vouch(folder, state=json.dumps(state | change).encode())
        assert shell("train", *WSD_RUN, "train.steps=10") == 4, change
        assert "Traceback" not in shell.err, change
        assert shell.err.splitlines()[-1].startswith("error: "), change
