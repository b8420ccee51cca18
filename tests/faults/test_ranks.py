"""Several ranks train one run, by gloo on this machine: the same losses, and no rank dies alone."""

import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from driver import SIX, Outcome, Pool, result, run_folder
from runs import rows

# bf16 in Newton-Schulz turns a rounding of 1e-8 into one of 1e-3, with any other micro-batch too
FP32_MUON = ["optim=muon", "optim.hidden.ns_dtype=fp32"]
PARTS = [*SIX, "train.precision=fp32", "train.batch_size=12", "train.micro_batch_size=2"]
GONE_WITHIN_S = 10.0  # generous: these machines are busy


@pytest.fixture(scope="module")
def three() -> Iterator[Pool]:
    """Warm processes, one for each rank."""
    pool = Pool(3)
    yield pool
    pool.close()


def train(
    pool: Pool,
    folder: Path,
    arguments: list[str],
    n_ranks: int,
    own: Mapping[int, list[str]] | None = None,
    disturb: Mapping[int, str] | None = None,
) -> list[Outcome]:
    """One run by some ranks; what became of each.

    own: more arguments, by rank. disturb: moment, call and signal (warm.py), by rank.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    size = {"WORLD_SIZE": str(n_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def one(rank: int) -> Outcome:
        environment = {} if n_ranks == 1 else {**size, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        if disturb and rank in disturb:
            environment["DISTURB"] = disturb[rank]
        more = (own or {}).get(rank, [])
        # whoever was stopped stays so
        signals = [(GONE_WITHIN_S, "SIGKILL")] if "STOP" in environment.get("DISTURB", "") else []
        return pool.run(
            folder, [*arguments, *more], environment=environment, signals=signals, name=f"-{rank}"
        )

    with ThreadPoolExecutor(n_ranks) as threads:
        return list(threads.map(one, range(n_ranks)))


def losses(folder: Path) -> list[tuple[str, float]]:
    """Every loss and gradient norm that was logged, in order."""
    return [
        (f"{row['step']} {key}", row[key])
        for row in rows(run_folder(folder))
        for key in ("train/loss", "val/loss", "grad_norm")
        if key in row
    ]


def assert_close(one: Path, other: Path) -> None:
    expected, found = losses(one), losses(other)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, loss), (_, other_loss) in zip(expected, found, strict=True):
        close = {"rel": 1e-5} if "grad" in name else {"abs": 1e-6, "rel": 0}
        assert other_loss == pytest.approx(loss, **close), name


def assert_done(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.code == 0, outcome.said


@pytest.fixture(scope="module")
def two_straight(three: Pool, fault_folder: Path, tokens: list[str]) -> dict[str, Any]:
    """What an uninterrupted run of two ranks ends with."""
    folder = fault_folder / "two_straight"
    assert_done(train(three, folder, [*PARTS, *tokens], 2))
    return result(run_folder(folder))


@pytest.mark.parametrize(
    "recipe",
    [
        [*FP32_MUON, "train.document_mask=true", "probe=optimizer", "probe.every=2"],
        ["optim=adamw", "model/embedding=ngram"],
        [*FP32_MUON, "model=tiny_ensemble", "model.dropout=0"],
    ],
    ids=["muon", "adamw", "ensemble"],
)
def test_losses_do_not_depend_on_the_number_of_ranks(
    three: Pool, tmp_path: Path, tokens: list[str], recipe: list[str]
) -> None:
    arguments = [*PARTS, *tokens, *recipe]
    for n_ranks in (1, 2, 3):
        assert_done(train(three, tmp_path / str(n_ranks), arguments, n_ranks))
    names = {run_folder(tmp_path / str(n_ranks)).name for n_ranks in (1, 2, 3)}
    assert len(names) == 1  # one id
    for n_ranks in (2, 3):
        assert_close(tmp_path / "1", tmp_path / str(n_ranks))


def test_a_repeat_is_equal_to_the_bit_and_only_rank_0_speaks(
    three: Pool, tmp_path: Path, tokens: list[str], two_straight: dict[str, Any]
) -> None:
    first, second = train(three, tmp_path / "again", [*PARTS, *tokens], 2)
    assert_done([first, second])
    assert result(run_folder(tmp_path / "again")) == two_straight
    assert "validation loss" in first.said
    assert not [line for line in second.said.splitlines() if line.startswith("step 1/6")]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("moment", ["step 5", "save 2", "evaluation 1"])
def test_a_killed_rank_ends_the_others_and_the_same_command_goes_on(
    three: Pool,
    tmp_path: Path,
    tokens: list[str],
    two_straight: dict[str, Any],
    moment: str,
    rank: int,
) -> None:
    begin, arguments = time.monotonic(), [*PARTS, *tokens]
    ended = train(three, tmp_path / "run", arguments, 2, disturb={rank: f"{moment} KILL"})
    assert time.monotonic() - begin < GONE_WITHIN_S
    assert ended[rank].code == -9
    survivor = ended[1 - rank]
    assert survivor.code == 1
    assert "error: lost a rank of 2" in survivor.said
    assert f"rank {rank}: it is gone" in survivor.said or rank == 0
    assert "Traceback" not in survivor.said
    assert_done(train(three, tmp_path / "run", arguments, 2))
    assert result(run_folder(tmp_path / "run")) == two_straight


@pytest.mark.parametrize("asked", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("moment", ["step 3", "evaluation 1"])
def test_all_ranks_stop_at_the_same_step(
    three: Pool,
    tmp_path: Path,
    tokens: list[str],
    two_straight: dict[str, Any],
    moment: str,
    asked: tuple[int, ...],
) -> None:
    arguments = [*PARTS, *tokens]
    disturb = dict.fromkeys(asked, f"{moment} TERM")
    ended = train(three, tmp_path / "run", arguments, 2, disturb=disturb)
    assert [outcome.code for outcome in ended] == [143 if n in asked else 0 for n in (0, 1)]
    assert "stopped at step 3 of 6" in ended[0].said
    assert_done(train(three, tmp_path / "run", arguments, 2))
    assert result(run_folder(tmp_path / "run")) == two_straight


def test_a_run_goes_from_1_rank_to_2_to_3_to_1(
    three: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    arguments = [*PARTS, *tokens, *FP32_MUON]
    assert_done(train(three, tmp_path / "straight", arguments, 1))
    for n_ranks, stop in ((1, 1), (2, 3), (3, 5), (1, None)):
        until = [] if stop is None else [f"train.stop_after={stop}"]
        outcomes = train(three, tmp_path / "run", [*arguments, *until], n_ranks)
        assert_done(outcomes)
        if (n_ranks, stop) == (2, 3):
            assert "ranks: 1 -> 2" in outcomes[0].said
    assert_close(tmp_path / "straight", tmp_path / "run")
    assert not result(run_folder(tmp_path / "run"))["summary"].get("mixed")


def test_a_rank_with_another_command_or_other_tokens_refuses(
    three: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Something else is written here.\n" * 120)
    others = {
        "run": [f"stand_in.path={corpus}"],
        "tokens": [f"data_dir={tmp_path / 'tokens'}", "stand_in.val_fraction=0.3"],
    }
    for what, own in others.items():
        ended = train(three, tmp_path / what, [*PARTS, *tokens], 2, own={1: own})
        assert [outcome.code for outcome in ended] == [4, 4]
        assert "error: ranks differ: rank 1 " in ended[0].said
        assert what in ended[0].said
        assert not list((tmp_path / what / "outputs").glob("*/run.json"))


def test_a_hanging_rank_is_named_within_the_timeout(
    three: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    arguments = [*PARTS, *tokens, "train.rank_timeout=2"]
    ended = train(three, tmp_path / "run", arguments, 2, disturb={1: "step 3 STOP"})
    assert [outcome.code for outcome in ended] == [1, -9]
    assert "rank 1: no answer for 2 s (train.rank_timeout=2)" in ended[0].said


def test_a_rank_that_never_comes_is_waited_for_within_the_timeout(
    three: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    alone = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = [*PARTS, *tokens, "train.rank_timeout=1"]
    ended = three.run(tmp_path / "run", arguments, environment=alone)
    assert ended.code == 1
    assert f"error: ranks do not meet: 127.0.0.1:{port}: " in ended.said
