"""One finished run for all tests of this folder, which change nothing of it."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT, SMALL, Shell


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/ with one finished run."""
    folder = tmp_path_factory.mktemp("trained")
    places = [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]
    subprocess.run(
        [sys.executable, "train.py", *SMALL, *places], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture
def shell(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    return Shell(trained, monkeypatch, capfd)
