"""What the command line does around a job."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import SMALL, Shell


def test_a_single_run_is_planned_answered_and_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
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
    shell = Shell(tmp_path, monkeypatch, capfd)
    assert shell("train", *SMALL, "train.steps=2") == 0, shell.err
    assert calls == {"plan_of": 1, "answer": 1, "check_built": 1}
    assert shell("train", *SMALL, "train.steps=2") == 0, shell.err
    assert calls == {"plan_of": 2, "answer": 2, "check_built": 1}


def test_a_single_run_with_wishes_to_hydra_runs_inside_hydra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capfd)
    command = ["train", *SMALL, "train.steps=2", "+hydra.job.env_set.WANTED=1"]
    assert shell(*command) == 0, shell.err
    assert "validation loss" in shell.out
    assert shell(*command) == 0, shell.err
    assert "already finished" in shell.err
