"""Every schedule at points worked out by hand, and what it refuses."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.schedule.constant import Constant
from minigpt.schedule.linear import Linear
from minigpt.schedule.warmup_cosine import WarmupCosine
from minigpt.schedule.wsd import WSD

HALF = math.sqrt(0.5)

BY_HAND = [
    # 12 steps, 4 of warm-up, 8 down: at quarters the cosine passes 1, (1 + HALF) / 2, 1/2,
    # (1 - HALF) / 2 and 0.
    (
        WarmupCosine(warmup=4),
        12,
        {0: 0.2, 1: 0.4, 3: 0.8, 4: 1, 6: (1 + HALF) / 2, 8: 0.5, 10: (1 - HALF) / 2, 12: 0},
    ),
    (WarmupCosine(warmup=4, floor=0.2), 12, {0: 0.2, 4: 1, 8: 0.6, 12: 0.2}),
    (WarmupCosine(warmup=0), 4, {0: 1, 2: 0.5, 4: 0}),
    (Linear(warmup=4), 12, {0: 0.2, 3: 0.8, 4: 1, 6: 0.75, 8: 0.5, 11: 0.125, 12: 0}),
    (Linear(warmup=0, floor=0.5), 10, {0: 1, 5: 0.75, 9: 0.55, 10: 0.5}),
    (WSD(warmup=3, decay=4), 10, {0: 0.25, 2: 0.75, 3: 1, 6: 1, 7: 0.75, 8: 0.5, 9: 0.25, 10: 0}),
    (WSD(warmup=0, decay=5, floor=0.5), 10, {0: 1, 5: 1, 6: 0.9, 9: 0.6, 10: 0.5}),
    (WSD(warmup=0, decay=0), 10, {0: 1, 9: 1, 10: 1}),
    (WSD(warmup=5, decay=5), 10, {4: 5 / 6, 5: 1, 9: 0.2}),
    (Constant(warmup=4), 10, {0: 0.2, 3: 0.8, 4: 1, 9: 1, 10: 1}),
    (Constant(warmup=0), 1, {0: 1}),
]


@pytest.mark.parametrize(("schedule", "steps", "expected"), BY_HAND)
def test_values_worked_out_by_hand(schedule, steps, expected):
    assert {step: schedule(step, steps) for step in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", [WarmupCosine, Linear, WSD, Constant])
def test_warmup_below_one_is_a_share_of_the_run(schedule):
    by_share, by_steps = schedule(warmup=0.25), schedule(warmup=10)
    assert [by_share(s, 40) for s in range(40)] == [by_steps(s, 40) for s in range(40)]
    assert schedule(warmup=1)(0, 40) == 0.5  # an integer 1 is one step
    assert schedule(warmup=0.01)(0, 40) == 1  # 0.4 of a step rounds to none


@pytest.mark.parametrize("schedule", [WarmupCosine, Linear, WSD, Constant])
@pytest.mark.parametrize("warmup", [10, 11, 0.99])
def test_warmup_that_fills_the_run_is_refused_with_both_numbers(schedule, warmup):
    with pytest.raises(
        ValueError,
        match=rf"schedule.warmup={warmup} is 1[01] steps of warm-up in a run of 10 steps",
    ):
        schedule(warmup=warmup)(0, 10)


@pytest.mark.parametrize("warmup", [-1, 2.5, math.inf, math.nan])
def test_impossible_durations_are_refused(warmup):
    with pytest.raises(ValueError, match=r"schedule\.warmup"):
        Constant(warmup=warmup)(0, 10)


def test_wsd_refuses_warmup_and_decay_that_overlap():
    with pytest.raises(
        ValueError,
        match=r"schedule.warmup=6 and schedule.decay=0.5 are 6 \+ 5 steps in a run of 10",
    ):
        WSD(warmup=6, decay=0.5)(0, 10)


@pytest.mark.parametrize("schedule", [WarmupCosine, Linear, WSD])
@pytest.mark.parametrize("floor", [-0.1, 1.5, math.nan])
def test_floor_outside_zero_to_one_is_refused(schedule, floor):
    with pytest.raises(ValueError, match=r"schedule\.floor"):
        schedule(floor=floor)


def test_a_step_outside_the_run_is_refused():
    for step in (-1, 11):
        with pytest.raises(ValueError, match=f"step={step} is outside 0..10"):
            Constant()(step, 10)


@given(
    schedule=st.sampled_from([WarmupCosine, Linear, WSD, Constant]),
    warmup=st.floats(0, 0.7),
    steps=st.integers(1, 300),
)
def test_always_within_zero_and_one_positive_before_the_end_and_up_then_down(
    schedule, warmup, steps
):
    if round(warmup * steps) >= steps:
        warmup = 0.0
    lrs = [schedule(warmup=warmup)(s, steps) for s in range(steps)]
    assert all(0 < lr <= 1 for lr in lrs)
    peak = lrs.index(max(lrs))
    assert lrs[peak] == 1
    assert lrs[: peak + 1] == sorted(lrs[: peak + 1])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)


@pytest.mark.parametrize("schedule", [WarmupCosine, Linear, WSD, Constant])
def test_a_schedule_is_a_value(schedule):
    assert schedule(warmup=3) == schedule(warmup=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule().warmup = 5
