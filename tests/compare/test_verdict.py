"""What the command concludes from studies whose truth is known."""

import math
import re
from collections.abc import Callable

import pytest
from studies import Compare, Study, wobble

LRS = (0.01, 0.02, 0.04)


def losses(
    base: float, optimum: float = 0.02, own: float = 0.0
) -> Callable[[float, int, int], float]:
    return lambda lr, seed, steps: (
        base
        + 0.05 * math.log2(lr / optimum) ** 2
        - 0.1 * math.log2(steps / 100)
        + wobble(seed, lr + own)
    )


def verdict_line(compare: Compare) -> str:
    return next(line for line in compare.out.splitlines() if line.startswith("["))


def test_an_arm_that_ends_lower_is_found_with_its_budget_ratio(
    study: Study, compare: Compare
) -> None:
    """Differences and intervals are shown, and the words of a claim never."""
    study.tuned_and_confirmed("adamw", losses(4.0), LRS, 0.02, steps=(100, 200))
    study.tuned_and_confirmed("muon", losses(3.95, own=1), LRS, 0.02, steps=(100, 200))
    assert compare("--by", "optim") == 0, compare.err
    assert verdict_line(compare).startswith(
        "[<] Exploratory, at 102,400 tokens: muon ended lower than adamw: -0.05"
    )
    assert "8 pairs" in verdict_line(compare)
    ratio = re.search(r"^  muon +tokens +([\d.]+)x \(", compare.out, re.MULTILINE)
    assert ratio is not None
    assert float(ratio[1]) == pytest.approx(2**-0.5, abs=0.02), "half a doubling"
    assert "nothing was declared before these runs, so nothing is claimed" in compare.out
    assert not re.search(r"\b(better|worse|equivalent)\b", compare.out)
    assert compare("--by", "optim", "--baseline", "muon") == 0
    assert verdict_line(compare).startswith(
        "[>] Exploratory, at 102,400 tokens: adamw ended higher than muon: +0.05"
    )


def test_within_a_margin_arms_end_alike_and_undecided_ones_say_how_many_pairs_decide(
    study: Study, compare: Compare
) -> None:
    study.tuned_and_confirmed("adamw", losses(4.0), LRS, 0.02)
    study.tuned_and_confirmed("muon", losses(3.999, own=1), LRS, 0.02)
    assert compare("--by", "optim", "--margin", "0.02") == 0
    assert verdict_line(compare).startswith(
        "[=] Exploratory, at 102,400 tokens: muon and adamw ended alike"
    )
    assert "within the margin of 0.02" in verdict_line(compare)
    assert compare("--by", "optim", "--margin", "0.003") == 0
    assert verdict_line(compare).startswith(
        "[?] Exploratory, at 102,400 tokens: muon against adamw is undecided"
    )
    assert "pairs that decide 8 of 10 studies by the margin of 0.003" in compare.out


def test_the_setting_is_chosen_on_tuning_seeds_and_judged_on_the_others(
    study: Study, compare: Compare
) -> None:
    study.tuned_and_confirmed("adamw", losses(4.0), LRS, 0.02)
    study.tuned_and_confirmed("muon", losses(3.9, own=1), LRS, 0.02)
    for seed in range(100, 108):  # much better on confirmation seeds, but that is not what chooses
        study.run("muon", seed, 2.0 + wobble(seed), lr=0.01, steps=200)
    assert compare("--by", "optim") == 0
    assert "muon ended lower than adamw: -0.10" in verdict_line(compare)


def test_a_lone_run_at_another_budget_is_no_tuning_there(study: Study, compare: Compare) -> None:
    for arm, base in (("adamw", 4.0), ("muon", 3.9)):
        study.tuned_and_confirmed(arm, losses(base, own=len(arm)), LRS, 0.02, steps=(100,))
        for seed in range(100, 108):
            study.run(arm, seed, losses(base, own=len(arm))(0.02, seed, 200), lr=0.02, steps=200)
        study.run(arm, 0, 1.0, lr=0.04, steps=200)
    assert compare("--by", "optim") == 0
    assert verdict_line(compare).startswith(
        "[<] Exploratory, at 102,400 tokens: muon ended lower than adamw: -0.10"
    )
    assert "muon: tuned at 51,200 tokens, judged at 102,400" in compare.out


def test_few_seeds_are_shown_and_claim_nothing(study: Study, compare: Compare) -> None:
    study.tuned_and_confirmed("adamw", losses(4.0), LRS, 0.02, confirm=range(100, 103))
    study.tuned_and_confirmed("muon", losses(3.0, own=1), LRS, 0.02, confirm=range(100, 103))
    assert compare("--by", "optim") == 0
    assert verdict_line(compare).startswith("[?]")
    assert ": -1.00" in verdict_line(compare)
    assert "3 pairs, of 8 that a claim needs" in verdict_line(compare)


def test_tuning_seeds_alone_are_no_evidence_once_they_chose(study: Study, compare: Compare) -> None:
    for arm, base in (("adamw", 4.0), ("muon", 3.0)):
        for lr in LRS:
            for seed in range(10):
                study.run(arm, seed, losses(base, own=len(arm))(lr, seed, 100), lr=lr)
    assert compare("--by", "optim") == 0
    assert verdict_line(compare).startswith("[?]")
    assert "its seeds chose the settings" in verdict_line(compare)
    assert "muon against adamw: chosen on the very seeds shown here" in compare.out


