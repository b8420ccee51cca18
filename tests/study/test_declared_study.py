"""A declared study by its one command: all of it, again, killed, changed, refused."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import slurm
from declared import OF_OPTIMIZERS, arguments, command, undisturbed
from runs import Shell

from minigpt.compare.__main__ import main as compare

# A study of well under a minute: 12 tuning runs of 4 steps, 8 pairs at two budgets.
STUDY = (
    OF_OPTIMIZERS
    + """\
  tune:
    over: {optim.lr_scale: [0.5, 1, 2]}
    seeds: [0, 1]
    extend: 1
  confirm: {first_seed: 100, looks: [2, 3]}
"""
)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return arguments(tmp_path_factory.mktemp("declared"), STUDY)


@dataclass
class Study:
    """A study that nothing disturbed. out, err: what its command printed."""

    output: Path
    out: str
    err: str

    @property
    def verdict(self) -> str:
        """Without the last line, which names the folder."""
        return self.out.rpartition("\nreport ")[0]


@pytest.fixture(scope="module")
def whole(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("whole")
    return Study(folder / "outputs", *undisturbed([*typed, "hydra/launcher=basic"], folder))


@pytest.fixture
def again(whole: Study, tmp_path: Path) -> Path:
    """A copy of the study, where the shell looks for runs."""
    shutil.copytree(whole.output, tmp_path / "outputs")
    return tmp_path / "outputs"


def decisions(output: Path) -> list[dict[str, Any]]:
    """The journal without its clock."""
    text = (output / "studies" / "small_study" / "journal.jsonl").read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in entry.items() if k != "time"} for entry in entries]


def losses(output: Path) -> dict[str, float]:
    return {
        path.parent.name: json.loads(path.read_text())["val_loss"]
        for path in output.glob("*/summary.json")
    }


def test_one_command_does_everything(whole: Study) -> None:
    assert re.search(r"^\[\?\] muon against adamw_by_role: .* 3 pairs", whole.out, re.MULTILINE)
    assert "small_study  tune  12 of 12 done" in whole.err
    assert "[HYDRA]" not in whole.err
    taken = [entry["what"] for entry in decisions(whole.output)]
    assert taken.count("choose") == 2
    assert taken[-2:] == ["look", "look"]
    assert len(losses(whole.output)) >= 12 + 2 * 2 * 3
    report = whole.output / "studies" / "small_study" / "report"
    names = {path.name for path in report.iterdir()}
    assert {"report.html", "report.md", "report.json", "results.csv", "forest.png"} <= names


def test_results_are_tidy_and_complete(whole: Study) -> None:
    """One row a run, and the figures of the report follow from them."""
    report = whole.output / "studies" / "small_study" / "report"
    with (report / "results.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == len({row["run"] for row in found}) == len(losses(whole.output))
    judged = {
        arm: {
            int(row["seed"]): float(row["val_loss"])
            for row in found
            if (row["phase"], row["optim"], row["train.steps"]) == ("confirm", arm, "4")
        }
        for arm in ("muon", "adamw_by_role")
    }
    pairs = [judged["muon"][seed] - judged["adamw_by_role"][seed] for seed in (100, 101, 102)]
    facts = json.loads((report / "report.json").read_text())
    finding = facts["cells"][0]["findings"]["muon"]
    assert finding["interval"]["mean"] == pytest.approx(sum(pairs) / 3)


def test_a_run_of_it_can_be_typed_alone(again: Path, shell: Shell, typed: list[str]) -> None:
    for record in (json.loads(path.read_text()) for path in again.glob("*/run.json")):
        assert record["study"] == "small_study"
    assert not any(part.startswith("output_dir") for part in record["overrides"][-4:])
    alone = [part for part in record["overrides"] if not part.startswith("output_dir=")]
    assert shell("train", typed[2], *alone, f"data_dir={typed[-1].partition('=')[2]}") == 0
    assert "already finished" in shell.err


def test_typed_again_it_answers(again: Path, whole: Study, shell: Shell, typed: list[str]) -> None:
    before = losses(again)
    assert shell("train", *typed, f"output_dir={again}") == 0, shell.err
    assert shell.out.startswith(whole.verdict)
    assert losses(again) == before
    assert decisions(again) == decisions(whole.output)


def test_compare_reads_it(
    again: Path, whole: Study, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The verdict needs no --by, and what lies in the folder beside it moves nothing."""
    stray = next(again.glob("*adamw*/run.json")).parent
    shutil.copytree(stray, again / f"{stray.name}-stray")
    assert compare([str(again), "--study", "small_study", "--out", str(tmp_path / "rep")]) == 0
    assert capsys.readouterr().out.startswith(whole.verdict)
    assert (tmp_path / "rep" / "report.html").is_file()


