"""What the command line does around a job."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, SMALL, Shell

from minigpt.cli.composition import groups_in
from minigpt.cli.overrides import without_glob


def test_a_single_run_is_planned_answered_and_built_once(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minigpt.config import build, plan
    from minigpt.run import answer

    calls: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        plain = getattr(module, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return plain(*arguments)

        monkeypatch.setattr(module, name, call)

    for module, name in ((plan, "plan_of"), (answer, "answer"), (build, "check_built")):
        counted(module, name)
    assert shell("train", *SMALL, "train.steps=2") == 0, shell.err
    assert calls == {"plan_of": 1, "answer": 1, "check_built": 1}
    assert shell("train", *SMALL, "train.steps=2") == 0, shell.err
    assert calls == {"plan_of": 2, "answer": 2, "check_built": 1}


def test_a_single_run_with_wishes_to_hydra_runs_inside_hydra(shell: Shell) -> None:
    command = ["train", *SMALL, "train.steps=2", "+hydra.job.env_set.WANTED=1"]
    assert shell(*command) == 0, shell.err
    assert "validation loss" in shell.out
    assert shell(*command) == 0, shell.err
    assert "already finished" in shell.err


def test_an_argument_that_no_yaml_names_needs_no_plus(shell: Shell) -> None:
    command = ["-m", *SMALL, "train.steps=2", "optim=adamw_by_role,adamw"]
    assert shell("train", *command, "optim.hidden.amsgrad=true") == 0, shell.err
    paths = [*shell.folder.glob("outputs/*/run.json")]
    assert len(paths) == 2
    record = json.loads(paths[0].read_text())
    assert record["identity"]["optim"]["hidden"]["amsgrad"] is True


def test_a_glob_sweeps_over_the_options_that_it_names(shell: Shell) -> None:
    assert shell("train", "-m", *SMALL, "train.steps=2", "schedule=glob([c*,w*],exclude=wsd)") == 0
    folders = [path.parent.name for path in (shell.folder / "outputs").glob("*/run.json")]
    assert len(folders) == 2
    assert any("-constant-" in folder for folder in folders)
    assert any("-warmup_cosine-" in folder for folder in folders)
    for bad, word in (("optim=glob(x*)", "muon"), ("seed=glob(*)", "no such group")):
        assert shell("train", "-m", *SMALL, bad) == 2
        assert f"an empty sweep: {bad}" in shell.err
        assert word in shell.err


def test_a_glob_knows_the_options_of_its_user_and_no_base(tmp_path: Path) -> None:
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "mine.yaml").write_text("defaults: [constant]\n")
    folders = groups_in(str(tmp_path), [])
    found = without_glob("schedule=glob(*)", folders)
    assert found == "schedule=constant,linear,mine,warmup_cosine,wsd"
    assert "_base" not in without_glob("optim=glob(*)", folders)
    assert without_glob("seed=1,2", folders) == "seed=1,2"


def test_both_folders_of_its_user_count_and_are_named(shell: Shell) -> None:
    for name in ("one", "two"):
        (shell.folder / name / "schedule").mkdir(parents=True)
        (shell.folder / name / "schedule" / f"{name}.yaml").write_text("defaults: [constant]\n")
    command = [f"--config-dir={shell.folder / 'one'}", *SMALL, "dry_run=true"]
    command.append(f"hydra.searchpath=[file://{shell.folder / 'two'}]")
    assert shell("train", *command, "schedule=zzzzzz") == 2
    assert (
        "(known: constant, linear, one, two, warmup_cosine, wsd; see --help schedule)" in shell.err
    )
    for name in ("one", "two"):
        assert shell("train", *command, f"schedule={name}") == 0, shell.err
    assert shell("train", *command[1:], "schedule=two", "sede=1") == 2
    assert shell.err == "error: unknown key: sede (did you mean seed?)\n"


@pytest.mark.parametrize(("typed", "code"), [("ä", 0), (b"\xe4", 2)])
def test_utf8_is_read_where_the_locale_is_ascii(
    typed: str | bytes, code: int, tmp_path: Path
) -> None:
    path = os.fsencode(tmp_path) + b"/" + (typed if isinstance(typed, bytes) else typed.encode())
    command = [sys.executable, "train.py", "debug=smoke", "dry_run=true", b"output_dir=" + path]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == code, done.stderr
    assert (path in done.stdout) if code == 0 else (b"not UTF-8" in done.stderr)
