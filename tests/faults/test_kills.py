"""Runs killed at file operations and at random moments: the same command ends in the same bits."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver import (
    HERE,
    SIX,
    Outcome,
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
from runs import ROOT, rows

CHECKPOINT_EVERY = 2
SLOW, SHORTER = pytest.mark.slow, pytest.mark.shorter


def resumed_at(said: str) -> int:
    """The step that a run went on from."""
    lines = [line for line in said.splitlines() if line.startswith("resuming at step")]
    return int(lines[0].split()[3]) if lines else 0


def steps_begun(folder: Path) -> int:
    """The last step with a complete row, of a run that was killed."""
    found = [0]
    for path in (folder / "outputs").glob("*/metrics.jsonl"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            found.append(json.loads(line)["step"])
    return max(found)


def faults_of(operations: list[str], at: int) -> list[int]:
    """Which faults of the list a kill at operation number `at` tries."""
    operation = operations[at - 1]
    first = next(number for number, name in enumerate(operations, 1) if name.startswith("rename "))
    before_the_first = [4] if at <= first else []
    if ".tmp-removed" in operation or (operation.startswith("rename") and "/step_" in operation):
        return [3]
    if "/checkpoints/" in operation:
        return [*before_the_first, 1]
    return before_the_first or [2]


def kill_and_repeat(
    pool: Pool, folder: Path, arguments: list[str], at: int, expected: dict[str, Any]
) -> None:
    killed = pool.run(folder, arguments, at=at)
    assert killed.code == -9, killed.said
    no_half_checkpoint(folder)
    begun = steps_begun(folder)
    said = goes_on(pool, folder, arguments, expected, f"killed at operation {at}")
    if "already finished" not in said:
        assert begun - resumed_at(said) <= CHECKPOINT_EVERY, said


@pytest.mark.faults(1, 2, 3, 4)
@all_or_every(9)
def test_killed_at_file_operations(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, every: int, tries: Tries
) -> None:
    expected, operations = straight
    assert len(operations) > 100
    for part in (
        "lock", "config.yaml", "run.json", "tokenizer/", "metrics.jsonl", "train.log", "state.json",
        "manifest.json", "model.safetensors", "optimizer.safetensors", "removed-", "sample.txt",
        "summary.json",
    ):  # fmt: skip
        assert any(part in operation for operation in operations), f"no operation on {part}"

    def one(at: int) -> None:
        with tries.one(*faults_of(operations, at)):
            kill_and_repeat(pool, tmp_path / str(at), [*SIX, *tokens], at, expected)

    pool.each(one, range(1, len(operations) + 1, every))


@pytest.mark.faults(1, 3)
@all_or_every(8)
def test_killed_while_the_final_checkpoint_takes_the_place_of_another(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, every: int, tries: Tries
) -> None:
    """A run stopped in its final evaluation has saved its last step, but not as the final one."""
    expected, operations = straight
    # at its last row
    stop = next(number for number, name in enumerate(operations, 1) if "step_00000006" in name) - 4
    stopped = tmp_path / "stopped"
    assert pool.run(stopped, [*SIX, *tokens], at=stop, action="TERM").code == 143
    assert (run_folder(stopped) / "checkpoints" / "step_00000006").is_dir()
    outcome = pool.run(Path(shutil.copytree(stopped, tmp_path / "counted")), [*SIX, *tokens])
    assert outcome.operations is not None
    assert any(name.endswith("step_00000006.superseded") for name in outcome.operations)

    def one(at: int) -> None:
        with tries.one():
            folder = Path(shutil.copytree(stopped, tmp_path / str(at)))
            kill_and_repeat(pool, folder, [*SIX, *tokens], at, expected)

    pool.each(one, range(1, len(outcome.operations) + 1, every))


@pytest.mark.faults(2, 10)
@pytest.mark.parametrize(
    "seeds", [pytest.param(range(25), marks=SLOW), pytest.param(range(50, 53), marks=SHORTER)]
)
def test_killed_at_random_operations_again_and_again(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, seeds: range, tries: Tries
) -> None:
    """Several kills per run, each somewhere in what is left: a resume of a resume of a resume."""

    def one(seed: int) -> None:
        draw, folder, kills = random.Random(seed), tmp_path / str(seed), 0
        with tries.one():
            outcome = None
            while outcome is None or outcome.code == -9:
                assert kills < 100, "no progress"
                outcome = pool.run(folder, [*SIX, *tokens], at=draw.randrange(1, 90))
                no_half_checkpoint(folder)
                kills += 1
            assert outcome.code == 0, outcome.said
            assert result(run_folder(folder)) == straight[0]
            assert leftovers(folder) == []

    pool.each(one, seeds)


@pytest.mark.faults(2)
@pytest.mark.parametrize(
    ("seeds", "direct"),
    [
        pytest.param(range(40), True, marks=SLOW),
        pytest.param(range(40, 50), False, marks=SLOW),
        pytest.param(range(50, 52), False, marks=SHORTER),
    ],
)
def test_killed_at_random_moments(
    pool: Pool, tmp_path: Path, tokens: list[str], seeds: range, direct: bool, tries: Tries
) -> None:
    """Preparation of tokens included, and Hydra unless direct; the moments are drawn."""
    arguments = [*SIX, tokens[0], "data_dir=tokens"]
    begin = os.times().elapsed
    outcome = pool.run(tmp_path / "straight", arguments, direct=direct)
    assert outcome.code == 0, outcome.said
    lasted, expected = os.times().elapsed - begin, result(run_folder(tmp_path / "straight"))

    def one(seed: int) -> None:
        draw, folder = random.Random(seed), tmp_path / str(seed)
        with tries.one():
            for _ in range(draw.randrange(1, 5)):
                moment = draw.uniform(0.05, 1.1) * lasted
                outcome = pool.run(folder, arguments, direct=direct, signals=[(moment, "SIGKILL")])
                assert outcome.code in (-9, 0), outcome.said
                no_half_checkpoint(folder)
            goes_on(pool, folder, arguments, expected, direct=direct)

    pool.each(one, seeds)


def true_process(folder: Path, arguments: list[str], at: int | None, threads: int = 1) -> Outcome:
    """Python from the start, with the injector put in by sitecustomize."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    if at is not None:
        environment["PYTHONPATH"] = str(HERE / "with_injector")
        environment["INJECT"] = json.dumps({"root": str(folder), "at": at, "action": "KILL"})
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Outcome(done.returncode, None, done.stderr)


