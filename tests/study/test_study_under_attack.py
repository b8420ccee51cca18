"""A declared study whose files were lost, changed or swapped: told in one line, never judged."""

import errno
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from declared import OF_OPTIMIZERS, arguments, command, declared, undisturbed
from processes import locked
from runs import Shell

from minigpt.compare.__main__ import main as compare
from minigpt.errors import BusyError, StorageError
from minigpt.files import durable
from minigpt.study.declaration_file import study_folder
from minigpt.study.journal import Journal

# 4 tuning runs of 4 steps, 3 pairs at two budgets.
STUDY = (
    OF_OPTIMIZERS
    + """\
  tune:
    over: {optim.lr_scale: [0.5, 1]}
    seeds: [0]
    method: grid
    extend: 0
  confirm: {first_seed: 100, looks: [2, 3]}
"""
)
JUDGED = "*-muon-*-lr_scale1-s101-steps4-*"  # one of the runs that judge


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*arguments(tmp_path_factory.mktemp("attacked"), STUDY), "hydra/launcher=basic"]


@pytest.fixture(scope="module")
def whole(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a study that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    undisturbed(typed, folder)
    return folder / "outputs"


@pytest.fixture
def output(whole: Path, shell: Shell) -> Path:
    """A copy of them, where the shell looks for runs."""
    shutil.copytree(whole, shell.folder / "outputs")
    return shell.folder / "outputs"


def place(output: Path, name: str) -> Path:
    return output / "studies" / "small_study" / name


def one(output: Path, pattern: str = JUDGED) -> Path:
    (found,) = output.glob(pattern)
    return found


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def refused_by_both(
    shell: Shell, typed: list[str], output: Path, words: str, codes: tuple[int, int] = (4, 4)
) -> None:
    """Its command and `compare --study` say so in one line each, and judge nothing."""
    assert shell("train", *typed) == codes[0], shell.err
    assert words in shell.err
    assert "Traceback" not in shell.err
    assert "against" not in shell.out
    assert compare([str(output), "--study", "small_study"]) == codes[1]
    out, err = shell.capfd.readouterr()
    assert words in err
    assert not out


def test_a_changed_declaration(output: Path, shell: Shell, typed: list[str]) -> None:
    edit(place(output, "declaration.yaml"), "margin: 0.01", "margin: 0.001")
    refused_by_both(shell, typed, output, "its hash is another one")


def test_a_lost_declaration_is_not_made_again(output: Path, shell: Shell, typed: list[str]) -> None:
    """Else its margin could be chosen by its results."""
    place(output, "declaration.yaml").unlink()
    assert shell("train", *typed, "verdict.margin=0.001") == 4
    assert "missing declaration" in shell.err
    assert not place(output, "declaration.yaml").exists()


def test_a_declaration_after_its_runs_says_so(output: Path, shell: Shell, typed: list[str]) -> None:
    shutil.rmtree(output / "studies")
    assert shell("train", *typed, "verdict.margin=0.001") == 0, shell.err
    assert "Declared AFTER 16 of its 16 runs had begun" in shell.out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"word": "undecided"', '"word": "better"', "decided otherwise before"),
        ('"trials": 2', '"trials": NaN', "NaN is not a finite number"),
    ],
)
def test_a_changed_journal(
    output: Path, shell: Shell, typed: list[str], old: str, new: str, words: str
) -> None:
    edit(place(output, "journal.jsonl"), old, new)
    refused_by_both(shell, typed, output, words)


@pytest.mark.parametrize("facts", [{"val_loss": 3.0}, {"status": "diverged"}])
def test_a_changed_result(
    output: Path, shell: Shell, typed: list[str], facts: dict[str, Any]
) -> None:
    change(one(output) / "summary.json", **facts)
    refused_by_both(shell, typed, output, "decided otherwise before")


def test_code_that_changed_between_tuning_and_confirming(
    output: Path, shell: Shell, typed: list[str]
) -> None:
    """Refused although the run that is left has not begun: the choice rests on other code."""
    tuned = one(output, "*-muon-*-lr_scale1-s0-steps4-*") / "run.json"
    source = json.loads(tuned.read_text())["source"]
    change(tuned, source=source | {"minigpt.optim.muon": "f" * 64})
    assert shell("train", *typed) == 0, "nothing is left to train"
    shutil.rmtree(one(output))
    assert shell("train", *typed) == 4
    assert "code changed: minigpt/optim/muon.py: nothing was trained" in shell.err
    assert shell("train", *typed, "accept_changes=true") == 0, shell.err
    assert "muon: code changed between its runs: minigpt.optim.muon" in shell.out


