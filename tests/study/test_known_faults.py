"""Faults that verdicts had while a comparison guessed from folders what was meant: none comes back.

One test or more for each, in the order of the list in which they were found; named by what holds.
"""

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from declared import (
    FolderRuns,
    Loss,
    Notes,
    SimulatedRuns,
    conclude,
    conclude_in_folder,
    declared,
    noisy,
)
from studies import Compare, Study

from minigpt.compare.declared import CellRuling, judge
from minigpt.compare.study_findings import CellFindings, findings
from minigpt.compare.study_notes import notes
from minigpt.compare.study_power import pairs_for_the_margin
from minigpt.errors import ConfigError
from minigpt.study.conduct import Look, Unfinished, conduct
from minigpt.study.declaration import Declaration
from minigpt.study.planned import PlannedRun


def word(ruling: object, arm: str = "muon") -> str:
    assert isinstance(ruling, CellRuling)
    return ruling.words[arm]


def claims(declaration: Declaration, studies: int, loss_of: Callable[[int], Loss]) -> list[str]:
    """The verdicts on muon of so many simulated studies."""
    found = []
    for number in range(studies):
        conclusion = conclude(declaration, SimulatedRuns(loss_of(number)))
        found += [word(ruling) for ruling in conclusion.rulings.values()]
    return found


def at_most(share: float, of: int) -> float:
    """How many of so many studies may err: the share and two standard errors."""
    return of * (share + 2 * math.sqrt(share * (1 - share) / of))


def cell_of(declaration: Declaration, study: Study, loss: Loss, **facts: Any) -> CellFindings:
    """The findings of a study over run folders. facts: by arm, as arguments of `Study.run`."""
    runs = FolderRuns(declaration, study, loss, lambda run: facts.get(run.arm, {}))
    content = {"declared": "2026-01-01", "amendments": [], "sha256": 64 * "0"}
    (cell,) = findings(declaration, conclude_in_folder(runs), runs, content).cells
    return cell


# 1
def test_no_run_declares_a_margin_for_others(study: Study, compare: Compare) -> None:
    """Without a declared study: whichever run is first, its margin judges none of them."""
    for arm, margin in (("muon", 0.01), ("adamw", 0.5)):
        for seed in range(100, 108):
            loss = 4 + random.Random(f"{arm} {seed}").gauss(0, 0.02)
            study.run(arm, seed, loss, config={"verdict.margin": margin})
    assert compare("--by", "optim") == 0, compare.err
    assert compare.out.splitlines()[2].startswith("[?] Exploratory")
    assert "equivalent" not in compare.out


def test_a_declared_margin_is_not_looked_up_in_runs(study: Study, compare: Compare) -> None:
    declaration = declared()
    runs = FolderRuns(
        declaration, study, noisy(0.0, 0.02), lambda run: {"config": {"verdict.margin": 0.5}}
    )
    conclude_in_folder(runs)
    assert compare("--study", "a_study") == 0, compare.err
    assert compare.out.splitlines()[2].startswith("[?]")
    assert "margin 0.01" in compare.out


# 2
@pytest.mark.parametrize("seeds", [[100], [0, 107], list(range(100, 108))])
def test_seeds_that_tune_never_confirm(seeds: list[int]) -> None:
    with pytest.raises(ConfigError, match="seeds that tune must not confirm"):
        declared(tune__seeds=seeds)


# 3
def test_a_setting_is_chosen_on_all_tuning_seeds_or_not_at_all() -> None:
    """Seed 0 is easy by a nat, and the worst setting ended on no other."""

    def loss(run: PlannedRun) -> float:
        worst = dict(run.setting)["optim.lr_scale"] == 2
        return 4 - (run.seed == 0) + 0.1 * worst

    def fails(run: PlannedRun) -> bool:
        return run.seed == 1 and dict(run.setting)["optim.lr_scale"] == 2

    notes, runs = Notes(), SimulatedRuns(loss, fails)
    for _ in range(2):  # the second time its other runs have ended before
        with pytest.raises(Unfinished, match="lr_scale=2, seed 1"):
            conclude(declared(), runs, notes)
        assert notes == []


# 4, 5 and 12
@pytest.fixture
def undisturbed(study: Study, compare: Compare) -> str:
    """What compare says of a study that found muon better; its runs are in the folder."""
    conclude_in_folder(FolderRuns(declared(), study, noisy(0.08)))
    assert compare("--study", "a_study") == 0, compare.err
    assert compare.out.splitlines()[2].startswith("[+] muon against adamw")
    return compare.out


