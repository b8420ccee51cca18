"""What belongs to a study: its sweeps' runs and those asked for under its name, whoever trained
them first.
"""

import ctypes
import json
import os
import platform
import shutil
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import Fork
from runs import SMALL, Shell
from studies import Compare, Study

from minigpt.compare.__main__ import main as compare_main
from minigpt.compare.groups import group_runs
from minigpt.compare.question import Question
from minigpt.run.folder import RunFolder
from minigpt.study import record
from minigpt.study.find import find
from minigpt.study.run import Run
from minigpt.study.select import select

QUICK = [*SMALL, "train.steps=2", "eval.every=null"]


def members(output: Path, study: str) -> list[str]:
    return sorted(run.name for run in select(find([output]).runs, study, []))


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def status(shell: Shell, *arguments: str) -> str:
    assert compare_main([str(shell.folder / "outputs"), "--status", *arguments]) == 0
    return shell.capfd.readouterr().out


def test_a_run_belongs_to_every_study_whose_sweep_asked_for_it(shell: Shell) -> None:
    axes = ["optim=muon,adamw", "seed=0"]
    assert shell("train", *QUICK, "optim=adamw", "optim.lr_scale=4") == 0  # of no study
    assert shell("train", "-m", *QUICK, *axes, "optim.lr_scale=1", "study=pilot") == 0, shell.err
    pilots = members(shell.folder / "outputs", "pilot")
    before = {name: files(shell.folder / "outputs" / name) for name in pilots}
    assert shell("train", "-m", *QUICK, *axes, "optim.lr_scale=1,4", "study=main") == 0, shell.err
    assert len(pilots) == 2
    assert members(shell.folder / "outputs", "pilot") == pilots
    assert len(members(shell.folder / "outputs", "main")) == 4
    assert set(pilots) < set(members(shell.folder / "outputs", "main"))
    assert {name: files(shell.folder / "outputs" / name) for name in pilots} == before
    assert compare_main([str(shell.folder / "outputs"), "--by", "optim", "--study", "main"]) == 0
    text = shell.capfd.readouterr().out
    assert "untuned" not in text
    assert "adamw against muon" in text, "the arm that was typed first is the baseline"
    runs = select(find([shell.folder / "outputs"]).runs, "pilot", [])
    assert {"; ".join(run.studies) for run in runs} == {"pilot; main"}
    assert "4 jobs: 4 done" in status(shell, "--study", "main")
    by_path = [shell.folder / "outputs" / name for name in pilots]
    assert len(select(find(by_path).runs, "main", [])) == 2, "also where the paths name single runs"
    assert len(select(find(by_path).runs, None, ["study=main"])) == 2


@pytest.mark.parametrize("ended", [True, False], ids=["finished", "unfinished"])
def test_a_single_run_asked_for_under_another_study_joins_it(shell: Shell, ended: bool) -> None:
    stop = [] if ended else ["train.stop_after=1"]
    assert shell("train", *QUICK, "study=first", *stop) == 0, shell.err
    run = shell.run_folder()
    before = files(run)
    for study in ("second", "second", "first", "a third one"):
        assert shell("train", *QUICK, f"study={study}", *stop) == 0, shell.err
    if ended:
        assert files(run) == before, "a finished run is answered for, its files stay as they are"
    for study in ("first", "second", "a third one"):
        assert members(shell.folder / "outputs", study) == [run.name]
    assert json.loads((run / "run.json").read_text())["study"] == "first"
    assert len(record.sweeps_in(shell.folder / "outputs")) == 2
    assert "1 job: 1 " in status(shell, "--study", "second")
    assert status(shell).count("1 job") == 2


def test_a_sweep_over_experiments_gives_each_run_its_own_study(shell: Shell) -> None:
    folder = shell.folder / "conf" / "experiment"
    folder.mkdir(parents=True)
    for name, lr in (("low", 0.5), ("high", 2)):
        (folder / f"{name}.yaml").write_text(f"# @package _global_\noptim:\n  lr_scale: {lr}\n")
    search = f"hydra.searchpath=[file://{shell.folder / 'conf'}]"
    assert shell("train", "-m", search, *QUICK, "experiment=low,high") == 0, shell.err
    assert ["high" in name for name in members(shell.folder / "outputs", "high")] == [True]
    assert ["low" in name for name in members(shell.folder / "outputs", "low")] == [True]
    assert "1 job: 1 done" in status(shell, "--study", "high")


def test_an_older_and_shorter_sweep_is_done_when_a_longer_one_has_done_its_jobs(
    shell: Shell,
) -> None:
    """The first sweep is killed by a job that ends the process; the second one types the same in
    another order.
    """
    assert shell("train", "-m", *QUICK, "seed=0,1", "study=s", "train.stop_after=1") == 0
    assert shell.err.count("unfinished, saved at step 1") == 2
    (gone,) = (shell.folder / "outputs").glob("*-s1-*")
    shutil.rmtree(gone)  # as if it had been killed before this one began
    assert "2 jobs: 1 interrupted, 1 waiting" in status(shell)
    assert shell("train", "-m", "seed=0,1,2", *QUICK, "study=s") == 0, shell.err
    assert shell.err.count("resuming at step 1 of 2") == 1
    shown = status(shell)
    assert "2 jobs: 2 done" in shown
    assert "3 jobs: 3 done" in shown
    assert "waiting" not in shown


def test_code_that_changed_after_the_end_is_a_state_with_a_loss(
    study: Study, compare: Compare
) -> None:
    for seed, now in ((0, {"minigpt.train.loop": "something else"}), (1, {})):
        record = {"source": now, "overrides": ["optim=muon", f"seed={seed}"]}
        study.run("muon", seed, 4.0, record=record)
    assert compare("--status") == 0, compare.err
    assert "2 jobs: 1 done, 1 finished (code changed)" in compare.out
    said = "finished (code changed)  seed=0  loss 4.0000  (minigpt/train/loop.py)"
    assert said in compare.out


