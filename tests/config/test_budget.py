from minigpt.config.budget import (
    Budget,
    accumulation_problem,
    remainder_notice,
    steps_for_epochs,
    steps_for_tokens,
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


def test_uneven_accumulation_names_both_values_and_the_nearest() -> None:
    problem = accumulation_problem(30, 8)
    assert problem is not None
    assert "train.batch_size=30" in problem
    assert "train.micro_batch_size=8" in problem
    assert "24 and 32" in problem
    assert accumulation_problem(32, 8) is None


def test_a_micro_batch_above_the_batch_names_only_sizes_that_work() -> None:
    assert "nearest are 16" in str(accumulation_problem(8, 16))


def test_remainders_are_said_and_exact_budgets_are_not() -> None:
    budget = Budget(steps=2, batch_size=16, micro_batch_size=16, seq_len=128)
    assert "4,096 tokens" in str(remainder_notice(3000, None, budget, 100))
    assert remainder_notice(4096, None, budget, 100) is None
    assert remainder_notice(None, 2, Budget(20, 10, 10, 8), 100) is None
    assert "rounded up to 21 steps" in str(remainder_notice(None, 2.05, Budget(21, 10, 10, 8), 100))
