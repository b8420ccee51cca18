"""Faults while a checkpoint is written beside training, as large ones are. SIX is small: told to.

What happens when differs from run to run here. What it ends in does not.
"""

from pathlib import Path

import pytest
from driver import (
    SIX,
    Pool,
    Straight,
    all_or_every,
    goes_on,
    leftovers,
    no_half_checkpoint,
    result,
    run_folder,
)
from fault_table import Tries
from test_kills import CHECKPOINT_EVERY, resumed_at, steps_begun

BESIDE = {"BESIDE": "1"}


@pytest.mark.faults(1, 2, 3)
@all_or_every(12)
def test_killed_at_file_operations(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, every: int, tries: Tries
) -> None:
    expected, operations = straight

    def one(at: int) -> None:
        folder = tmp_path / str(at)
        with tries.one():
            killed = pool.run(folder, [*SIX, *tokens], at=at, environment=BESIDE)
            assert killed.code == -9, killed.said
            no_half_checkpoint(folder)
            begun = steps_begun(folder)
            said = goes_on(
                pool, folder, [*SIX, *tokens], expected, f"killed at {at}", environment=BESIDE
            )
            if "already finished" not in said:  # a checkpoint is written by the next one
                assert begun - resumed_at(said) <= 2 * CHECKPOINT_EVERY, said

    pool.each(one, range(40, len(operations) - 20, every))


@pytest.mark.faults(12)
@all_or_every(12)
@pytest.mark.parametrize("action", ["ENOSPC", "EIO", "TERM"])
def test_errors_and_signals(
    pool: Pool,
    tmp_path: Path,
    tokens: list[str],
    straight: Straight,
    every: int,
    action: str,
    tries: Tries,
) -> None:
    """One line, nothing half, and the same command ends in the same bits."""
    expected, operations = straight

    def one(at: int) -> None:
        folder = tmp_path / str(at)
        with tries.one():
            disturbed = pool.run(folder, [*SIX, *tokens], at=at, action=action, environment=BESIDE)
            assert disturbed.code in ((0, 143) if action == "TERM" else (0, 6)), disturbed.said
            assert "Traceback" not in disturbed.said
            no_half_checkpoint(folder)
            if disturbed.code == 143:
                assert "the same command goes on" in disturbed.said
            again = pool.run(folder, [*SIX, *tokens], environment=BESIDE)
            assert again.code == 0, again.said
            if "cannot write metrics" not in disturbed.said:
                assert result(run_folder(folder)) == expected
            assert leftovers(folder) == []

    pool.each(one, range(40, len(operations) - 20, every))
