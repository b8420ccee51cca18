"""Which tokens a step sees: a pure function of (seed, step), every window once an epoch."""

import numpy as np
import pytest
from corpora import Memory, stories, stream

from minigpt.data import windows as windows_module
from minigpt.data.prepare import prepare
from minigpt.data.tokens import Tokens
from minigpt.data.windows import IGNORED, TrainWindows, validation_batches
from minigpt.errors import DataError
from minigpt.tokenizer.byte import Byte

T = 16


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("tokens")
    return prepare(Memory(stories(40)), Byte(), folder, val_fraction=0.1, shard_tokens=501)


def test_windows_are_stretches_of_the_stream(tokens: Tokens) -> None:
    all_tokens = stream(tokens, "train")
    windows = TrainWindows(tokens.train, T, seed=0)
    inputs, targets = windows.batch(3, 8)
    assert (inputs.shape, inputs.dtype, targets.dtype) == ((8, T), np.int64, np.int64)
    for row, number in enumerate(range(24, 32)):
        start = windows.start(number)
        assert inputs[row].tolist() == all_tokens[start : start + T]
        assert targets[row].tolist() == all_tokens[start + 1 : start + T + 1]


@pytest.mark.parametrize("block", [4096, 7])
def test_an_epoch_is_every_window_once(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(windows_module, "BLOCK", block)
    windows = TrainWindows(tokens.train, T, seed=0)
    phases, orders = set(), set()
    for epoch in range(3):
        starts = [windows.start(epoch * windows.n_windows + i) for i in range(windows.n_windows)]
        phase = min(starts)
        assert sorted(starts) == [phase + i * T for i in range(windows.n_windows)]
        assert 0 <= phase < T
        assert max(starts) + T + 1 <= tokens.train.n_tokens
        assert starts != sorted(starts)
        phases.add(phase)
        orders.add(tuple(start - phase for start in starts))
    assert len(phases) > 1
    assert len(orders) == 3
    # less than two windows are left out
    assert windows.n_windows * T > tokens.train.n_tokens - 2 * T


def test_steps_follow_each_other_across_epochs(tokens: Tokens) -> None:
    """Sequence i of step s is number s * batch_size + i, also where a batch crosses epochs."""
    windows = TrainWindows(tokens.train, T, seed=5)
    batch_size = 7
    steps = windows.n_windows // batch_size + 2
    rows = np.concatenate([windows.batch(step, batch_size)[0] for step in range(steps)])
    for number in range(len(rows)):
        assert rows[number].tolist() == tokens.train.read(windows.start(number), T).tolist()


def test_slices_of_a_step_are_the_step(tokens: Tokens) -> None:
    windows = TrainWindows(tokens.train, T, seed=0)
    numbers = range(88, 96)
    parts = [
        TrainWindows(tokens.train, T, seed=0).sequences(numbers[i : i + 2]) for i in range(0, 8, 2)
    ]
    assert np.array_equal(np.concatenate(parts), windows.sequences(numbers))
    assert np.array_equal(windows.batch(11, 8)[0], windows.sequences(numbers)[:, :-1])


def test_only_seed_and_step_decide(tokens: Tokens) -> None:
    first, second = TrainWindows(tokens.train, T, seed=1), TrainWindows(tokens.train, T, seed=1)
    expected = [first.batch(step, 4)[0] for step in range(60)]
    for step in (59, 3, 3, 40, 0):
        assert np.array_equal(second.batch(step, 4)[0], expected[step])
    other = TrainWindows(tokens.train, T, seed=2)
    assert not np.array_equal(other.batch(0, 4)[0], expected[0])


@pytest.mark.faults(34)
def test_too_little_text_says_the_numbers(tokens: Tokens) -> None:
    n_tokens = tokens.train.n_tokens
    assert TrainWindows(tokens.train, n_tokens - 1, seed=0).n_windows == 1
    with pytest.raises(DataError, match=f"{n_tokens} tokens, one sequence needs {n_tokens + 1}"):
        TrainWindows(tokens.train, n_tokens, seed=0)


@pytest.mark.parametrize("seq_len", [1, 7, 16, 10_000])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_validation_predicts_every_token_once(
    tokens: Tokens, seq_len: int, batch_size: int
) -> None:
    all_tokens = stream(tokens, "val")
    seen: list[int] = []
    for inputs, targets in validation_batches(tokens.val, seq_len, batch_size):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] == seq_len
        assert len(inputs) <= batch_size
        for row in range(len(inputs)):
            real = targets[row] != IGNORED
            assert inputs[row][real].tolist() == all_tokens[len(seen) : len(seen) + real.sum()]
            seen += targets[row][real].tolist()
    assert seen == all_tokens[1:]


def test_validation_can_stop_early(tokens: Tokens) -> None:
    all_tokens = stream(tokens, "val")
    targets = np.concatenate(
        [batch[1].ravel() for batch in validation_batches(tokens.val, 16, 2, max_tokens=37)]
    )
    assert targets[targets != IGNORED].tolist() == all_tokens[1:38]
    whole = [batch[1] for batch in validation_batches(tokens.val, 16, 2, max_tokens=10**9)]
    assert sum((batch != IGNORED).sum() for batch in whole) == tokens.val.n_tokens - 1
