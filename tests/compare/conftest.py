"""Studies without training, and the command as a shell would run it."""

from pathlib import Path

import pytest
from studies import Compare, Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")


@pytest.fixture
def compare(study: Study, capsys: pytest.CaptureFixture[str]) -> Compare:
    return Compare(study.folder, capsys)
