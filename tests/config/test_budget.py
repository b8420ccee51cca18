from typing import Any

from minigpt.config.budget import (
    Budget,
    accumulation_problem,
    budget_of,
    epochs_notice,
    steps_for_epochs,
    steps_for_tokens,
    tokens_notice,
)


def test_tokens_round_up_to_whole_steps() -> None:
    assert steps_for_tokens(2048, batch_size=16, seq_len=128) == 1
    assert steps_for_tokens(2049, batch_size=16, seq_len=128) == 2


def test_epochs_round_up_and_half_an_epoch_is_half() -> None:
    assert steps_for_epochs(1, batch_size=10, windows=101) == 11
    assert steps_for_epochs(0.5, batch_size=10, windows=100) == 5
    # float noise is no extra step
    assert steps_for_epochs(0.1 + 0.2, batch_size=1, windows=10) == 3


def test_accumulation_is_derived() -> None:
    budget = Budget(steps=3, batch_size=40, micro_batch_size=10, seq_len=512)
    assert (budget.accumulation, budget.tokens_per_step, budget.tokens) == (4, 20_480, 61_440)


def test_a_micro_batch_above_the_batch_names_only_sizes_that_work() -> None:
    assert "nearest are 16" in str(accumulation_problem(8, 16))


def train(**given: object) -> dict[str, Any]:
    node = {"tokens": None, "steps": None, "epochs": None, "batch_size": 16}
    return node | {"micro_batch_size": None} | given


def test_remainders_are_said_and_exact_budgets_are_not() -> None:
    assert "rounded up to 2 steps = 4,096 tokens" in str(tokens_notice(train(tokens=3000), 128))
    assert tokens_notice(train(tokens=4096), 128) is None
    assert tokens_notice(train(steps=2), 128) is None
    exact, more = train(epochs=2, batch_size=10), train(epochs=2.05, batch_size=10)
    assert epochs_notice(exact, budget_of(exact, 8, 100), 100) is None
    assert "rounded up to 21 steps" in str(epochs_notice(more, budget_of(more, 8, 100), 100))


def test_whatever_was_given_is_steps() -> None:
    for given in (train(tokens=3000), train(steps=2), train(epochs=0.32)):
        assert budget_of(given, 128, 100) == Budget(2, 16, 16, 128)


def test_ranks_share_a_batch_or_are_refused() -> None:
    assert budget_of(train(steps=2, batch_size=12), 8, ranks=3) == Budget(2, 12, 4, 8, 3)
    assert Budget(2, 12, 2, 8, ranks=3).accumulation == 2
    assert accumulation_problem(12, 2, ranks=3) is None
    problem = str(accumulation_problem(8, None, ranks=3))
    assert "train.batch_size=8 is not a multiple of 3 devices (nearest are 6 and 9)" in problem
    assert "train.micro_batch_size=4 x 3 devices" in str(accumulation_problem(16, 4, ranks=3))