def test_a_run_in_the_place_of_another(output: Path, shell: Shell, typed: list[str]) -> None:
    other, own = one(output, JUDGED.replace("101", "100")), one(output)
    shutil.rmtree(own)
    shutil.copytree(other, own)
    refused_by_both(shell, typed, output, "expected", codes=(4, 1))


@pytest.mark.parametrize(
    "lose",
    [
        lambda output: (shutil.rmtree(output / "sweeps"), place(output, "runs.json").unlink()),
        lambda output: place(output, "runs.json").write_text('{"schema": 1, "runs": {"a": "/"}}'),
        lambda output: place(output, "journal.jsonl").write_text(""),
        lambda output: shutil.rmtree(one(output)),
        lambda output: (one(output) / "summary.json").write_text("{"),
        lambda output: one(output).rename(output / f"other-{one(output).name[-8:]}"),
    ],
)
def test_what_is_lost_is_made_again(
    output: Path, shell: Shell, typed: list[str], lose: Callable[[Path], object]
) -> None:
    """And nothing else is: the other runs keep the files that they had."""
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/summary.json")}
    lose(output)
    assert shell("train", *typed) == 0, shell.err
    verdict = re.findall(r"^\[\?\] muon .* pairs; ", shell.out, re.MULTILINE)
    assert len(verdict) == 1
    after = {path: path.stat().st_mtime_ns for path in output.glob("*/summary.json")}
    assert len(after) == len(before)
    assert len(before.items() - after.items()) <= 1
    assert compare([str(output), "--study", "small_study"]) == 0
    assert re.findall(r"^\[\?\] muon .* pairs; ", shell.capfd.readouterr().out, re.M) == verdict


@pytest.mark.slow
def test_after_an_amendment_only_its_runs_count(
    output: Path, shell: Shell, typed: list[str]
) -> None:
    """Those of the first declaration stay in the folder, and those of both tell their own."""
    ways = {"first": [], "second": ["attempt=2", 'verdict.amend="why not"'], "back": []}
    ways["back"] = ["verdict.amend=back"]
    for name, changes in ways.items():
        assert shell("train", *typed, *changes) == 0, shell.err
        assert compare([str(output), "--study", "small_study", "--out", str(output / name)]) == 0
        assert ("-a2-" in (output / name / "results.csv").read_text()) == (name == "second")
        shell.capfd.readouterr()
    assert len(list(output.glob("*/run.json"))) == 32
    report = (output / "back" / "report.md").read_text()
    assert "why not" in report
    assert "back (" in report


