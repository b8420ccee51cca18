"""The tables of a study: each of one cell, each number with the runs behind it."""

import math

from minigpt.compare.budget_fit import Estimate
from minigpt.compare.document import Cell, Table
from minigpt.compare.statistics import Interval
from minigpt.compare.study_findings import CellFindings
from minigpt.study.planned import label
from minigpt.study.run import Run
from minigpt.terminal import count

MOST_BOXES = 3  # arms beside the baseline that get a box of their own


def ranking(cell: CellFindings) -> Table:
    rows = []
    grouped = len(cell.ruling.findings) > MOST_BOXES  # then no box says why
    for place, ranked in enumerate(cell.ranking, 1):
        finding = cell.ruling.findings.get(ranked.arm)
        difference = "baseline" if finding is None else interval_text(finding.interval, True)
        rows.append(
            {
                "": Cell(str(place)),
                "arm": Cell(ranked.arm),
                "final loss": Cell(interval_text(ranked.loss), runs_of(cell, ranked.arm)),
                "minus the baseline": Cell(
                    difference, () if finding is None else runs_of(cell, ranked.arm, cell.baseline)
                ),
                "verdict": Cell("" if finding is None else finding.word),
                **({"why": Cell("" if finding is None else finding.why)} if grouped else {}),
                "may be the best": Cell("yes" if ranked.may_be_best else f"no, p {ranked.p:.2g}"),
            }
        )
    return Table(
        "Arms by final loss",
        rows,
        "May be the best: no other arm is shown to end lower (Hsu's multiple comparisons with the "
        "best, paired, Holm).",
    )


def costs(cell: CellFindings) -> Table:
    rows = []
    for arm in (arm for arm in cell.order if arm != cell.baseline):
        runs = runs_of(cell, arm, cell.baseline)
        for cost in cell.equal_costs[arm]:
            rows.append(
                {
                    "arm": Cell(arm),
                    "cost": Cell(cost.what),
                    "needed for the baseline's loss": Cell(
                        f"{ratio_text(cost.ratio)} ({_range(cost.ratio, '.2f')})", runs
                    ),
                    f"loss at equal cost, {cell.declaration.unit}": Cell(
                        f"{cost.difference.bound} {cost.difference.value:+.4f} "
                        f"({_range(cost.difference, '+.4f')})".strip(),
                        runs,
                    ),
                }
            )
    return Table(
        "At equal cost, by the fit of all budgets (the verdict: by the pairs at one)",
        rows,
        "From one fit per arm, loss = E + A * budget^-b, over the final losses of whole schedules; "
        "intervals from a paired bootstrap over seeds.",
    )


def budgets(cell: CellFindings) -> Table:
    key = cell.declaration.budget_key
    rows = [
        {
            "arm": Cell(arm),
            **{
                f"{key}={budget:g} ({cell.tokens(budget):,} tokens)": Cell(
                    _mean_loss(list(cell.losses[arm].get(budget, {}).values())),
                    tuple(cell.judged[arm].get(budget, {}).values()),
                )
                for budget in cell.declaration.budgets
            },
        }
        for arm in cell.order
    ]
    return Table("Mean final losses by budget", rows, detail=True)


def _mean_loss(losses: list[float]) -> str:
    if not losses:
        return ""
    finite = [loss for loss in losses if math.isfinite(loss)]
    mean = f"{sum(finite) / len(finite):.4f}" if finite else "diverged"
    lost = len(losses) - len(finite)
    return f"{mean} ({lost} of {len(losses)} diverged)" if finite and lost else mean


def choices(cell: CellFindings) -> Table:
    rows = []
    for arm, search in cell.searches.items():
        if not search.scores:
            continue
        best, *others = search.ranking
        second = f"{label(others[0])}: {_loss(search.scores[others[0]])}" if others else ""
        ranges = "; ".join(
            f"{key} {low:.3g} to {high:.3g} ({width:.1f} doublings)"
            for key, (low, high, width) in cell.good_ranges(arm).items()
        )
        rows.append(
            {
                "arm": Cell(arm),
                "chosen": Cell(
                    "none" if search.stopped else label(best), tuple(cell.tuned[arm][best].values())
                ),
                "tuning loss": Cell(_loss(search.scores[best])),
                "runner-up": Cell(second),
                "trials": Cell(str(len(search.scores)), tuple(cell.tuned_runs(arm))),
                "within the margin of the best": Cell(ranges),
            }
        )
    return Table("Choices", rows)


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else "diverged"


def tuning(cell: CellFindings) -> Table:
    """The best loss to expect of some numbers of trials."""
    curves = {arm: cell.tuning_curve(arm) for arm in cell.searches}
    most = max(map(len, curves.values()), default=0)
    shown = sorted({k for k in (1, 2, 3, 5, 8, 16, 32, most) if 0 < k <= most})
    rows = [
        {
            "arm": Cell(arm),
            **{
                f"{count(k, 'trial')}": Cell(f"{curve[k - 1]:.4f}" if k <= len(curve) else "")
                for k in shown
            },
        }
        for arm, curve in curves.items()
        if curve
    ]
    return Table(
        "What tuning buys",
        rows,
        "Expected best tuning loss of so many random trials (Dodge et al. 2019).",
    )


def interval_text(interval: Interval | None, signed: bool = False) -> str:
    """`-0.0421 (-0.0540 to -0.0302)`."""
    if interval is None or interval.n == 0:
        return "diverged"
    form = "+.4f" if signed else ".4f"
    if not math.isfinite(interval.low):
        return f"{interval.mean:{form}}"
    return f"{interval.mean:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def ratio_text(ratio: Estimate) -> str:
    """`0.90x`, or the bound: `above 1.50x`."""
    return f"{ratio.bound} {ratio.value:.2f}x".strip()


def _range(estimate: Estimate, form: str) -> str:
    if estimate.low in (0.0, -math.inf) and math.isinf(estimate.high):
        return "no interval"
    low = f"{estimate.low:{form}}" if math.isfinite(estimate.low) else "no lower bound"
    return f"{low} to {estimate.high:{form}}" if math.isfinite(estimate.high) else f"{low} or more"


def runs_of(cell: CellFindings, *arms: str) -> tuple[Run, ...]:
    return tuple(run for arm in arms for run in cell.at_primary[arm].values())
