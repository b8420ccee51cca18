"""A small calibration of declared studies: every rule errs as seldom as it says.

experiments/calibration/declared_studies.py is the large one, and says what each world is. A share
may miss its target by three standard errors; draws are the same in every run. Real pairs of runs
come last.
"""

import csv
import math
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runs import ROOT, load_script
from studies import Study

FOLDER = ROOT / "experiments" / "calibration"
calibration = load_script(FOLDER / "declared_studies.py")
WORLDS = {world.name: world for world in calibration.worlds()}
STUDIES = 80


def simulated(name: str, studies: int = STUDIES):  # type: ignore[no-untyped-def]
    return calibration.simulate(WORLDS[name], studies)


def three_errors(share: float, of: int) -> float:
    return 3 * math.sqrt(share * (1 - share) / of)


def assert_covers(tally, *names: str) -> None:  # type: ignore[no-untyped-def]
    """In 95 %: the smallest confidence that is declared."""
    for name in names:
        assert tally.share(name) >= 0.95 - three_errors(0.95, tally.of["wrong claims"]), name


@pytest.mark.parametrize(
    "name",
    [
        "equal, optima on the grid, margin 0",
        "equal, optima between",
        "worse by the margin, optima between",
        "three equal arms, optima on the grid, margin 0",
        "residuals of real runs, margin 0",
        "arms of different exponents",
        "two budgets",
    ],
)
def test_claims_are_seldom_wrong_and_intervals_cover(name: str) -> None:
    tally = simulated(name)
    assert tally.share("wrong claims") <= 0.05 + three_errors(0.05, STUDIES)
    assert_covers(tally, "difference covered", "ratio covered", "equal cost covered")
    assert_covers(tally, "best kept", "best arm kept")


def test_no_arm_loses_from_the_edge_of_its_grid() -> None:
    """A baseline that is best where nothing was tried was called worse in every study."""
    tally = simulated("equal, one optimum a step or two beyond its edge", 20)
    assert tally.share("wrong claims") == 0


def test_ten_equal_arms_are_seldom_told_apart() -> None:
    tally = simulated("ten equal arms, optima on the grid, margin 0", 40)
    assert tally.share("wrong claims") <= 0.05 + three_errors(0.05, 40)
    assert tally.share("best kept") >= 0.95 - three_errors(0.95, 40)


@pytest.mark.parametrize("share", ["5 %", "20 %"])
def test_seeds_that_diverge_by_chance_prove_nothing(share: str) -> None:
    tally = simulated(f"equal, {share} of runs diverge")
    assert tally.share("wrong claims") <= 0.05 + three_errors(0.05, STUDIES)
    assert_covers(tally, "best kept")


def test_an_arm_that_diverges_more_often_is_worse() -> None:
    tally = simulated("60 % of the new arm diverge, 5 % of the baseline")
    assert tally.share("worse") > 0.9
    assert tally.share("better") == 0


@pytest.mark.parametrize(("pairs", "look"), [(8, 1), (16, 2), (32, 3)])
def test_power_is_what_the_plan_says(pairs: int, look: int) -> None:
    """Or more: later looks have had earlier ones."""
    tally = simulated(f"what dry_run says of {pairs} pairs")
    assert tally.share(f"better at look {look}") >= 0.8 - three_errors(0.8, STUDIES)
    assert tally.share("wrong claims") <= 0.05


@pytest.mark.parametrize("looks", [", one look of 8", pytest.param("", marks=pytest.mark.slow)])
def test_cells_of_one_effect_seldom_differ(looks: str) -> None:
    tally = simulated(f"cells, the same effect{looks}")
    assert tally.share("cells differ") <= 0.05 + three_errors(0.05, STUDIES)
    assert_covers(tally, "slope covered")


def test_an_effect_that_grows_over_cells_is_found() -> None:
    tally = simulated("cells, it grows, one look of 8", 60)
    assert tally.share("cells differ") > 0.9
    assert tally.share("slope covered") >= 0.95 - three_errors(0.95, 60)


@pytest.mark.parametrize(
    ("word", "effect", "is_wrong"),
    [
        ("better", 0.0, True),
        ("better", -0.01, True),
        ("better", -0.02, False),
        ("worse", 0.005, True),
        ("worse", 0.02, False),
        ("equivalent", 0.0, False),
        ("equivalent", -0.01, True),
        ("undecided", 0.0, False),
    ],
)
def test_what_counts_as_wrong(word: str, effect: float, is_wrong: bool) -> None:
    assert calibration.wrong(word, effect, 0.01) == is_wrong


def test_one_command_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--studies", "3", "--only", "margin 0.02", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["declared_studies.py", *arguments])
    monkeypatch.setattr(calibration, "ProcessPoolExecutor", ThreadPoolExecutor)
    calibration.main()
    (row,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert (row["world"], row["studies"]) == ("equal, optima between, margin 0.02", "3")
    assert (tmp_path / "power.png").read_bytes().startswith(b"\x89PNG")
    head, _, line = (tmp_path / "results.md").read_text().splitlines()
    assert head.startswith("| world | margin | looks | studies | wrong claims |")
    assert " % |" in line


def test_null_pairs_are_read_from_runs(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw = random.Random(1)
    monkeypatch.setattr(sys, "argv", ["null_pairs.py", str(study.folder), "--out", str(tmp_path)])
    null_pairs = load_script(FOLDER / "null_pairs.py")
    monkeypatch.setattr(null_pairs, "STUDIES", 400)
    for seed in range(100, 124):
        for eps in (1e-10, 1e-9):
            study.run("adamw", seed, draw.gauss(4.0, 0.005), config={"optim.hidden.eps": eps})
        if seed == 110:
            assert null_pairs.main() == 2
            assert "too few pairs: 11" in capsys.readouterr().err
    assert null_pairs.main() == 0
    out = capsys.readouterr().out
    assert "24 pairs, all together" in out
    assert "cut into 3 studies of 8" in out
    assert (tmp_path / "null_pairs.png").is_file()
