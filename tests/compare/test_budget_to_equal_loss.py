"""Budgets at equal loss: known answers between end points, and bounds outside them."""

import math

import pytest

from minigpt.compare.budget_to_equal_loss import bend, budget_to_equal_loss, crossing

SEEDS = range(100, 108)


def curve(base: float, *budgets: int, noise: float = 0.0) -> dict[int, dict[int, float]]:
    """Loss falls by 0.1 with every doubling of the budget; seeds differ by `noise` each."""
    return {
        h: {s: base - 0.1 * math.log2(h / 100) + noise * (s - 103.5) for s in SEEDS}
        for h in budgets
    }


def test_between_end_points_the_loss_is_linear_in_the_log_of_the_budget() -> None:
    # The arm is better by 0.05 everywhere: half a doubling, so 2 ** -0.5 of the budget.
    found = budget_to_equal_loss(curve(4.0, 200)[200], 200, curve(3.95, 100, 200, 400))
    assert found is not None
    assert found.log is not None
    assert math.exp(found.log.mean) == pytest.approx(2**-0.5)
    assert (found.used, found.n) == ((100, 200), 8)
    assert (found.at_least, found.at_most) == (0.5, 2.0)


def test_noise_that_pairs_share_cancels() -> None:
    found = budget_to_equal_loss(
        curve(4.0, 200, noise=0.02)[200], 200, curve(3.95, 100, 200, noise=0.02)
    )
    assert found is not None
    assert found.log is not None
    assert (found.log.low, found.log.high) == pytest.approx((math.log(2**-0.5),) * 2)


def test_seeds_give_log_ratios_with_a_t_interval() -> None:
    arm = curve(3.95, 100, 200)
    shift = {seed: 0.01 * (-1) ** seed for seed in SEEDS}
    target = {seed: loss + shift[seed] for seed, loss in curve(4.0, 200)[200].items()}
    found = budget_to_equal_loss(target, 200, arm)
    assert found is not None
    assert found.log is not None
    # 0.01 of loss is a tenth of a doubling
    assert found.log.sd == pytest.approx(0.1 * math.log(2) * math.sqrt(8 / 7))
    assert found.log.low < math.log(2**-0.5) < found.log.high


@pytest.mark.parametrize(
    ("base", "budgets", "bound", "used"),
    [
        (4.2, (100, 200), "above", (200,)),  # worse by two doublings: 200 tokens are not enough
        (3.7, (100, 200), "below", (100,)),  # better by three: already 100 are more than enough
        (3.95, (200,), "below", (200,)),
        (4.05, (200,), "above", (200,)),
    ],
)
def test_outside_of_the_end_points_there_is_only_a_bound(
    base: float, budgets: tuple[int, ...], bound: str, used: tuple[int, ...]
) -> None:
    found = budget_to_equal_loss(curve(4.0, 200)[200], 200, curve(base, *budgets))
    assert found is not None
    assert (found.log, found.bound, found.used) == (None, bound, used)


def test_a_seed_whose_loss_does_not_fall_leaves_no_number() -> None:
    arm = curve(3.95, 100, 200)
    arm[200][103] = arm[100][103] + 0.01
    found = budget_to_equal_loss(curve(4.0, 200)[200], 200, arm)
    assert found is not None
    assert (found.log, found.bound) == (None, "unclear")


def test_diverged_seeds_are_left_out_and_no_common_seed_is_nothing() -> None:
    arm = curve(3.95, 100, 200)
    arm[100][100] = math.inf
    found = budget_to_equal_loss(curve(4.0, 200)[200], 200, arm)
    assert found is not None
    assert found.n == 7
    assert budget_to_equal_loss({1: 4.0}, 200, arm) is None


def test_a_bound_that_noise_could_undo_is_called_about() -> None:
    target = curve(4.0, 200)[200]
    for sign, bound in ((1, "about above"), (-1, "about below")):
        # Differences of +-0.05 around a mean of +-0.001: the two end points cannot be told apart.
        arm = {
            200: {seed: loss + sign * 0.001 + 0.05 * (-1) ** seed for seed, loss in target.items()}
        }
        found = budget_to_equal_loss(target, 200, arm)
        assert found is not None
        assert (found.log, found.bound) == (None, bound)


def test_three_budgets_follow_the_bend_of_the_losses() -> None:
    # Losses on a parabola in log2 of the budget, the same for both arms but for a shift: read off
    # without any error.
    def loss(tokens: float) -> float:
        return 4.0 - 0.12 * math.log2(tokens / 200) + 0.02 * math.log2(tokens / 200) ** 2

    target = dict.fromkeys(SEEDS, loss(200))
    arm = {tokens: dict.fromkeys(SEEDS, loss(tokens) - 0.06) for tokens in (100, 200, 400)}
    found = budget_to_equal_loss(target, 200, arm)
    assert found is not None
    assert found.log is not None
    assert loss(200 * math.exp(found.log.mean)) - 0.06 == pytest.approx(loss(200), abs=1e-9)
    straight = budget_to_equal_loss(target, 200, {tokens: arm[tokens] for tokens in (100, 200)})
    assert straight is not None
    assert straight.log is not None
    # the chord overstates the need
    assert found.log.mean < straight.log.mean < found.log.mean + 0.05


def test_bend_and_crossing_by_hand() -> None:
    assert bend({1: 0.0, 2: 0.0}, 1) == 0.0
    e = math.e
    # second divided difference of x^2 is 1
    squares = {round(e**k * 1e6): float(k * k) for k in range(4)}
    assert bend(squares, round(e * 1e6)) == pytest.approx(1.0, abs=1e-5)
    assert bend({k: -v for k, v in squares.items()}, round(e * 1e6)) == 0.0
    assert crossing(0.5, 1.0, 0.0) == 0.5
    u = crossing(0.5, 1.0, 0.4)
    assert 0.5 - u + 0.4 * u * (u - 1) == pytest.approx(0.0)
    assert 0 < u < 0.5
