"""One pool of warm processes for all fault tests; their folders lie in memory where the system allows."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import Pool

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def fault_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not MEMORY.is_dir():
        yield tmp_path_factory.mktemp("faults")
        return
    folder = Path(tempfile.mkdtemp(prefix="minigpt-faults-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def tmp_path(fault_folder: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=fault_folder))
    yield folder
    shutil.rmtree(folder)
