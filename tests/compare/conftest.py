"""Studies without training, and the command as a shell would run it."""

from pathlib import Path

import pytest
from studies import Study

from minigpt.compare.__main__ import main


class Compare:
    """`compare("--by", "optim")` on the study's folder -> exit code; `out` and `err` hold what it printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = main([str(self.folder), *arguments])
        self.out, self.err = self.capsys.readouterr()
        return code


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")


@pytest.fixture
def compare(study: Study, capsys: pytest.CaptureFixture[str]) -> Compare:
    return Compare(study.folder, capsys)