@pytest.mark.slow
@pytest.mark.faults(1, 2)
@pytest.mark.parametrize("part", range(2))
def test_true_processes(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, part: int, tries: Tries
) -> None:
    """Ten new interpreters, in two parts for two workers: a true start ends as a fork does."""
    expected, operations = straight

    def one(at: int) -> None:
        with tries.one():
            folder = tmp_path / str(at)
            assert true_process(folder, [*SIX, *tokens], at).code == -9
            no_half_checkpoint(folder)
            goes_on(pool, folder, [*SIX, *tokens], expected)

    pool.each(one, range(8 + part * len(operations) // 10, len(operations), len(operations) // 5))


@pytest.mark.slow
@pytest.mark.faults(2)
def test_two_threads_and_a_wider_model(tmp_path: Path, tokens: list[str], tries: Tries) -> None:
    """d_model 128, 64 tokens, two threads: wide enough for threads to take part."""
    arguments = [
        *SIX, *tokens, "model.d_model=128", "model.n_layers=2", "model.max_seq_len=64",
        "train.threads=2", "sample.every=null",
    ]  # fmt: skip
    assert true_process(tmp_path / "straight", arguments, None, threads=2).code == 0
    with tries.one():
        assert true_process(tmp_path / "killed", arguments, 70, threads=2).code == -9
        again = true_process(tmp_path / "killed", arguments, None, threads=2)
        assert again.code == 0
        assert "resuming at step" in again.said
        assert result(run_folder(tmp_path / "killed")) == result(run_folder(tmp_path / "straight"))


@pytest.mark.faults(10)
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 6])
def test_stopped_at_every_kind_of_edge(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, stop: int
) -> None:
    """At a plain step, a checkpoint, an evaluation, a sample and the end; each of them twice."""
    arguments = [*SIX, *tokens]
    for _ in range(2):
        assert pool.run(tmp_path, [*arguments, f"train.stop_after={stop}"]).code == 0
    assert pool.run(tmp_path, arguments).code == 0
    assert result(run_folder(tmp_path)) == straight[0]
    before = {path: path.stat().st_mtime_ns for path in run_folder(tmp_path).rglob("*")}
    assert pool.run(tmp_path, arguments).code == 0
    assert {path: path.stat().st_mtime_ns for path in run_folder(tmp_path).rglob("*")} == before


def test_the_comparison_would_see_one_bit(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight
) -> None:
    """That all of the above can fail: another seed for dropout alone, and an edited row."""
    assert pool.run(tmp_path, [*SIX, *tokens]).code == 0
    folder = run_folder(tmp_path)
    assert result(folder) == straight[0]
    path = folder / "metrics.jsonl"
    first, rest = path.read_text().split("\n", 1)
    row = json.loads(first)
    row["train/loss"] *= 1 + 1e-15
    path.write_text(json.dumps(row) + "\n" + rest)
    assert rows(folder) != straight[0]["rows"]
    assert result(folder) != straight[0]
