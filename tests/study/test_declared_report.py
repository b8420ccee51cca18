"""The report of a declared study at a glance: figures, boxes, files; of two arms and of ten."""

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from declared import FolderRuns, conclude_in_folder, declared, noisy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from studies import Compare, Study

from minigpt.compare import study_figures, study_report
from minigpt.compare.document import Table, VerdictLine
from minigpt.compare.figures import SIZE, STYLE
from minigpt.compare.report_text import terminal_text
from minigpt.compare.results import csv_rows
from minigpt.compare.study_document import document
from minigpt.compare.study_findings import CellFindings, Findings, findings
from minigpt.compare.study_notes import notes
from minigpt.study.planned import PlannedRun
from minigpt.study.run import Run

TWO = ["muon", "adamw"]
TEN = [
    *TWO, "adamw_by_role", "schedule_free_adamw_with_warmup", "lion", "sgd_momentum_nesterov_0.95",
    "shampoo", "soap_every_10_steps", "sophia_with_a_name_that_is_long", "adafactor",
]  # fmt: skip


def found(folder: Path, arms: list[str], **changes: Any) -> Findings:
    """A study in which each arm is 0.004 worse than the one before it, from muon on."""
    declaration = declared(arms=arms, **changes)

    def loss(run: PlannedRun) -> float:
        return noisy(0.0, spread=0.005)(run) + 0.004 * arms.index(run.arm)

    runs = FolderRuns(declaration, Study(folder), loss)
    return findings(declaration, conclude_in_folder(runs), runs, content())


def content(*amendments: Any) -> dict[str, Any]:
    return {"declared": "2026-01-01", "amendments": amendments, "sha256": 64 * "0"}


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return found(tmp_path_factory.mktemp("ten"), TEN)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return found(tmp_path_factory.mktemp("two"), TWO, cells={"train.batch_size": [4, 64]})


def drawn(draw: Any) -> Any:
    """The axes of a figure, laid out as it is saved."""
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.add_subplot()
        assert draw(axes) is not None
        canvas.canvas.draw()
    return axes


@pytest.mark.parametrize("name", ["forest", "budgets", "sensitivity", "tuning", "effects"])
@pytest.mark.parametrize("arms", ["two", "ten"])
def test_no_label_is_cut_and_the_legend_stands_beside_the_plot(
    name: str, arms: str, request: pytest.FixtureRequest
) -> None:
    study: Findings = request.getfixturevalue(arms)
    what = study if name == "effects" else study.cells[0]
    axes = drawn(partial(getattr(study_figures, name), what))
    whole = axes.get_figure().bbox
    used, inside = axes.get_tightbbox(), axes.get_window_extent()
    assert used.x0 >= whole.x0 - 1, "row names"
    assert used.x1 <= whole.x1 + 1, "legend"
    assert used.y0 >= whole.y0 - 1, "label of the x axis"
    assert used.y1 <= whole.y1 + 1, "label of the y axis"
    legend = axes.get_legend()
    if legend is not None:
        assert legend.get_window_extent().x0 >= inside.x1
    assert inside.width > 0.4 * whole.width


def test_the_forest_has_the_best_arm_on_top(ten: Findings) -> None:
    axes = drawn(partial(study_figures.forest, ten.cells[0]))
    rows = [label.get_text() for label in axes.get_yticklabels()]
    ranked = [one.arm for one in ten.cells[0].ranking]
    assert [row.removesuffix(" (baseline)") for row in rows[::-1]] == ranked
    assert ranked[0] == "muon"
    assert "adamw (baseline)" in rows


def test_ten_arms_are_told_apart_by_marker_and_by_colour_with_line(ten: Findings) -> None:
    axes = drawn(partial(study_figures.budgets, ten.cells[0]))
    handles = axes.get_legend().legend_handles
    assert len({handle.get_marker() for handle in handles}) == 10
    assert len({(handle.get_color(), handle.get_linestyle()) for handle in handles}) == 10


def test_ten_arms_take_a_box_for_each_word_and_two_a_box_each(ten: Findings, two: Findings) -> None:
    boxes = [block for block in document(ten, {}).blocks if isinstance(block, VerdictLine)]
    assert len(boxes) == len({box.kind for box in boxes}) < 9
    for arm in TEN:
        assert arm == "adamw" or sum(f" {arm} " in box.text for box in boxes) == 1, arm
    boxes = [block for block in document(two, {}).blocks if isinstance(block, VerdictLine)]
    assert len(boxes) == 2, "one in each cell"
    ranking = next(block for block in document(ten, {}).blocks if isinstance(block, Table))
    assert [row["arm"].text for row in ranking.rows] == [one.arm for one in ten.cells[0].ranking]
    assert "why" in ranking.rows[0], "which the boxes leave out"


def test_a_verdict_says_its_difference_once_and_whence_the_costs_are(two: Findings) -> None:
    box = next(block for block in document(two, {}).blocks if isinstance(block, VerdictLine))
    interval = two.cells[0].ruling.findings["muon"].interval
    assert interval is not None
    assert (
        box.text.count(f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})") == 1
    )
    assert box.text.count(f"{interval.mean:+.4f}") == 1
    assert re.search(r"nats at equal tokens, \d+ pairs; the baseline's loss, by the fit,", box.text)


def test_the_facts_name_what_was_declared(two: Findings) -> None:
    shown = terminal_text(document(two, {}))
    assert "; 2026-01-01 00:00 by its machine's clock, which no hash vouches for)" in shown
    facts = study_report.facts(two)
    assert facts["verdict"]["arms"] == TWO
    assert facts["verdict"]["metric"] == "val_loss"
    assert facts["verdict"]["confirm"]["looks"] == [8, 16]
    assert facts["primary"] == 200


