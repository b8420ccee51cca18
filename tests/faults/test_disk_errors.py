"""Disk full or broken at every file operation: a line says so, and the same command goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver import (
    SIX,
    Outcome,
    Pool,
    Straight,
    all_or_every,
    leftovers,
    no_half_checkpoint,
    result,
    run_folder,
)
from fault_table import Tries
from runs import ROOT


def one_clear_line(outcome: Outcome) -> None:
    """The run ended well, or with exit code 6 and lines that name what could not be written."""
    assert outcome.code in (0, 6), f"{outcome.code}: {outcome.said}"
    assert "Traceback" not in outcome.said, outcome.said
    errors = [line for line in outcome.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == (outcome.code == 6), outcome.said
    assert all("cannot" in line and line.endswith(")") for line in errors), errors


def same_but_for_lost_rows(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal to the bit; rows that could not be written are missing, none is torn or doubled."""
    assert {**found, "rows": None} == {**expected, "rows": None}
    remaining = iter(expected["rows"])
    wrong = "a row that was not logged, or twice, or out of order"
    assert all(row in remaining for row in found["rows"]), wrong


@pytest.mark.faults(12, 13, 14)
@all_or_every(17)
@pytest.mark.parametrize("action", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_errors_at_file_operations(
    pool: Pool,
    tmp_path: Path,
    tokens: list[str],
    straight: Straight,
    every: int,
    action: str,
    lasting: bool,
    tries: Tries,
) -> None:
    expected, operations = straight
    # A disk that stays full is as full for the next operation: every tenth start of it says enough.
    # A broken disk takes the same way as a full one: every third operation.
    thinner = 1 if every > 1 else 10 if lasting else 3 if action == "EIO" else 1
    numbers = range(1, len(operations) + 1, every * thinner)

    def one(at: int) -> None:
        operation, folder = operations[at - 1], tmp_path / str(at)
        noted = "metrics.jsonl" in operation or "train.log" in operation
        with tries.one(12 if "/checkpoints/" in operation else 13 if noted else 14):
            disturbed = pool.run(folder, [*SIX, *tokens], at=at, action=action, lasting=lasting)
            one_clear_line(disturbed)
            # on the way a warning, and tried again; at the end an error
            if "/.tmp-step_" in operation:
                last = "step_00000006" in operation
                assert last or "warning: cannot save a checkpoint" in disturbed.said
                assert disturbed.code == (6 if lasting or last else 0), disturbed.said
            no_half_checkpoint(folder)
            again = pool.run(folder, [*SIX, *tokens])
            story = f"{action} at {at}, {operation}: {disturbed.said}\n{again.said}"
            assert again.code == 0, story
            assert "damaged" not in again.said
            found = result(run_folder(folder))
            if "metrics" in disturbed.said:
                same_but_for_lost_rows(found, expected)
            else:
                assert found == expected, story
            assert leftovers(folder) == []

    pool.each(one, numbers)


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so a write past the limit is an error
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
sys.argv[0] = "train.py"
import train
sys.exit(train.main())
"""


@pytest.mark.faults(12, 13)
@pytest.mark.parametrize(
    ("limit", "words"),
    [(30_000, "cannot save a checkpoint"), (1_000, "cannot write")],
    ids=["no room for weights", "no room for anything"],
)
def test_files_that_may_not_grow(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, limit: int, words: str
) -> None:
    """The kernel itself refuses: RLIMIT_FSIZE."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *SIX, *tokens],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    outcome = Outcome(done.returncode, None, done.stderr)
    one_clear_line(outcome)
    assert outcome.code == 6
    assert f"error: {words}" in outcome.said
    again = pool.run(tmp_path, [*SIX, *tokens])
    assert again.code == 0, again.said
    same_but_for_lost_rows(result(run_folder(tmp_path)), straight[0])


@pytest.mark.faults(12)
def test_a_file_system_that_is_full(
    tmp_path: Path, tokens: list[str], pool: Pool, straight: Straight
) -> None:
    """A file system of half a MiB of its own, with room for one checkpoint and not for two."""
    mounted, mount = ["unshare", "-rm", "sh", "-c"], "mount -t tmpfs -o size=$SIZE none"
    environment = {**os.environ, "SIZE": "640k"}
    can_mount = (
        shutil.which("unshare") is not None
        and not subprocess.run(
            [*mounted, f"{mount} {tmp_path}"], env=environment, check=False, capture_output=True
        ).returncode
    )
    if not can_mount:
        pytest.skip("no user namespaces here, so no small file system without being root")
    script = (
        f'{mount} {tmp_path} && cd {tmp_path} && {sys.executable} {ROOT}/train.py "$@"; '
        'code=$?; echo; find outputs -name "step_*"; exit $code'
    )
    done = subprocess.run(
        [*mounted, script, "sh", *SIX, *tokens, "checkpoint.keep=3", "model.n_layers=2"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    outcome = Outcome(done.returncode, None, done.stderr)
    one_clear_line(outcome)
    assert outcome.code == 6
    assert "error: cannot save a checkpoint" in outcome.said
    assert "MiB free" in outcome.said
    assert "step_00000002" in done.stdout, "the checkpoint before stays"
