"""The fit of loss over budget: exact on its own curves, honest about what lies outside."""

import numpy as np
import pytest
from scipy.optimize import nnls

from minigpt.compare.budget_fit import (
    EXPONENTS,
    Measured,
    budget_ratio,
    difference_at_equal_cost,
    fit,
)

BUDGETS = (100.0, 200.0, 400.0)


def curve(E: float, A: float, b: float, budgets: tuple[float, ...] = BUDGETS) -> np.ndarray:
    return np.array([E + A * (budget / 400) ** -b for budget in budgets])


def measured(shift: float) -> Measured:
    """Two arms of one curve, the second at `shift` times the budget of the first."""
    draw = np.random.default_rng(0)
    common = draw.normal(0, 5e-5, (1, 8))
    base = curve(2.0, 1.0, 0.3)[:, None] + common + draw.normal(0, 1e-5, (3, 8))
    arm = curve(2.0, shift**0.3, 0.3)[:, None] + common + draw.normal(0, 1e-5, (3, 8))
    return Measured(BUDGETS, {"base": base, "arm": arm})


def test_it_finds_the_curve_that_made_the_losses() -> None:
    """Each arm falls in its own way."""
    losses = np.stack([curve(2.0, 1.0, 0.3), curve(2.5, 0.7, 0.85)])
    found = fit(("a", "b"), BUDGETS, losses)
    assert pytest.approx([2.0, 2.5], abs=0.05) == found.E
    assert pytest.approx([1.0, 0.7], abs=0.05) == found.A
    assert found.b == pytest.approx([0.3, 0.85], rel=0.05)
    for at, arm in enumerate(("a", "b")):
        for budget, loss in zip(BUDGETS, losses[at]):
            assert found.loss(arm, budget) == pytest.approx(loss, abs=1e-4)
            assert np.exp(found.log_budget(arm, loss)) == pytest.approx(budget, rel=1e-3)


def test_two_budgets_are_a_line_in_log_log() -> None:
    losses = np.array([[4.0, 3.0]])
    found = fit(("a",), (100.0, 200.0), losses)
    assert found.loss("a", 100) == pytest.approx(4.0)
    assert found.loss("a", 400) == pytest.approx(2.25), "again three quarters"
    assert pytest.approx([0.0]) == found.E
    level = fit(("a",), (100.0, 200.0), np.array([[3.0, 4.0]]))
    assert level.loss("a", 150) == pytest.approx(3.5)


def test_it_is_the_least_squares_of_all_exponents() -> None:
    draw = np.random.default_rng(3)
    budgets = (100.0, 150.0, 200.0, 400.0)
    losses = draw.uniform(0.1, 5.0, (300, 2, 4))  # some need E = 0, some A = 0
    found = fit(("a", "b"), budgets, losses)
    power = (np.array(budgets) / 400) ** -found.b[..., None]
    error = ((found.E[..., None] + found.A[..., None] * power - losses) ** 2).sum(axis=-1)
    for b in EXPONENTS[::20]:
        x = (np.array(budgets) / 400) ** -b
        for row, arm in ((0, 0), (1, 1), (2, 0), (150, 1), (299, 0)):
            y = losses[row, arm]
            _, least = nnls(np.stack([np.ones(4), x], axis=1), y)
            assert error[row, arm] <= least**2 + 1e-9


def test_two_budgets_cover_a_line_and_a_bend() -> None:
    """A true b of 0.6 lies between both: 0.013 nats apart at 230 of 400 steps."""
    budgets = (100.0, 400.0)
    jitter = np.random.default_rng(0).normal(0, 1e-5, (2, 8))
    losses = curve(4.0, 0.56, 0.6, budgets)[:, None] + jitter
    same = Measured(budgets, {"base": losses, "arm": losses + 1e-5})
    found = difference_at_equal_cost(same, "arm", "base", 400, 400 / 230, 0.95)
    true = float(np.diff(curve(4.0, 0.56, 0.6, (400.0, 230.0)))[0])
    assert found.low < true < found.high
    assert found.value > true + 0.01, "a line alone would miss it"


def test_E_and_A_are_not_negative() -> None:
    steep = fit(("a",), BUDGETS, np.array([[9.0, 3.0, 0.01]]))
    rising = fit(("a",), BUDGETS, np.array([[3.0, 3.5, 4.0]]))
    for found in (steep, rising):
        assert (found.E >= 0).all()
        assert (found.A >= 0).all()


def test_one_budget_has_no_curve() -> None:
    with pytest.raises(ValueError, match="two budgets"):
        fit(("a",), (100.0,), np.array([[4.0]]))


def test_the_ratio_is_that_of_the_curves() -> None:
    found = budget_ratio(measured(0.8), "arm", "base", 400, 0.95)
    assert found.value == pytest.approx(0.8, rel=0.01)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.02
    assert found.bound == ""


def test_far_outside_only_a_bound() -> None:
    better = budget_ratio(measured(0.1), "arm", "base", 400, 0.95)
    assert (better.bound, better.high) == ("below", pytest.approx(100 / 1.5 / 400))
    worse = budget_ratio(measured(3.0), "arm", "base", 400, 0.95)
    assert (worse.bound, worse.low) == ("above", 1.5)


def test_equal_cost() -> None:
    """An arm that needs 0.8 of the tokens at 1.25 times the cost of each is as good."""
    found = difference_at_equal_cost(measured(0.8), "arm", "base", 400, 1.25, 0.95)
    assert found.value == pytest.approx(0.0, abs=0.003)
    dear = difference_at_equal_cost(measured(0.8), "arm", "base", 400, 8, 0.95)
    assert dear.bound == "above", "it would be at 50 tokens, below 67"
