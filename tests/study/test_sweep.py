"""Sweeps: resumable, extendable, with a record before the first job and a table after the last."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import SMALL, Shell

from minigpt import interrupt
from minigpt.cli import composition
from minigpt.cli.process import set_up_process
from minigpt.config import schema
from minigpt.config.plan import plan_of
from minigpt.errors import Stopped
from minigpt.study import find, sweep
from minigpt.study.jobs import Planner, jobs_of, shortest_first
from minigpt.study.run import weak_runs

QUICK = [*SMALL, "train.steps=2", "eval.every=null"]


def records(shell: Shell) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text())
        for path in sorted((shell.folder / "outputs" / "sweeps").glob("*.json"))
    ]


def table(shell: Shell) -> list[list[str]]:
    """The cells of the table, without its header."""
    lines = shell.err.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("job  "))
    rows = lines[begin + 1 :]
    assert rows.pop().startswith("record: ")
    return [row.split() for row in rows]


def finished(shell: Shell) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns for path in (shell.folder / "outputs").glob("*/summary.json")
    }


def test_the_record_stands_before_the_first_job_and_knows_each_folder_after_the_last(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = sweep.Sweep.__call__

    def look(self: sweep.Sweep, cfg: Any) -> Any:
        seen.append(records(shell)[0])
        return real(self, cfg)

    monkeypatch.setattr(sweep.Sweep, "__call__", look)
    command = ["-m", *QUICK, "optim=muon,adamw", "seed=0,1", "study=a question"]
    assert shell("train", *command) == 0, shell.err
    first = seen[0]
    assert (first["schema"], first["study"]) == (1, "a question")
    assert first["command"][-3:] == command[-3:]
    assert all(
        job["folder"].rpartition("-")[0].endswith(f"-s{i % 2}")
        for i, job in enumerate(first["jobs"])
    )
    asked = [
        [o for o in job["overrides"] if o.startswith(("optim=", "seed="))] for job in first["jobs"]
    ]
    assert asked == [[f"optim={o}", f"seed={s}"] for o in ("muon", "adamw") for s in (0, 1)]
    (last,) = records(shell)
    runs = {
        path.parent.name: json.loads(path.read_text())
        for path in (shell.folder / "outputs").glob("*/run.json")
    }
    assert sorted(job["folder"] for job in last["jobs"]) == sorted(runs)
    assert all(runs[job["folder"]]["overrides"] == job["overrides"] for job in last["jobs"])
    seen.clear()
    assert shell("train", *command) == 0
    assert not seen, "finished jobs answer without Hydra"
    assert records(shell) == [last]
    assert [path.name[:11] for path in (shell.folder / "outputs" / "sweeps").glob("*.json")] == [
        "a_question-"
    ]
    assert table(shell)[0][:3] == ["optim=muon", "seed=0", "done"]


def test_a_longer_list_runs_only_what_is_new(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    real = sweep.Sweep.__call__

    def seen(self: sweep.Sweep, cfg: Any) -> Any:
        launched.append(cfg.seed)
        return real(self, cfg)

    monkeypatch.setattr(sweep.Sweep, "__call__", seen)
    assert shell("train", "-m", *QUICK, "seed=0,1") == 0
    before = finished(shell)
    (manifest,) = (shell.folder / "tokens").glob("*/manifest.json")
    prepared = manifest.stat().st_mtime_ns
    assert shell("train", "-m", *QUICK, "seed=0,1,2") == 0
    after = finished(shell)
    assert len(after) == 3
    assert {path: after[path] for path in before} == before
    assert shell.err.count("already finished") == 2
    assert launched == [0, 1, 2]
    assert [row[1] for row in table(shell)] == ["done"] * 3
    assert manifest.stat().st_mtime_ns == prepared, "the tokens of all jobs"


def test_the_plans_of_jobs_are_those_that_hydra_composes(tmp_path: Path) -> None:
    """Values, groups, nulls and lists; the identity of each job is that of the job alone."""
    set_up_process()
    schema.register()

    def compose(overrides: list[str]) -> Any:
        return composition.compose("train", overrides, None, lambda cfg: None)

    shared = [*QUICK, f"output_dir={tmp_path}"]
    axes = ["optim=muon,adamw", "optim.lr_scale=0.5,1", "eval.every=null,2"]
    axes += ["checkpoint.at=[1],[1,2]", "model.dropout=0,0.1"]
    first = compose([*shared, *(axis.partition(",")[0] for axis in axes[:2])])
    jobs = jobs_of(first, [*shared, *axes])
    assert len(jobs) == 32
    found = list(Planner(first, compose, shared).plans(jobs))
    for job, planned in list(zip(jobs, found, strict=True))[::6]:
        assert planned == plan_of(compose(job))


def test_a_failing_job_leaves_its_traceback_and_failed_json_and_is_tried_again(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minigpt.train import run

    real = run.evaluate

    def broken(*arguments: Any, **options: Any) -> Any:
        # the second job
        if len(finished(shell)) == 1 and not list((shell.folder / "outputs").glob("*/failed.json")):
            raise RuntimeError("a bug in an evaluation")
        return real(*arguments, **options)

    monkeypatch.setattr(run, "evaluate", broken)
    command = ["-m", *QUICK, "seed=0,1,2"]
    assert shell("train", *command) == 1
    assert "RuntimeError: a bug in an evaluation" in shell.err
    (failed,) = (shell.folder / "outputs").glob("*/failed.json")
    content = json.loads(failed.read_text())
    assert content.keys() == {"error", "exit_code", "time"}
    assert (content["error"], content["exit_code"]) == ("RuntimeError: a bug in an evaluation", 1)
    log = (failed.parent / "train.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert log.rstrip().endswith("RuntimeError: a bug in an evaluation")
    rows = table(shell)
    assert [row[1] for row in rows] == ["done", "failed", "done"]
    assert rows[1][2:] == ["(1)", failed.parent.name]
    monkeypatch.setattr(run, "evaluate", real)
    assert shell("train", *command) == 0, shell.err
    assert not failed.exists()
    assert [row[1] for row in table(shell)] == ["done"] * 3


def test_a_stop_is_heard_while_jobs_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them take minutes."""
    monkeypatch.setattr(interrupt, "_received", [signal.SIGTERM])
    nothing: Any = SimpleNamespace(hydra=SimpleNamespace(runtime=SimpleNamespace(choices={})))
    with pytest.raises(Stopped, match="nothing was trained"):
        next(Planner(nothing, pytest.fail, ()).plans([["seed=1"]]))