def test_compare_names_what_is_missing(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = next(
        path.parent
        for path in again.glob("*muon*/run.json")
        if "seed=102" in json.loads(path.read_text())["overrides"]
    )
    shutil.rmtree(gone)
    assert compare([str(again), "--study", "small_study"]) == 1
    said = capsys.readouterr().err
    assert "unfinished: confirm 3 pairs: 1 of" in said
    assert "seed 102: not begun" in said


@pytest.mark.parametrize(
    ("launcher", "kills"),
    [
        ("joblib", 1),
        pytest.param("basic", 10, marks=pytest.mark.slow),
        pytest.param("joblib", 10, marks=pytest.mark.slow),
        pytest.param("slurm", 10, marks=pytest.mark.slow),
    ],
)
def test_killed_and_typed_again(
    typed: list[str], whole: Study, tmp_path: Path, launcher: str, kills: int
) -> None:
    """Same decisions, same runs, same verdict as a study that nothing disturbed.

    Jobs that Slurm has go on without the command.
    """
    output = tmp_path / "outputs"
    typed_again = command(typed, output, f"hydra/launcher={launcher}")
    draw = random.Random(f"{launcher} {kills}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if launcher == "slurm":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        environment["PATH"] = f"{slurm.install(tmp_path / 'slurm')}:{environment['PATH']}"
        typed_again.append("hydra.launcher.partition=debug")
    for ended in sorted(draw.sample(range(len(losses(whole.output))), kills)):
        with subprocess.Popen(
            typed_again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        ) as process:  # fmt: skip
            while process.poll() is None and len(losses(output)) <= ended:
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 0.5))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    done = subprocess.run(typed_again, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert decisions(output) == decisions(whole.output)
    assert losses(output) == losses(whole.output)
    shown = done.stdout.rpartition("\nreport ")[0]
    assert without_clock(shown) == without_clock(whole.verdict)


@pytest.mark.slow
def test_on_slurm_it_comes_to_the_same(typed: list[str], whole: Study, tmp_path: Path) -> None:
    """Each phase is an array of its own; the journal is that of the basic launcher."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    commands = slurm.install(tmp_path / "slurm")
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
    output = tmp_path / "outputs"
    on_slurm = command(typed, output, "hydra/launcher=slurm", "hydra.launcher.partition=debug")
    done = subprocess.run(on_slurm, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert decisions(output) == decisions(whole.output)
    assert losses(output) == losses(whole.output)
    assert without_clock(done.stdout.rpartition("\nreport ")[0]) == without_clock(whole.verdict)
    scripts = sorted((tmp_path / "slurm" / "state").glob("script_*.sh"))
    jobs = [re.search(r"--array=0-(\d+)", script.read_text()) for script in scripts]
    phases = re.findall(r"^small_study  .*  (\d+) jobs$", done.stderr, re.MULTILINE)
    assert [int(found[1]) + 1 for found in jobs if found] == [int(phase) for phase in phases]


@pytest.mark.slow
def test_on_a_local_ray_it_comes_to_the_same(
    typed: list[str], whole: Study, tmp_path: Path
) -> None:
    reason = "needs the extra: pip install hydra-ray-launcher"
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason=reason)
    output = tmp_path / "outputs"
    on_ray = command(typed, output, "hydra/launcher=ray")
    done = subprocess.run(on_ray, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert decisions(output) == decisions(whole.output)
    assert losses(output) == losses(whole.output)


def without_clock(report: str) -> str:
    """A report without its seconds, and without the room that they take."""
    clock = r"^ +\w+ +seconds |^  - (no )?seconds"
    lines = [line for line in report.splitlines() if not re.search(clock, line)]
    return re.sub(r", [\d.]+x seconds| {2,}|; [\d-]+ [\d:]+ by", "", "\n".join(lines))


def test_the_plan_runs_nothing(shell: Shell, typed: list[str]) -> None:
    assert shell("train", *typed, "dry_run=true") == 0, shell.err
    assert re.search(r"^tune, a grid, 2 seeds +12 ", shell.out, re.MULTILINE)
    assert re.search(r"^confirm, 2 pairs +8 ", shell.out, re.MULTILINE)
    assert "power       unknown" in shell.out
    assert "No look can claim anything: a claim needs 8 pairs" in shell.out
    assert not (shell.folder / "outputs").exists()


def test_the_plan_tells_what_has_ended(again: Path, shell: Shell, typed: list[str]) -> None:
    judged = [
        path.parent
        for path in again.glob("*/run.json")
        if "seed=10" in " ".join(json.loads(path.read_text())["overrides"])
    ]
    for folder in judged[:3]:
        shutil.rmtree(folder)
    assert shell("train", *typed, f"output_dir={again}", "dry_run=true") == 0, shell.err
    assert "so far      ended" in shell.out
    rows = re.findall(r"^(?:tune|confirm|until)\D+\d.*?  +(\d+) +(\d+) +([\d,]+) ", shell.out, re.M)
    left = sum(int(runs) - int(ended) for runs, ended, _ in rows)
    assert left == 3, shell.out
    assert sum(int(tokens.replace(",", "")) for *_, tokens in rows) in range(3 * 2 * 64, 12 * 65)


def test_a_misspelt_key_of_a_file_is_one_line(
    shell: Shell, typed: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "small_study.yaml").write_text(STUDY.replace("extend: 1", "extnd: 1"))
    others = [part for part in typed if not part.startswith("--config-dir")]
    assert shell("train", *others, f"--config-dir={tmp_path / 'mine'}") == 2
    assert "unknown key: verdict.tune.extnd in" in shell.err
    assert "small_study.yaml (did you mean verdict.tune.extend?)" in shell.err
    assert len(shell.err.splitlines()) == 1


def test_the_plan_shows_cells_as_they_are_typed(shell: Shell, typed: list[str]) -> None:
    cells = "+verdict.cells={train.batch_size:[2,4],model.qk_norm:[true,false]}"
    assert shell("train", *typed, "dry_run=true", "verdict.confirm.looks=[8]", cells) == 0
    shown = "cells       4: train.batch_size = 2, 4; model.qk_norm = true, false"
    assert shown in shell.out.splitlines()
    assert "No look can claim" not in shell.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["verdict.arms=[muon,adam]", "verdict.baseline=muon"], "adam"),
        (["schedule.warmup=3"], "warmup"),
        (["verdict.margin=null"], "missing value: verdict.margin"),
        (["verdict.metric=val_los"], "no such metric: verdict.metric=val_los: the model has"),
        (["+verdict.cells={model.n_heads:[4,5]}"], "model.n_heads=5"),
        (
            ["verdict.cells={model.n_heads:[4,5]}"],
            "new entry: verdict.cells={model.n_heads:[4,5]} (to add it write +verdict.cells=",
        ),
        (["verdict.tune.over={}"], "not replaced: verdict.tune.over={}: optim.lr_scale of the exp"),
        (["seed=0,1"], "not of a declared study: seed=0,1"),
        (["optim.lr_scale=3"], "not of a declared study: optim.lr_scale=3"),
        (["verdict.by=model.d_ffx"], "d_ffx"),
        (["verdict.by=train.threads", "verdict.arms=[1,2]", "verdict.baseline=1"], "the same run"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    shell: Shell, typed: list[str], changes: list[str], words: str
) -> None:
    assert shell("train", *typed, *changes) == 2, shell.err
    assert words in shell.err
    assert "Traceback" not in shell.err
    assert not (shell.folder / "outputs").exists()


def test_a_study_without_m_says_so(shell: Shell, typed: list[str]) -> None:
    assert shell("train", *typed[1:]) == 2
    assert "add -m" in shell.err


def test_a_changed_declaration_is_refused(again: Path, shell: Shell, typed: list[str]) -> None:
    here = [*typed, f"output_dir={again}"]
    assert shell("train", *here, "verdict.margin=0.5", "dry_run=true") == 2
    assert "verdict.margin: 0.01 -> 0.5" in shell.err
    assert shell("train", *here, "schedule.warmup=1") == 2
    assert "run.muon.schedule.warmup" in shell.err
    assert shell("train", *here, "verdict.margin=0.5", "verdict.amend=a larger margin") == 0
    assert "a larger margin" in shell.out
    assert "Declared before the first run, amended since (" in shell.out