def test_runs_at_other_budgets_move_nothing(
    undisturbed: str, study: Study, compare: Compare
) -> None:
    """Two exploratory runs at a longer budget, a pilot of two seeds at a shorter one."""
    for arm, loss in (("muon", 9.0), ("adamw", 1.0)):
        for seed in (100, 101):
            study.run(arm, seed, loss, steps=900, study="a_study")
            study.run(arm, seed, loss, steps=50, study="a_study")
    assert compare("--study", "a_study") == 0, compare.err
    assert compare.out == undisturbed


def test_runs_on_other_seeds_neither_choose_nor_judge(
    undisturbed: str, study: Study, compare: Compare
) -> None:
    """Five more seeds, on which the settings that were not chosen would win."""
    for arm in ("muon", "adamw"):
        for scale, lr in ((0.5, 0.01), (2, 0.04)):
            for seed in (2, 3, 50, 108, 200):
                config = {"optim.lr_scale": scale}
                study.run(arm, seed, 1.0, lr=lr, steps=200, study="a_study", config=config)
    assert compare("--study", "a_study") == 0, compare.err
    assert compare.out == undisturbed


# 6
def test_looks_share_the_5_percent_and_are_taken_where_declared() -> None:
    """Nine looks at equal arms: reading each at 5 % would be wrong in 13 % of studies."""
    declaration = declared(margin=0.0, tune__over={}, confirm__looks=list(range(8, 17)))
    studies = 400

    def equal(number: int) -> Loss:
        return lambda run: random.Random(f"{number} {run.arm} {run.seed} {run.budget}").gauss(4, 1)

    found = claims(declaration, studies, equal)
    wrong = sum(said in ("better", "worse") for said in found)
    assert wrong <= at_most(0.05, studies)
    notes = Notes()
    conclude(declared(confirm__looks=[8, 16]), SimulatedRuns(noisy(0.01, 0.05)), notes)
    assert [entry["pairs"] for entry in notes if entry["what"] == "look"] == [8, 16]


# 7
def test_settings_that_tie_are_a_choice() -> None:
    """The one that was tried first, with a note that it lies within noise elsewhere."""

    def level(run: PlannedRun) -> float:
        effect = -0.1 if run.arm == "muon" else 0.0
        return 4 + effect + random.Random(f"{run.arm} {run.seed}").gauss(0, 0.01)

    conclusion = conclude(declared(), SimulatedRuns(level))
    chosen = {setting for found in conclusion.looks.values() for setting in found.chosen.values()}
    assert chosen == {(("optim.lr_scale", 0.5),)}
    assert word(conclusion.rulings[()]) == "better"


# 8
def test_the_interval_of_seconds_is_that_of_tokens_at_their_price(study: Study) -> None:
    """The tokens' bracket must not clip it: muon takes 1.09 times as long."""
    declaration = declared(budgets={"train.steps": [50, 100, 200]})
    slow = {"step_time_s": 0.0109}
    cell = cell_of(declaration, study, noisy(0.005, 0.02), muon=slow)
    ratios = {cost.what: cost.ratio for cost in cell.equal_costs["muon"]}
    for name in ("value", "low", "high"):
        assert getattr(ratios["seconds"], name) == pytest.approx(
            1.09 * getattr(ratios["tokens"], name)
        ), name
    assert math.isfinite(ratios["seconds"].high)


# 9
def test_pairs_still_needed_follow_from_the_margin_and_not_from_the_difference() -> None:
    """Advice from 16 pairs stays near the truth, whatever difference came out."""
    declaration = declared(confirm__looks=[8, 16])
    needed = pairs_for_the_margin(declaration, 0.02)
    assert needed is not None
    source = random.Random(9)
    told = []
    for _ in range(300):
        pairs = [source.gauss(0.004, 0.02) for _ in range(16)]
        spread = math.sqrt(sum((x - fmean(pairs)) ** 2 for x in pairs) / 15)
        told.append(pairs_for_the_margin(declaration, spread) or math.inf)
    told.sort()
    # that of observed power lay between half and 24 times the true need
    assert needed / 3 < told[7] < needed < told[-8] < 2.5 * needed


@pytest.mark.parametrize("difference", [0.0, 0.02])
def test_with_the_pairs_that_are_named_8_of_10_studies_decide(difference: float) -> None:
    needed = pairs_for_the_margin(declared(confirm__looks=[8]), 0.02)
    assert needed is not None
    declaration = declared(confirm__looks=[needed], tune__over={})
    studies = 300

    def apart(number: int) -> Loss:
        def loss(run: PlannedRun) -> float:
            own = random.Random(f"{number} {run.arm} {run.seed} {run.budget}")
            return 4 + difference * (run.arm == "muon") + own.gauss(0, 0.02 / math.sqrt(2))

        return loss

    right = "worse" if difference else "equivalent"
    decided = sum(said == right for said in claims(declaration, studies, apart))
    assert decided >= studies * 0.8 - 2 * math.sqrt(studies * 0.16)