def declare(typed: list[str], changes: str) -> list[str]:
    """The arguments of another study in the same folder: the same, but for these lines."""
    folder = Path(
        next(part for part in typed if part.startswith("--config-dir=")).partition("=")[2]
    )
    text = STUDY
    for line in changes.splitlines():
        key = line.partition(":")[0]
        text, found = re.subn(rf"^{key}:.*$", line, text, flags=re.MULTILINE)
        text += "" if found else f"{line}\n"
    (folder / "experiment" / "other_study.yaml").write_text(text)
    kept = [part for part in typed if not part.startswith("data/tokenizer=")]
    return [part.replace("small_study", "other_study") for part in kept]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            "  by: data/tokenizer\n  arms: [byte, char]\n  baseline: byte",
            "verdict.metric=val_bits_per_byte compares them",
        ),
        ("    over: {data/tokenizer: [byte, char]}", "tokens of different tokenizers"),
        ("    over: {log.every: [1, 2]}", "the same run"),
        ("    over: {verdict.margin: [1, 2]}", "the same run"),
        ("  cells: {log.every: [1, 2]}", "the same run"),
        ("  budgets: {train.tokens: [100, 120]}", "train.tokens=120 are"),
        ("    over: {train.batch_size: [2, 4]}", "unequal tokens: optim=muon train.batch_size=2"),
        ("    over: {model.n_heads: [4, 5]}", "not a multiple of n_heads=5"),
        ("    over: {optim.lr_scale: [1, 2], model.n_heads: [4, 5]}", "n_heads=5"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_it_is_declared(
    shell: Shell, typed: list[str], changes: str, words: str
) -> None:
    assert shell("train", *declare(typed, changes)) == 2, shell.out
    assert words in shell.err
    assert len(shell.err.splitlines()) == 1
    assert not (shell.folder / "outputs").exists()


@pytest.mark.parametrize(
    "changes",
    [
        "  by: data/tokenizer\n  arms: [byte, char]\n  baseline: byte\n  metric: val_bits_per_byte",
        "  cells: {data/tokenizer: [byte, char]}",
        "  budgets: {train.tokens: [100, 250]}",
        "  by: train.grad_clip\n  arms: [null, 0.5]\n  baseline: null",
        "  by: optim.hidden.nesterov\n  arms: [true, false]\n  baseline: true",
        "    method: random",
        "    method: coordinate",
    ],
)
def test_what_can_be_judged_is_planned(shell: Shell, typed: list[str], changes: str) -> None:
    assert shell("train", *declare(typed, changes), "dry_run=true") == 0, shell.err
    assert "confirm, 2 pairs" in shell.out


@pytest.mark.parametrize(
    ("number", "code", "delay_s"),
    [
        (signal.SIGINT, 130, 0),
        pytest.param(signal.SIGTERM, 143, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, 1, marks=pytest.mark.slow),
    ],
)
def test_a_stop_while_workers_start(
    typed: list[str], tmp_path: Path, number: int, code: int, delay_s: float
) -> None:
    """No job of the phase is begun by a worker that was not there to have the signal."""
    stopped = command(typed, tmp_path, "hydra/launcher=joblib")
    with subprocess.Popen(stopped, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "sweeps").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(delay_s)
        process.send_signal(number)
        _, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    stop = f"stopped by {signal.Signals(number).name}: the study is not done"
    assert err.splitlines()[-1] == f"error: {stop} (the same command goes on)"
    assert "Traceback" not in err
    assert len(list(tmp_path.glob("*/summary.json"))) < 4


def test_without_slurm_nothing_is_declared(
    shell: Shell, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert shell("train", *typed[:-1], "hydra/launcher=slurm") == 2
    assert shell.err.startswith("error: no Slurm here")
    assert not (shell.folder / "outputs").exists()


@pytest.mark.parametrize("other", ["optim=adamw_by_role", "seed=102", "train.steps=2"])
def test_a_run_under_the_name_of_another(output: Path, shell: Shell, other: str) -> None:
    """runs.json says where runs are, not what they are of."""
    path, own = place(output, "runs.json"), "optim=muon optim.lr_scale=1 seed=101 train.steps=4"
    runs = json.loads(path.read_text())["runs"]
    key = other.partition("=")[0]
    change(path, runs=runs | {own: runs[re.sub(rf"\b{key}=\w+", other, own)]})
    place(output, "journal.jsonl").unlink()
    assert compare([str(output), "--study", "small_study"]) == 1
    said = shell.capfd.readouterr().err
    assert "1 of 8 runs did not end" in said
    assert other in said
    assert f", not {own}" in said


CHOICE = {"what": "choose", "arm": "muon", "cell": "", "setting": {}, "trials": 1, "loss": 4.0}


@pytest.mark.parametrize("gone", ["folder", "lock"])
def test_a_folder_lost_while_it_is_used_gets_no_decision(tmp_path: Path, gone: str) -> None:
    folder = study_folder(tmp_path, "a_study")
    with Journal(tmp_path, declared(), {}) as journal:
        folder.rename(tmp_path / "away") if gone == "folder" else (folder / "lock").unlink()
        with pytest.raises(StorageError, match="study is gone"):
            journal.note(CHOICE)
        with pytest.raises(StorageError, match="study is gone"):
            journal.note_folders({})
    assert not list(tmp_path.glob("*/journal.jsonl"))


def test_a_study_that_another_process_took_over_gets_no_decision(tmp_path: Path) -> None:
    folder = study_folder(tmp_path, "a_study")
    with Journal(tmp_path, declared(), {}) as journal:
        (folder / "lock").unlink()
        with locked(folder, "study"), pytest.raises(BusyError, match="taken over"):
            journal.note(CHOICE)
    assert not (folder / "journal.jsonl").exists()


def test_a_job_that_fails_gives_its_exit_code(output: Path, shell: Shell, typed: list[str]) -> None:
    """What blocks one run is named with the run; nothing is judged without it."""
    (one(output) / "run.json").unlink()
    assert shell("train", *typed) == 4
    last = shell.err.splitlines()[-1]
    assert last.startswith("error: unfinished: confirm 2 pairs: 1 of 8 runs did not end")
    assert "seed 101: not a run" in last
    assert "Traceback" not in shell.err
    assert "against" not in shell.out


def test_a_disk_that_is_full_in_mid_study_is_an_error_of_storage(
    output: Path, shell: Shell, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even why it failed could be written."""
    shutil.rmtree(gone := one(output))
    write = durable.write_atomic
    full: list[Path] = []

    def refuse(path: Path, content: bytes) -> None:
        if full or gone in path.parents:
            full.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(durable, "write_atomic", refuse)
    assert shell("train", *typed, f"output_dir={output}") == 6
    assert "No space left on device" in shell.err.splitlines()[-1]