def test_seconds_of_runs_side_by_side_come_with_a_note(two: Findings) -> None:
    """Arms that shared the machine with unequally many other runs have none to compare."""
    cell = two.cells[0]
    runs = [run for one in cell.at_primary.values() for run in one.values()]
    assert not any("seconds" in note for note in notes(cell))
    beside = dict.fromkeys(runs, (0.0, 10.0))
    assert "side by side" in "; ".join(notes(timed(cell, beside)))
    alone = beside | {
        run: (20.0 + n, 21.0 + n) for n, run in enumerate(cell.at_primary["muon"].values())
    }
    assert "unequally many runs at a time: muon 0.00" in "; ".join(notes(timed(cell, alone)))
    assert {cost.what for cost in timed(cell, alone).equal_costs["muon"]} <= {"tokens", "FLOPs"}


def timed(cell: CellFindings, intervals: dict[Run, tuple[float, float]]) -> CellFindings:
    """The cell as if its judged runs had run then."""
    moved = {}
    for run, interval in intervals.items():
        moved[run] = replace(run)
        vars(moved[run])["interval_s"] = interval  # as the cached property keeps it
    judged = {
        arm: {budget: {seed: moved.get(run, run) for seed, run in by_seed.items()}
              for budget, by_seed in by_budget.items()}
        for arm, by_budget in cell.judged.items()
    }  # fmt: skip
    return replace(cell, judged=judged, everything=list(moved.values()))


def test_looks_before_an_amendment_are_shown_and_their_levels_add_up(two: Findings) -> None:
    verdicts = {"muon": {"word": "worse", "difference": 0.0123, "interval": [0.011, 0.0136]}}
    amendment = {
        "why": "more pairs",
        "changes": ["verdict.confirm.looks: [8, 16] -> [8, 16, 32]"],
        "after_decisions": 4,
        "declared_looks": [8, 16],
        "looks": [{"cell": "", "pairs": pairs, "verdicts": verdicts} for pairs in (8, 16)],
    }
    text = terminal_text(document(replace(two, amendments=[amendment]), {}))
    assert text.count("amended after looks: claims are wrong in up to 10 % of studies.") == 2
    assert "read before it: 8 pairs: muon worse +0.0123 (+0.0110 to +0.0136)" in text
    assert "2.5 % + 2.5 % of the looks before, and 5 % of those declared now" in text
    before_looks = replace(two, amendments=[amendment | {"looks": []}])
    text = terminal_text(document(before_looks, {}))
    assert "no look was read before it" in text
    assert "claims are wrong" not in text
    assert before_looks.error_rate == 0.05
    old = {key: value for key, value in amendment.items() if "looks" not in key}
    assert "is not known" in terminal_text(document(replace(two, amendments=[old]), {}))


def test_an_arm_that_no_setting_saved_is_told_and_in_the_tables(tmp_path: Path) -> None:
    def loss(run: PlannedRun) -> float:
        return math.inf if run.arm == "lion" else noisy(0.05)(run)

    declaration = declared(arms=[*TWO, "lion"], cells={"train.batch_size": [4, 64]})
    runs = FolderRuns(declaration, Study(tmp_path), loss)
    study = findings(declaration, conclude_in_folder(runs), runs, content())
    text = terminal_text(document(study, {}))
    assert "train.batch_size=4: lion: all of 3 settings diverged on all tuning seeds" in text
    assert re.search(r"lion +none +diverged", text)
    assert "lion" not in study.cells[0].ruling.words
    assert study_report.facts(study)["not_judged"] == study.stopped
    assert drawn(partial(study_figures.effects, study))


def test_few_random_draws_are_noted(tmp_path: Path) -> None:
    study = found(tmp_path, TWO, tune__method="random", tune__trials=4, margin=1e-6)
    (line,) = (note for note in notes(study.cells[0]) if note.startswith("muon: chosen from"))
    assert re.search(r"4 random draws, of which the best 3 lie within [\d.]+, more than", line)


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_figures_in_other_formats_have_editable_text(
    kind: str, study: Study, compare: Compare, tmp_path: Path
) -> None:
    conclude_in_folder(FolderRuns(declared(), study, noisy(0.05)))
    out = tmp_path / "report"
    assert compare("--study", "a_study", "--out", str(out), "--figures", kind) == 0, compare.err
    pngs = {path.stem for path in out.glob("*.png")}
    assert {"forest", "budgets", "sensitivity", "tuning"} <= pngs
    assert {path.stem for path in out.glob(f"*.{kind}")} == pngs
    content = (out / f"forest.{kind}").read_bytes()
    if kind == "svg":
        assert content.startswith(b"<?xml")
        assert b">muon</text>" in content
    if kind == "pdf":
        assert b"/FontFile2" in content, "TrueType"
        assert b"/Type3" not in content, "no outlines"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert compare("--study", "a_study", "--out", str(out), "--figures", kind) == 0, compare.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_metric_of_ones_own_judges(tmp_path: Path) -> None:
    """Negative ones too, of which no curve is fitted; val_loss says the opposite."""
    declaration = declared(metric="val_minus_hits")

    def summary(run: PlannedRun) -> dict[str, Any]:
        return {"summary": {"val_minus_hits": noisy(0.05, spread=0.005)(run) - 5}}

    runs = FolderRuns(declaration, Study(tmp_path), noisy(-0.05), summary)
    done = conclude_in_folder(runs)
    assert done.rulings[()].words == {"muon": "better"}
    told = findings(declaration, done, runs, content())
    shown = terminal_text(document(told, {}))
    assert "margin 0.01 val_minus_hits" in shown
    assert told.cells[0].equal_costs["muon"] == []
    rows = csv_rows(told)
    assert all(row["val_minus_hits"] < 0 < row["val_loss"] for row in rows)