def test_where_names_a_value_that_no_run_has(study: Study, compare: Compare) -> None:
    for arm in ("muon", "adamw"):
        study.run(arm, 0, 4.0)
    for condition in ("study=nope", "optim=sgd"):
        assert compare("--by", "optim", "--where", condition) == 2
        assert "--by" not in compare.err
        assert condition.replace("study=", "--study ") in compare.err
        known = "there are: s)" if condition[0] == "s" else "there are: adamw, muon)"
        assert known in compare.err


def test_the_baseline_is_the_arm_that_was_typed_first(study: Study) -> None:
    lrs = {"muon": 0.02, "adamw": 0.02, "sgd": 0.03}
    names = {arm: study.run(arm, 0, 4.0, lr=lr).name for arm, lr in lrs.items()}

    def first_typed() -> str:
        return group_runs(Question("optim"), find([study.folder]).runs).several[0].first_typed

    for arm in names:
        recorded(study, [arm], names)
    assert first_typed() == "muon", "that of the oldest run, where no sweep holds two arms"
    recorded(study, ["sgd", "muon", "adamw"], names)
    assert first_typed() == "sgd", "the sweep with most arms"


def recorded(study: Study, arms: list[str], names: dict[str, str]) -> None:
    """The record of a sweep over these arms."""
    command = [f"optim={','.join(arms)}"]
    with record.changing(record.path_of(study.folder, None, command), None, command) as jobs:
        jobs += ({"overrides": [f"optim={arm}"], "folder": names[arm]} for arm in arms)


def stand_still() -> None:
    """In the first job, once its folder is begun."""
    really = RunFolder.begin

    def begin(self: RunFolder, *arguments: Any, **options: Any) -> None:
        really(self, *arguments, **options)
        if self.plan.config["seed"] == 0:
            os.kill(os.getpid(), signal.SIGSTOP)

    RunFolder.begin = begin  # type: ignore[method-assign]


@pytest.mark.faults(15)
def test_the_same_sweep_twice_at_once_shares_the_jobs_and_both_say_done(tmp_path: Path) -> None:
    """The first process stands still in its first job while the second one does the other."""
    command = ["-m", *QUICK, "seed=0,1"]
    one = Fork(tmp_path, *command, first=stand_still)
    stopped = os.waitid(os.P_PID, one.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert stopped is not None
    assert stopped.si_code == os.CLD_STOPPED
    two = Fork(tmp_path, *command)
    assert two.end() == 7, two.err
    rows = [line for line in two.err.splitlines() if line.startswith("seed=")]
    assert rows[0].split()[1:3] == ["running", "elsewhere"]
    assert rows[1].split()[1] == "done"
    assert "failed" not in two.err
    os.kill(one.pid, signal.SIGCONT)
    assert one.end() == 0, one.err
    rows = [line for line in one.err.splitlines() if line.startswith("seed=")]
    assert [row.split()[1] for row in rows] == ["done", "done"]
    assert len(list((tmp_path / "outputs").glob("*/summary.json"))) == 2


def have_no_locks() -> None:
    """The kernel refuses fcntl(_, F_SETLK or F_SETLKW, _) with ENOLCK, as a network file system
    without its lock service does. It is a filter for system calls (seccomp), which this process
    and its children cannot take off again.
    """

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    program = b"".join([
        step(0x20, 0, 0, 0), step(0x15, 0, 4, 72),  # the system call is fcntl
        step(0x20, 0, 0, 24), step(0x15, 1, 0, 6), step(0x15, 0, 1, 7),  # its command takes a lock
        step(0x06, 0, 0, 0x00050000 | 37), step(0x06, 0, 0, 0x7FFF0000),
    ])  # fmt: skip
    libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(program)
    wanted = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, wanted, 0, 0) == 0


@pytest.mark.faults(14)
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="a filter of its system calls"
)
def test_without_locks_a_sweep_is_refused_as_a_run_is(tmp_path: Path) -> None:
    for arguments in (["-m", *QUICK, "seed=0,1"], QUICK):
        refused = Fork(tmp_path, *arguments, first=have_no_locks)
        assert refused.end() == 6, refused.err
        assert refused.err.count("error: ") == 1
        assert "No locks available" in refused.err
        assert "Traceback" not in refused.err
    assert not list((tmp_path / "outputs").glob("*/run.json"))


def test_records_of_others_name_no_folder_outside_and_hold_nothing_if_they_are_damaged(
    study: Study,
) -> None:
    name = study.run("muon", 0, 4.0, study=None).name
    folder = study.folder / "sweeps"
    folder.mkdir()
    good = {"overrides": [], "folder": name}
    content = {"schema": 1, "study": "s", "command": []}
    for number, jobs in enumerate(
        ([{**good, "folder": f"../outputs/{name}"}], [good, {"folder": name}], [good, 7], 7)
    ):
        (folder / f"s-{number}.json").write_text(json.dumps(content | {"jobs": jobs}))
    assert record.places_in(study.folder) == {}
    (folder / "s-9.json").write_text(json.dumps(content | {"jobs": [good]}))
    assert members(study.folder, "s") == [name]


def test_a_run_knows_its_studies_in_the_order_in_which_it_joined_them(tmp_path: Path) -> None:
    places = tuple(record.Place(tmp_path, 0, study) for study in ("b", "a", None, "b"))
    run: Any = Run(tmp_path, {"study": "a"}, {}, places=places)
    assert run.studies == ["a", "b"]