def test_a_refused_job_and_a_diverged_one_have_their_rows_and_the_others_run(shell: Shell) -> None:
    bad = ["optim=adamw", "train.grad_clip=null", "train.max_bad_steps=2", "train.steps=6"]
    assert shell("train", "-m", *QUICK, *bad, "optim.lr=1e-5,1e30") == 5
    assert [row[1] for row in table(shell)] == ["done", "diverged"]
    assert "worse than the unigram model of its own corpus: " in shell.out
    assert table(shell)[0][3:6] == ["(worse", "than", "unigram:"]
    path = next(p for p in finished(shell) if "diverged" not in p.read_text())
    summary = json.loads(path.read_text())
    assert summary["worse_than_unigram"]
    (weak,) = weak_runs([find.read_run(path.parent)])
    assert f"{summary['val_loss']:.4g} against {summary['unigram_loss']:.4g}" in weak
    assert not list((shell.folder / "outputs").glob("*/failed.json"))
    assert shell("train", "-m", *QUICK, "optim=muon,adamw", "optim.hidden.momentum=0.9") == 2
    assert (
        "warning: 1 of 2 jobs cannot work as it stands, the first of them: optim=adamw\n"
        in (shell.err.partition("loss")[0])
    )
    assert [row[1] for row in table(shell)] == ["done", "failed"]
    assert "unknown key: optim.hidden.momentum" in " ".join(table(shell)[1])
    refused = [job for record in records(shell) for job in record["jobs"] if "failed" in job]
    assert {job["failed"]["exit_code"] for job in refused} == {2}


