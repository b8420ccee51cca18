"""Several arms: the set that may hold the best, trends over cells, what tuning buys."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from minigpt.compare.cell_trend import trend
from minigpt.compare.ranking import rank
from minigpt.compare.statistics import t_interval
from minigpt.compare.tuning_value import expected_best, gain_off_grid, good_range


def arms(effects: dict[str, float], n: int = 8, seed: int = 0) -> dict[str, dict[int, float]]:
    draw = random.Random(seed)
    common = [draw.gauss(4, 0.05) for _ in range(n)]
    return {
        arm: {at: level + effect + draw.gauss(0, 0.01) for at, level in enumerate(common)}
        for arm, effect in effects.items()
    }


def test_the_order_and_who_may_be_best() -> None:
    ranked = rank(arms({"a": 0.0, "b": 0.1, "c": 0.001}), 0.05)
    assert {one.arm for one in ranked[:2]} == {"a", "c"}
    assert [one.arm for one in ranked if one.may_be_best] == [one.arm for one in ranked[:2]]
    assert ranked[2].p < 0.001


def test_the_best_is_seldom_out() -> None:
    """Ten equal arms: any given one is out in at most 5 % of studies."""
    studies = 400
    out = sum(
        not next(one for one in rank(arms(dict.fromkeys("abcdefghij", 0.0), seed=seed), 0.05)
                 if one.arm == "a").may_be_best
        for seed in range(studies)
    )  # fmt: skip
    assert out / studies < 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5


def test_another_arm_has_to_be_better_between_the_points_of_grids_too() -> None:
    losses = arms({"a": 0.0, "b": 0.1})
    assert [one.may_be_best for one in rank(losses, 0.05, {"a": 0.1})] == [True, False]
    assert [one.may_be_best for one in rank(losses, 0.05, {"a": 0.1, "b": 0.2})] == [True, True]


def test_one_arm_is_the_best() -> None:
    (only,) = rank({"a": {0: 1.0, 1: 2.0}}, 0.05)
    assert only.may_be_best


def test_arms_are_paired_on_the_seeds_that_both_have() -> None:
    losses = arms({"a": 0.0, "b": 0.1, "c": 0.2})
    for seed in range(7):
        del losses["c"][seed]
    ranked = {one.arm: one.may_be_best for one in rank(losses, 0.05)}
    assert ranked == {"a": True, "b": False, "c": True}, "one seed of c proves nothing"


def test_who_diverged_comes_last_and_is_out_if_it_is_no_chance() -> None:
    losses = arms({"a": 0.0, "b": -0.5})
    losses["b"][3] = math.inf
    ranked = rank(losses, 0.05)
    assert [one.arm for one in ranked] == ["a", "b"]
    assert ranked[1].may_be_best, "one seed of eight"
    assert ranked[0].may_be_best, "losses of those that are left do not judge"
    for seed in range(5):
        losses["b"][seed] = math.inf
    ranked = rank(losses, 0.05)
    assert ranked[1].p == pytest.approx(0.5**5)
    assert [one.may_be_best for one in ranked] == [True, False]


def test_one_effect_everywhere_and_a_slope() -> None:
    draw = np.random.default_rng(1)
    cells = [{"batch": 2.0**k} for k in range(2, 7)]
    equal = trend([t_interval(draw.normal(-0.04, 0.01, 8)) for _ in cells], cells, 0.95)
    assert equal is not None
    assert equal.homogeneity > 0.01
    growing = trend([t_interval(draw.normal(-0.02 * k, 0.01, 8)) for k in range(2, 7)], cells, 0.95)
    assert growing is not None
    assert growing.homogeneity < 1e-6
    (slope,) = growing.slopes
    assert slope.key == "batch"
    assert slope.low < -0.02 < slope.high
    assert slope.p < 1e-6


def test_homogeneity_is_welchs_test() -> None:
    groups = [[1.0, 1.2, 0.8, 1.1], [2.0, 2.6, 1.4], [2.5, 2.7, 2.3]]
    cells = [{"n": 1.0}, {"n": 2.0}, {"n": 8.0}]
    found = trend([t_interval(values) for values in groups], cells, 0.95)
    assert found is not None
    assert found.homogeneity == pytest.approx(stats.f_oneway(*groups, equal_var=False).pvalue)
    slope, _ = np.polyfit([0, 1, 3], [np.mean(values) for values in groups], 1)
    assert found.slopes[0].value == pytest.approx(slope)


def test_the_slope_of_two_cells_is_welchs_t_test() -> None:
    one, other = [1.0, 1.2, 0.8, 1.1, 1.3], [2.0, 2.6, 1.4]
    found = trend([t_interval(one), t_interval(other)], [{"n": 1.0}, {"n": 2.0}], 0.95)
    assert found is not None
    expected = stats.ttest_ind(other, one, equal_var=False)
    interval = expected.confidence_interval(0.95)
    (slope,) = found.slopes
    assert slope.value == pytest.approx(np.mean(other) - np.mean(one))
    assert (slope.low, slope.high) == pytest.approx((interval.low, interval.high))
    assert slope.p == pytest.approx(expected.pvalue)
    assert found.homogeneity == pytest.approx(expected.pvalue)


def test_between_the_points_of_a_grid() -> None:
    """The vertex of a parabola, for steps that are not equal too; each key by itself."""

    def scores(best: float) -> dict[tuple[tuple[str, float], ...], float]:
        return {
            (("lr", lr), ("beta", beta)): 4
            + 0.1 * (math.log2(lr) - best) ** 2
            + (0.2 if beta == 0.8 else 0.0)
            for lr in (0.25, 0.5, 1, 4)
            for beta in (0.8, 0.9)
        }

    chosen = (("lr", 1), ("beta", 0.9))
    assert gain_off_grid(scores(0.0), chosen) == pytest.approx(0.0)
    assert gain_off_grid(scores(0.3), chosen) == pytest.approx(0.1 * 0.3**2)
    assert gain_off_grid(scores(-0.4), chosen) == pytest.approx(0.1 * 0.4**2)
    edge = (("lr", 4), ("beta", 0.9))
    assert gain_off_grid(scores(2.0), edge) == pytest.approx(0.0)
    assert gain_off_grid(scores(1.8), edge) == pytest.approx(0.1 * 0.2**2)
    assert gain_off_grid(scores(2.5), edge) == pytest.approx(0.4), "it still falls: as wide again"
    assert gain_off_grid(scores(-3.0), (("lr", 0.25), ("beta", 0.9))) == pytest.approx(0.2 * 4)
    two = {(("lr", lr),): 1.0 - 0.1 * math.log2(lr) for lr in (1, 2)}
    assert gain_off_grid(two, (("lr", 2),)) == pytest.approx(0.1)
    assert gain_off_grid({(("lr", 2),): 1.0}, (("lr", 2),)) == 0
    broken = scores(0.3) | {(("lr", 4), ("beta", 0.9)): math.inf}
    assert gain_off_grid(broken, chosen) == 0


def test_one_cell_has_no_trend() -> None:
    assert trend([t_interval([1.0, 2.0])], [{"n": 1.0}], 0.95) is None


def test_expected_best_is_that_of_drawing() -> None:
    losses = [3.0, 1.0, 2.0, 5.0]
    draw = np.random.default_rng(0)
    found = expected_best(losses)
    assert found[0] == pytest.approx(np.mean(losses))
    for k in (2, 4):
        drawn = draw.choice(losses, (200_000, k)).min(axis=1).mean()
        assert found[k - 1] == pytest.approx(drawn, abs=0.01)


def test_trials_that_diverged_count_as_the_worst() -> None:
    assert expected_best([1.0, math.inf, 2.0]) == expected_best([1.0, 2.0, 2.0])
    assert expected_best([math.inf]) == []


def test_the_good_range_of_a_rate() -> None:
    def setting(lr: float, beta: float = 0.9) -> tuple[tuple[str, float], ...]:
        return (("lr", lr), ("beta", beta))

    scores = {setting(lr): 4 + math.log2(lr) ** 2 for lr in (0.25, 0.5, 1, 2, 4)}
    scores |= {setting(0.5, 0.8): 0.0}
    low, high, width = good_range(scores, setting(1), "lr", 1.0) or (0, 0, 0)
    assert (low, high, width) == (0.5, 2, 2)
    low, high, width = good_range(scores, setting(1), "lr", 2.5) or (0, 0, 0)
    assert width == pytest.approx(3.0), "half way to the next point on either side"
    assert (good_range(scores, setting(1), "lr", 99) or (0, 0, 0))[:2] == (0.25, 4)
    assert good_range(scores, setting(1), "beta", 1.0) is None
