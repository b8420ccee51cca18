"""Folders of the data tests lie in memory where they can: the tests fsync thousands of times."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not MEMORY.is_dir():
        yield tmp_path_factory.mktemp("data")
        return
    folder = Path(tempfile.mkdtemp(prefix="minigpt-tests-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def tmp_path(memory_folder: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=memory_folder))
    yield folder
    shutil.rmtree(folder)
