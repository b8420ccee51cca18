"""Stop signals in every kind of work: a good save, exit code 143 or 130, and the same bits."""

import os
import random
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


def kinds_of(operation: str) -> list[int]:
    """Which faults of the list a signal at this operation tries."""
    return [5, 6] if "/checkpoints/" in operation else [6]


@pytest.mark.faults(5, 6, 7)
@all_or_every(25)
@pytest.mark.parametrize("action", ["TERM", "TERM2"])
def test_a_signal_at_file_operations(
    pool: Pool,
    tmp_path: Path,
    tokens: list[str],
    straight: Straight,
    every: int,
    action: str,
    tries: Tries,
) -> None:
    """Inside a save, an evaluation, a prune, while the folder is made; TERM2 sends two.

    A handler only sets a flag, whatever it interrupts: a quarter of the operations says enough.
    """
    expected, operations = straight
    last_save = next(number for number, name in enumerate(operations, 1) if "step_00000006" in name)
    # its row, its line in the log, and the sync of both; then only the end is left to do
    evaluated = last_save - 4

    def one(at: int) -> None:
        operation, folder = operations[at - 1], tmp_path / str(at)
        with tries.one(*([7] if action == "TERM2" else kinds_of(operation))):
            stopped = pool.run(folder, [*SIX, *tokens], at=at, action=action)
            assert stopped.code in (143, 0), stopped.said
            if stopped.code == 0:
                assert at >= evaluated, "a signal was not heeded"
            else:
                (line,) = (line for line in stopped.said.splitlines() if line.startswith("error: "))
                assert "stopped by SIGTERM" in line
                assert line.endswith("(the same command goes on)")
            assert "Traceback" not in stopped.said
            no_half_checkpoint(folder)
            assert leftovers(folder) == []
            goes_on(pool, folder, [*SIX, *tokens], expected, stopped.said)

    first, step = 1 if action == "TERM" else 2, 4 if every == 1 else every
    pool.each(one, range(first, len(operations) + 1, step))


@pytest.mark.faults(5, 6, 7, 8)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGTERM", 143),
        ("SIGINT", 130),
        pytest.param("SIGHUP", 143, marks=pytest.mark.slow),
        pytest.param("SIGUSR1", 143, marks=pytest.mark.slow),
    ],
)
def test_each_signal_at_random_moments(
    pool: Pool, tmp_path: Path, tokens: list[str], name: str, code: int, tries: Tries
) -> None:
    """The whole command, stopped again and again; two signals in 10 ms are as good as one."""
    arguments = [
        *SIX, *tokens, "train.steps=20", "train.micro_batch_size=1", "eval.every=1",
        "checkpoint.every=5",
    ]  # fmt: skip
    begin = os.times().elapsed
    assert pool.run(tmp_path / "straight", arguments).code == 0
    lasted, expected = os.times().elapsed - begin, result(run_folder(tmp_path / "straight"))
    draw, stops = random.Random(name), 0
    folder = tmp_path / "stopped"
    for _ in range(100):
        # the first one surely before the end
        moment = draw.uniform(0.2, 1.2 if stops else 0.6) * lasted
        twice = [(moment, name), (moment + 0.01, name)]
        outcome = pool.run(folder, arguments, direct=False, signals=twice)
        if outcome.code == 0:
            break
        with tries.one():
            stops += 1
            assert outcome.code == code, outcome.said
            assert f"stopped by {name}" in outcome.said
            assert "Traceback" not in outcome.said
            assert "Error executing job" not in outcome.said
            no_half_checkpoint(folder)
            assert leftovers(folder) == []
    assert stops
    assert result(run_folder(folder)) == expected


@pytest.mark.faults(6)
def test_generation_stops_within_a_token(pool: Pool, tmp_path: Path, tokens: list[str]) -> None:
    assert pool.run(tmp_path, [*SIX, *tokens]).code == 0
    arguments = [f"run={run_folder(tmp_path)}", "max_new_tokens=100000", "temperature=0"]
    before, later = sorted(tmp_path.rglob("*")), [(1.5, "SIGTERM")]
    outcome = pool.run(tmp_path, arguments, script="generate", direct=False, signals=later)
    assert outcome.code == 143, outcome.said
    assert "\nerror: stopped by SIGTERM: generation" in outcome.said, "on a line of its own"
    assert "Traceback" not in outcome.said
    assert sorted(tmp_path.rglob("*")) == before