def test_looks_and_arms_cost_pairs() -> None:
    plain, looks, arms = (
        pairs_for_the_margin(declared(**changes), 0.02) or 0
        for changes in (
            {"confirm__looks": [16]},
            {"confirm__looks": [8, 16]},
            {"arms": ["muon", "adamw", "lion", "sgd"]},
        )
    )
    assert 0 < plain < looks < arms
    assert pairs_for_the_margin(declared(margin=0.0), 0.02) is None


def test_an_undecided_report_names_the_pairs_still_needed(study: Study, compare: Compare) -> None:
    declaration = declared()
    cell = cell_of(declaration, study, noisy(0.01, 0.02))
    finding = cell.ruling.findings["muon"]
    assert finding.word == "undecided"
    assert finding.interval is not None
    needed = pairs_for_the_margin(declaration, finding.interval.sd)
    assert needed is not None
    assert compare("--study", "a_study") == 0, compare.err
    assert "Undecided: pairs that decide 8 of 10 studies by the margin of 0.01:" in compare.out
    spread = f"{finding.interval.sd:.4f}"
    advice = re.escape("16 are declared: another study=, or verdict.amend")
    assert re.search(rf"^  muon +{spread} +16 +{needed} +{advice}$", compare.out, re.MULTILINE)


# 10
def test_a_loss_that_is_no_number_is_no_result(
    undisturbed: str, study: Study, compare: Compare
) -> None:
    """Neither finite nor diverged: the run is named, and nothing is concluded without it."""
    muon = sorted(study.folder.glob("tiny-muon-s103-*"))[0]
    summary = json.loads((muon / "summary.json").read_text())
    summary["val_loss"] = math.nan
    (muon / "summary.json").write_text(json.dumps(summary))
    assert compare("--study", "a_study") == 1
    assert "seed 103" in compare.err
    assert "summary.json" in compare.err


def test_a_seed_that_diverged_is_a_result(study: Study) -> None:
    def loss(run: PlannedRun) -> float:
        return math.inf if (run.arm, run.seed) == ("muon", 103) else noisy(0.2)(run)

    cell = cell_of(declared(confirm__looks=[8]), study, loss)
    assert cell.ruling.findings["muon"].word == "undecided"
    assert cell.ruling.findings["muon"].diverged == (1, 0)


# 11
def test_best_so_far_is_a_mean_over_common_seeds_at_one_budget(
    study: Study, compare: Compare
) -> None:
    for seed, loss in ((0, 3.0), (1, 5.0)):  # mean 4.0, with the lowest loss of all
        study.run("muon", seed, loss, lr=0.02, steps=200)
        study.run("muon", seed, 3.9, lr=0.04, steps=200)
    study.run("muon", 2, 1.0, lr=0.08, steps=100)  # another budget
    study.run("muon", 2, 1.0, lr=0.02, steps=200)  # a seed that the other setting lacks
    assert compare("--status") == 0
    assert "best so far  muon: 3.9000" in compare.out
    assert "(mean of 2 seeds at 102,400 tokens)" in compare.out


# 12
def test_a_study_without_its_worst_seeds_says_nothing(
    undisturbed: str, study: Study, compare: Compare
) -> None:
    for seed in (102, 105):
        for folder in study.folder.glob(f"tiny-muon-s{seed}-*"):
            (folder / "summary.json").unlink()
    assert compare("--study", "a_study") == 1
    assert "unfinished: confirm 8 pairs: 4 of 32 runs did not end" in compare.err
    assert compare.out == ""


# 13
def test_an_arm_that_was_not_declared_costs_nothing(
    undisturbed: str, study: Study, compare: Compare
) -> None:
    study.run("lion", 100, 1.0, steps=200, study="a_study")
    assert compare("--study", "a_study") == 0, compare.err
    assert compare.out == undisturbed


def test_an_arm_that_diverges_on_7_of_8_seeds_is_worse_and_has_no_ratio(study: Study) -> None:
    def loss(run: PlannedRun) -> float:
        judged = run.seed >= 100 and run.arm == "muon"
        return math.inf if judged and run.seed != 104 else noisy(0.2)(run)

    cell = cell_of(declared(), study, loss)
    assert cell.ruling.findings["muon"].word == "worse"
    assert cell.ruling.findings["muon"].diverged == (7, 0)
    assert cell.equal_costs["muon"] == []


# 14
def test_arms_of_unequal_flops_are_doubted_and_judged_at_equal_flops(study: Study) -> None:
    big = {"summary": {"flops_per_token": 26 * 762_240, "optimizer_flops_share": 0.0}}
    cell = cell_of(declared(), study, noisy(0.08), muon=big)
    assert "a token costs 26.00x the FLOPs of adamw" in "; ".join(notes(cell))
    ratios = {cost.what: cost for cost in cell.equal_costs["muon"]}
    assert ratios["tokens"].ratio.value < 1
    assert ratios["FLOPs"].ratio.value > 10