@pytest.mark.faults(27)
def test_changed_code_stops_the_whole_sweep_before_any_job_trains(shell: Shell) -> None:
    command = ["-m", *QUICK, "study=s"]
    assert shell("train", *command, "seed=0,1") == 0, shell.err
    for path in (shell.folder / "outputs").glob("*-s0-*/run.json"):
        record = json.loads(path.read_text())
        record["source"]["minigpt.train.loop"] = "something else"
        record["versions"]["torch"] = "0.1"
        path.write_text(json.dumps(record))
    before, known = finished(shell), records(shell)
    assert shell("train", *command, "hydra/launcher=joblib", "seed=0,1,2,3") == 4
    assert shell.err.count("code changed: minigpt/train/loop.py") == 1
    assert "changed since 1 of 4 jobs began" in shell.err
    assert shell.err.count("torch version: 0.1 -> ") == 1
    for way_out in ("accept_changes=true", "attempt=2", "study=", "by: code"):
        assert way_out in shell.err
    loss = json.loads((path.parent / "summary.json").read_text())["val_loss"]
    row, *others = [line.split() for line in shell.err.splitlines() if line.startswith("seed=")]
    assert row[:5] == ["seed=0", "finished,", "code", "changed", f"{loss:.4f}"]
    assert [other[1] for other in others] == ["done", "not", "not"]
    assert finished(shell) == before
    assert records(shell) == known, "what was refused is no part of the study"
    assert shell("train", *command, "seed=0,1,2", "accept_changes=true") == 0, shell.err
    assert [row[1] for row in table(shell)] == ["finished,", "done", "done"]
    assert len(finished(shell)) == 3


def test_an_experiment_that_is_a_sweep_needs_the_m(shell: Shell) -> None:
    (shell.folder / "conf" / "experiment").mkdir(parents=True)
    (shell.folder / "conf" / "experiment" / "lrs.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      optim.lr: 0.01,0.02\n"
    )
    command = [f"hydra.searchpath=[file://{shell.folder / 'conf'}]", *QUICK, "experiment=lrs"]
    assert shell("train", *command) == 2
    assert "add -m" in shell.err
    assert shell("train", "-m", *command) == 0, shell.err
    (record,) = records(shell)
    assert record["study"] == "lrs"
    assert [job["overrides"][0] for job in record["jobs"]] == ["optim.lr=0.01", "optim.lr=0.02"]


def test_dry_run_of_a_sweep_leaves_nothing(shell: Shell) -> None:
    assert shell("train", "-m", *QUICK, "seed=0,1", "dry_run=true") == 0, shell.err
    assert [path.name for path in (shell.folder / "outputs").iterdir()] == ["multirun.yaml"]


def test_budgets_come_first_and_in_ascending_order() -> None:
    assert shortest_first(["seed=0,1", "train.steps=400,100,1_000"]) == [
        "train.steps=100,400,1000",
        "seed=0,1",
    ]
    assert shortest_first(["train.steps=9,3", "seed=0,1", "train.steps=8,2"]) == [
        "train.steps=2,8",
        "seed=0,1",
    ]
    for left_alone in (
        ["seed=1,0", "train.steps=100"],
        ["train.epochs=null,3", "seed=0"],
        ["train.steps=6,3", "train.steps=4"],
    ):
        assert shortest_first(left_alone) == left_alone
    assert shortest_first(["x=1", "train.epochs=choice(2,0.5)"]) == ["train.epochs=0.5,2", "x=1"]


def test_the_other_scripts_have_a_table_and_no_record(shell: Shell) -> None:
    assert shell("train", *QUICK) == 0
    run = shell.run_folder()
    assert (
        shell(
            "generate",
            "-m",
            f"run={run}",
            "max_new_tokens=3",
            "seed=0,1",
            f"hydra.sweep.dir={shell.folder}",
        )
        == 0
    )
    assert [line.split() for line in shell.err.splitlines()[-2:]] == [
        ["seed=0", "done"],
        ["seed=1", "done"],
    ]
    assert not (shell.folder / "outputs" / "sweeps").exists()


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
def test_hydras_own_values_can_be_used(shell: Shell, mode: list[str]) -> None:
    assert shell("train", *mode, "dry_run=true", "name=${hydra:runtime.choices.optim}") == 0, (
        shell.err
    )
    assert "muon-" in shell.out


@pytest.mark.faults(50)
def test_control_sequences_reach_the_table_only_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    multirun = sweep.Sweep(lambda cfg: None, lambda: None, lambda error: None)
    failed = {"error": "\x1b]0;owned\x07", "exit_code": 2}
    multirun.jobs = [{"overrides": ["study=\x1b[2J"], "folder": None, "failed": failed}]
    assert multirun.finish() == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert r"study=\x1b[2J" in said


def test_a_job_that_goes_back_to_the_queue_is_run_again() -> None:
    """submitit pickles the task in the worker that was stopped; joblib where it was begun."""
    task = sweep.Sweep(print, print, print)
    interrupt._received.append(signal.SIGUSR2)
    try:
        handed_over = task.__getstate__()
        task.in_worker = True
        queued_again = task.__getstate__()
    finally:
        interrupt.clear()
    assert handed_over["stopped"]
    assert not queued_again["stopped"]
