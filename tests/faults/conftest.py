"""One pool of warm processes for all fault tests; their folders lie in memory if possible."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import SIX, Pool, Straight, result, run_folder


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # two workers have a pool each
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def fault_folder(memory_folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=memory_folder))


@pytest.fixture(scope="session")
def tokens(pool: Pool, fault_folder: Path) -> list[str]:
    """Arguments for a small corpus, prepared once for all runs."""
    corpus = fault_folder / "corpus.txt"
    corpus.write_text("".join(f"{n} green bottles hanging on the wall.\n" for n in range(120)))
    arguments = [f"stand_in.path={corpus}", f"data_dir={fault_folder / 'tokens'}"]
    outcome = pool.run(fault_folder / "first", [*SIX, *arguments])
    assert outcome.code == 0, outcome.said
    return arguments


@pytest.fixture(scope="session")
def straight(pool: Pool, tokens: list[str], fault_folder: Path) -> Straight:
    """An uninterrupted run: what it ends with, and its file operations."""
    folder = fault_folder / "straight"
    outcome = pool.run(folder, [*SIX, *tokens])
    assert outcome.code == 0, outcome.said
    assert outcome.operations is not None
    return result(run_folder(folder)), outcome.operations


@pytest.fixture
def tmp_path(fault_folder: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=fault_folder))
    yield folder
    shutil.rmtree(folder)