def test_an_arm_of_more_tokens_gets_no_claim(study: Study) -> None:
    cell = cell_of(declared(), study, noisy(0.08), muon={"config": {"train.batch_size": 16}})
    finding = cell.ruling.findings["muon"]
    assert finding.word == "undecided"
    assert finding.why == "no claim: muon trains on 204,800 tokens, adamw on 102,400"


def test_a_preset_that_changes_more_than_its_group_is_named(study: Study) -> None:
    cell = cell_of(declared(), study, noisy(0.08), muon={"config": {"schedule.warmup": 0.5}})
    said = "; ".join(notes(cell))
    assert "adamw -> muon changes more than optim: schedule.warmup: 0.05 -> 0.5" in said


def test_a_summary_that_its_rows_contradict_is_named(study: Study) -> None:
    edited = {"summary": {"val_loss": 1.0}}
    said = notes(cell_of(declared(), study, noisy(0.08), muon=edited))
    assert said[0].startswith("not to be trusted: metrics.jsonl ends in another loss: tiny-muon-")
    assert "adamw" not in said[0]


# 15
def between_grid_points(number: int) -> Loss:
    """Equal arms whose best learning rates lie anywhere between two points of the grid.

    Spreads of the arms and their correlation at the judged budget, and the curvature over doublings
    of the learning rate, as measured in real runs: experiments/calibration/declared_studies.py.
    """
    source = random.Random(number)
    best = {arm: source.uniform(-0.5, 0.5) for arm in ("muon", "adamw")}
    sd, correlation = {"muon": 0.0206, "adamw": 0.0184}, 0.73

    def loss(run: PlannedRun) -> float:
        scale: Any = dict(run.setting)["optim.lr_scale"]
        common = random.Random(f"{number} {run.seed} {run.budget}").gauss(0, 1)
        own = random.Random(f"{number} {run}").gauss(0, 1)
        noise = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
        return 4.57 + 0.0673 * (math.log2(scale) - best[run.arm]) ** 2 + sd[run.arm] * noise

    return loss


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.017])
def test_equal_arms_with_optima_between_grid_points_are_seldom_called_different(
    margin: float,
) -> None:
    """A grid of factor 2 hides 0.017: curvature times the square of half a step."""
    studies = 400
    declaration = declared(margin=margin, confirm__looks=[8, 16, 32])
    found = claims(declaration, studies, between_grid_points)
    wrong = sum(said in ("better", "worse") for said in found)
    assert wrong <= at_most(0.05, studies)


def test_without_tuning_losses_the_same_arms_are_called_different_too_often() -> None:
    """The chosen settings do differ. (The test above can fail.)"""
    studies, wrong = 100, 0
    declaration = declared(margin=0.0, confirm__looks=[8, 16, 32])

    def judge_as_chosen(declaration: Declaration, look: Look) -> CellRuling:
        return judge(declaration, replace(look, scores={}))

    for number in range(studies):
        runs = SimulatedRuns(between_grid_points(number))
        conclusion = conduct(declaration, runs, judge_as_chosen, lambda entry: None)
        wrong += conclusion.rulings[()].words["muon"] in ("better", "worse")
    assert wrong > at_most(0.05, studies)


def test_a_claim_that_holds_of_the_chosen_values_alone_is_none() -> None:
    """AdamW's best value lies half way between two points, which costs it 0.05 / 4 nats."""
    best = {"muon": 1.0, "adamw": 2**0.5}
    runs = SimulatedRuns(noisy(0.0, spread=0.001, best=best))
    ruling = conclude(declared(margin=0.005), runs).rulings[()]
    assert isinstance(ruling, CellRuling)
    finding = ruling.findings["muon"]
    assert finding.interval is not None
    assert finding.interval.high < -0.005
    assert finding.word == "undecided"
    assert "off the points of their grids the difference may be -0.01" in finding.why
    farther = SimulatedRuns(noisy(0.01, spread=0.001, best=best))
    assert conclude(declared(margin=0.005), farther).rulings[()].words == {"muon": "better"}


def test_a_grid_that_hides_more_than_the_margin_is_named(study: Study) -> None:
    """A claim has to hold between its points too; what those hide is an estimate."""

    def curved(run: PlannedRun) -> float:
        scale: Any = dict(run.setting)["optim.lr_scale"]
        return noisy(0.05)(run) + 0.0673 * math.log2(scale) ** 2

    doubt = "between the points of optim.lr_scale an arm may end lower by more than"
    assert doubt in "; ".join(notes(cell_of(declared(), study, curved)))


def test_a_grid_that_hides_less_is_not(study: Study) -> None:
    said = "; ".join(notes(cell_of(declared(margin=0.05), study, noisy(0.2))))
    assert "between the points" not in said