def test_one_setting_an_arm_chose_nothing_so_any_seeds_judge(
    study: Study, compare: Compare
) -> None:
    for seed in range(8):
        study.run("adamw", seed, 4.0 + wobble(seed))
        study.run("muon", seed, 3.9 + wobble(seed, 1))
    assert compare("--by", "optim") == 0
    assert verdict_line(compare).startswith("[<]")
    assert "untuned: one setting for each arm" in compare.out


def test_equal_runs_are_no_difference_and_never_nan(study: Study, compare: Compare) -> None:
    for seed in range(100, 108):
        study.run("adamw", seed, 4.0)
        study.run("muon", seed, 4.0)
    assert compare("--by", "optim") == 0
    assert verdict_line(compare).startswith(
        "[=] Exploratory, at 51,200 tokens: there is no difference between muon and adamw"
    )
    assert "nan" not in compare.out.lower()
    assert "inf" not in compare.out.lower()


def test_a_constant_shift_is_one_measurement_repeated(study: Study, compare: Compare) -> None:
    for seed in range(100, 108):
        study.run("adamw", seed, 4.1 + wobble(seed))
        study.run("muon", seed, 4.0 + wobble(seed))
    assert compare("--by", "optim") == 0
    assert "all 8 pairs differ by exactly as much" in verdict_line(compare)


def test_a_diverged_seed_counts_against_its_arm(study: Study, compare: Compare) -> None:
    for seed in range(100, 110):
        study.run("adamw", seed, 4.0 + wobble(seed))
        if seed != 103:
            study.run("muon", seed, 3.9 + wobble(seed, 1))
    study.run("muon", 103, math.inf, status="diverged")
    assert compare("--by", "optim") == 0
    assert verdict_line(compare).startswith("[?]")
    assert "seeds diverged, not unevenly enough" in verdict_line(compare)
    assert "muon: seeds 103 diverged" in compare.out
    assert "x tokens" not in compare.out, "no ratio of the survivors"
    assert compare("--by", "optim", "--baseline", "muon") == 0
    assert verdict_line(compare).startswith("[?]")


def test_an_arm_that_always_diverges_ended_higher(study: Study, compare: Compare) -> None:
    for seed in range(100, 108):
        study.run("adamw", seed, 4.0 + wobble(seed))
        study.run("muon", seed, math.inf, status="diverged")
    assert compare("--by", "optim") == 0
    assert verdict_line(compare).startswith("[>]")
    assert "it diverged on 8 seeds where the baseline did not" in verdict_line(compare)


def test_any_shared_learning_rate_names_its_axis(study: Study, compare: Compare) -> None:
    for arm in ("adamw", "muon"):
        for lr in LRS:
            both = {"optim.third_lr": lr, "optim.embed.lr": lr, "optim.scalar.lr": lr}
            for seed in (0, 1):
                study.run(arm, seed, losses(4.0)(lr, seed, 100), config=both)
    assert compare("--by", "optim") == 0
    assert re.search(r"muon +optim.third_lr=0.02", compare.out)


def test_a_setting_that_diverged_while_tuning_is_not_chosen(study: Study, compare: Compare) -> None:
    study.tuned_and_confirmed("adamw", losses(4.0), LRS, 0.02)
    study.tuned_and_confirmed("muon", losses(3.9, own=1), LRS, 0.02)
    study.run("muon", 0, 1.0, lr=0.08, steps=200)
    study.run("muon", 1, math.inf, lr=0.08, steps=200, status="diverged")
    assert compare("--by", "optim") == 0
    assert re.search(r"muon +optim.lr=0.02", compare.out)


def test_holm_guards_several_arms(study: Study, compare: Compare) -> None:
    # One borderline arm (p = 0.03 alone) beside others that do nothing.
    own = [0.9, -1.1, 0.2, 1.4, -0.6, 0.5, -0.9, 1.6]
    for seed, x in zip(range(100, 108), own):
        study.run("adamw", seed, 4.0 + wobble(seed))
        study.run("muon", seed, 4.0 + wobble(seed) - 0.001 * (x - 0.25 + 0.92))
        study.run("lion", seed, 4.0 + wobble(seed, 2))
        study.run("soap", seed, 4.0 + wobble(seed, 3))
    assert compare("--by", "optim", "--where", "optim=muon") == 2
    assert compare("--by", "optim") == 0
    muon = next(line for line in compare.out.splitlines() if " muon against adamw" in line)
    assert "not after Holm's adjustment for several arms" in muon


def test_one_budget_is_a_doubt_and_two_are_not(study: Study, compare: Compare) -> None:
    for steps in (100, 200):
        for seed in range(100, 108):
            study.run("adamw", seed, losses(4.0)(0.02, seed, steps), steps=steps)
            study.run("muon", seed, losses(3.9, own=1)(0.02, seed, steps), steps=steps)
        assert compare("--by", "optim") == 0
        assert ("one budget:" in compare.out) == (steps == 100)


@pytest.mark.parametrize(("best", "is_edge"), [(0.005, True), (0.04, True), (0.02, False)])
def test_a_best_value_on_the_edge_of_its_grid_is_named(
    study: Study, compare: Compare, best: float, is_edge: bool
) -> None:
    study.tuned_and_confirmed("adamw", losses(4.0), LRS, 0.02)
    study.tuned_and_confirmed("muon", losses(3.9, optimum=best), (0.005, 0.01, 0.02, 0.04), best)
    assert compare("--by", "optim") == 0
    line = f"muon: the best optim.lr={best:g} still lies on an edge of what was tried"
    assert (line in compare.out) == is_edge
    assert ("on an edge" in compare.out) == is_edge
    assert "unequal trials: adamw 3, muon 4" in compare.out
