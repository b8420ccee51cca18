"""What the report of a declared study says, in which order: verdicts first, then what they rest on.

The blocks are those of document.py, so the writers for the terminal, Markdown and HTML are shared.
"""

import math
from collections.abc import Iterable, Sequence

from minigpt.compare.budget_fit import Estimate
from minigpt.compare.declared import Finding
from minigpt.compare.document import (
    Block,
    Bullets,
    Cell,
    Document,
    Figures,
    Heading,
    Paragraph,
    Table,
    VerdictLine,
)
from minigpt.compare.figures import Figure
from minigpt.compare.statistics import Interval
from minigpt.compare.study_findings import CellFindings, EqualCost, Findings
from minigpt.compare.study_notes import notes
from minigpt.compare.study_power import still_needed
from minigpt.study.planned import label
from minigpt.study.run import Run
from minigpt.terminal import count

MOST_BOXES = 3  # arms beside the baseline that get a box of their own
WORDS = {"better": "than", "equivalent": "to", "no difference": "from", "undecided": "against",
         "worse": "than"}  # fmt: skip
UNITS = {"val_loss": "nats", "val_bits_per_byte": "bits per byte"}


def document(found: Findings, figures: dict[str, list[Figure]]) -> Document:
    """The report. figures: by the name of the cell, and under "" those of the whole study."""
    declaration = found.declaration
    blocks: list[Block] = []
    several = len(found.cells) > 1
    for cell in found.cells:
        blocks += _verdicts(cell, several)
    blocks.append(Paragraph(_rules(found)))
    for amendment in found.amendments:
        changes = "; ".join(amendment["changes"])
        blocks.append(
            Bullets(
                "Amended after it began",
                [f"{amendment['why']} ({changes}; after "
                 f"{count(amendment['after_decisions'], 'decision')})"],
            )
        )  # fmt: skip
    if several:
        blocks += _trends(found)
        blocks += _figures(figures.get("", []), found.cells)
    for cell in found.cells:
        if several:
            blocks.append(Heading(cell.name))
        blocks += _cell(cell, figures.get(cell.name, []))
    return Document(f"{declaration.study}: {declaration.question}", blocks)


def _verdicts(cell: CellFindings, several: bool) -> Iterable[Block]:
    """A box for each arm; for many arms one for each word."""
    if len(cell.ruling.findings) > MOST_BOXES:
        yield from _grouped(cell, several)
        return
    unit = UNITS[cell.declaration.metric]
    for arm, finding in cell.ruling.findings.items():
        where = f"{cell.name}: " if several else ""
        line = f"{where}{arm} against {cell.baseline}: "
        line += _cost_line(finding, cell.equal_costs(arm), unit)
        line += f"; {interval_text(finding.interval)}, {count(finding.pairs, 'pair')}"
        yield VerdictLine(finding.word, f"{line}; {finding.why}.", _runs(cell, arm, cell.baseline))


def _grouped(cell: CellFindings, several: bool) -> Iterable[Block]:
    """`better: than adamw: muon -0.0421, lion -0.0310`, best first."""
    where = f"{cell.name}: " if several else ""
    ranked = [one.arm for one in cell.ranking if one.arm in cell.ruling.findings]
    unit, pairs = UNITS[cell.declaration.metric], cell.ruling.look.pairs
    for word, than in WORDS.items():
        arms = [arm for arm in ranked if cell.ruling.words[arm] == word]
        shown = []
        for arm in arms:
            interval = cell.ruling.findings[arm].interval
            shown.append(arm if interval is None else f"{arm} {interval.mean:+.4f}")
        if arms:
            line = f"{where}{than} {cell.baseline}: {', '.join(shown)} ({unit} at equal tokens, "
            line += f"{count(pairs, 'pair')}; intervals and reasons below)."
            yield VerdictLine(word, line, _runs(cell, *arms, cell.baseline))


def _rules(found: Findings) -> str:
    declaration = found.declaration
    looks = ", ".join(map(str, declaration.looks))
    confidence = 100 * (1 - found.cells[0].alpha)
    when = "before the first run"
    if found.begun_before:
        when = f"AFTER {found.begun_before} of its {len(found.runs)} runs had begun"
    return (
        f"Declared {when} (SHA-256 {declaration.sha256[:12]}): "
        f"{declaration.by} in {', '.join(declaration.arms)}, baseline {declaration.baseline}, "
        f"margin {declaration.margin:g} {UNITS[declaration.metric]}, judged at "
        f"{declaration.budget_key}={declaration.primary:g} on seeds from "
        f"{declaration.seeds(1)[0]}, tuned on {list(declaration.tune.seeds)}, read at {looks} "
        f"pairs; {confidence:g} % intervals over seeds, not over texts; Holm over the arms."
    )


def _cell(cell: CellFindings, figures: list[Figure]) -> list[Block]:
    blocks: list[Block] = [*_figures(figures, [cell])]
    if doubts := notes(cell):
        blocks.append(Bullets("Notes", doubts))
    tables = (
        _ranking(cell),
        still_needed(cell),
        _costs(cell),
        _budgets(cell),
        _choices(cell),
        _tuning(cell),
    )
    return [*blocks, *(table for table in tables if table.rows)]


def _figures(figures: list[Figure], cells: list[CellFindings]) -> list[Block]:
    drawn = tuple(
        run
        for cell in cells
        for by_budget in cell.judged.values()
        for by_seed in by_budget.values()
        for run in by_seed.values()
    )
    return [Figures(figures, Cell(count(len(drawn), "run"), drawn))] if figures else []


def _trends(found: Findings) -> list[Block]:
    rows = []
    for arm in found.cells[0].ruling.findings:
        trend = found.trend(arm)
        if trend is None:
            continue
        equal = f"p {trend.homogeneity:.3g}"
        for slope in trend.slopes:
            rows.append(
                {
                    "arm": Cell(arm),
                    "key": Cell(slope.key),
                    "change of the difference for each doubling": Cell(
                        f"{slope.value:+.4f} ({slope.low:+.4f} to {slope.high:+.4f})"
                    ),
                    "p": Cell(f"{slope.p:.3g}"),
                    "one effect in all cells": Cell(equal),
                }
            )
    return [Table("What the effect grows with", rows)] if rows else []


def _ranking(cell: CellFindings) -> Table:
    rows = []
    grouped = len(cell.ruling.findings) > MOST_BOXES  # then no box says why
    for place, ranked in enumerate(cell.ranking, 1):
        finding = cell.ruling.findings.get(ranked.arm)
        difference = "baseline" if finding is None else interval_text(finding.interval)
        rows.append(
            {
                "": Cell(str(place)),
                "arm": Cell(ranked.arm),
                "final loss": Cell(interval_text(ranked.loss), _runs(cell, ranked.arm)),
                "minus the baseline": Cell(difference),
                "verdict": Cell("" if finding is None else finding.word),
                **({"why": Cell("" if finding is None else finding.why)} if grouped else {}),
                "may be the best": Cell("yes" if ranked.may_be_best else f"no, p {ranked.p:.2g}"),
            }
        )
    return Table(
        "Arms by final loss",
        rows,
        "May be the best: no other arm is shown to be better (Hsu's multiple comparisons with the "
        "best, paired, Holm).",
    )


def _costs(cell: CellFindings) -> Table:
    rows = []
    unit = UNITS[cell.declaration.metric]
    for arm in cell.ruling.findings:
        for cost in cell.equal_costs(arm):
            rows.append(
                {
                    "arm": Cell(arm),
                    "cost": Cell(cost.what),
                    "needed for the baseline's loss": Cell(
                        f"{_ratio_text(cost.ratio)} ({_range(cost.ratio, '.2f')})",
                        _runs(cell, arm, cell.baseline),
                    ),
                    f"loss at equal cost, {unit}": Cell(
                        f"{cost.difference.bound} {cost.difference.value:+.4f} "
                        f"({_range(cost.difference, '+.4f')})".strip(),
                        _runs(cell, arm, cell.baseline),
                    ),
                }
            )
    return Table(
        "At equal cost",
        rows,
        "From one fit per arm, loss = E + A * budget^-b, over the final losses of whole schedules; "
        "intervals from a paired bootstrap over seeds.",
    )


def _budgets(cell: CellFindings) -> Table:
    rows = []
    for budget in cell.declaration.budgets:
        for arm, found in cell.losses.items():
            losses = list(found[budget].values())
            finite = [loss for loss in losses if math.isfinite(loss)]
            runs = tuple(cell.judged[arm][budget].values())
            mean = f"{sum(finite) / len(finite):.4f}" if finite else "diverged"
            rows.append(
                {
                    cell.declaration.budget_key: Cell(f"{budget:g}"),
                    "tokens": Cell(f"{cell.tokens(budget):,}"),
                    "arm": Cell(arm),
                    "mean final loss": Cell(mean, runs),
                    "seeds": Cell(f"{len(finite)} of {len(losses)}"),
                }
            )
    return Table("Losses by budget", rows, detail=True)


def _choices(cell: CellFindings) -> Table:
    rows = []
    for arm, search in cell.searches.items():
        if not search.scores:
            continue
        best, *others = search.ranking
        runs = tuple(run for by_seed in cell.tuned[arm].values() for run in by_seed.values())
        second = f"{label(others[0])}: {search.scores[others[0]]:.4f}" if others else ""
        ranges = "; ".join(
            f"{key} {low:.3g} to {high:.3g} ({width:.1f} doublings)"
            for key, (low, high, width) in cell.good_ranges(arm).items()
        )
        rows.append(
            {
                "arm": Cell(arm),
                "chosen": Cell(label(best), tuple(cell.tuned[arm][best].values())),
                "tuning loss": Cell(f"{search.scores[best]:.4f}"),
                "runner-up": Cell(second),
                "trials": Cell(str(len(search.scores)), runs),
                "within the margin of the best": Cell(ranges),
            }
        )
    return Table("Choices", rows)


def _tuning(cell: CellFindings) -> Table:
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


def interval_text(interval: Interval | None) -> str:
    """`-0.0421 (-0.0540 to -0.0302)`."""
    if interval is None or interval.n == 0:
        return "diverged"
    if not math.isfinite(interval.low):
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _range(estimate: Estimate, form: str) -> str:
    low = f"{estimate.low:{form}}" if math.isfinite(estimate.low) else "no lower bound"
    return f"{low} to {estimate.high:{form}}" if math.isfinite(estimate.high) else f"{low} or more"


def _runs(cell: CellFindings, *arms: str) -> tuple[Run, ...]:
    return tuple(run for arm in arms for run in cell.at_primary[arm].values())


def _cost_line(finding: Finding, costs: Sequence[EqualCost], unit: str) -> str:
    """`-0.0420 nats at equal tokens; 0.90x tokens; 1.05x FLOPs; 1.31x seconds`."""
    if finding.interval is None:
        return "no pair of finite losses"
    parts = [f"{finding.interval.mean:+.4f} {unit} at equal tokens"]
    parts += [f"{_ratio_text(cost.ratio)} {cost.what}" for cost in costs]
    return "; ".join(parts)


def _ratio_text(ratio: Estimate) -> str:
    """`0.90x`, or the bound: `above 1.50x`."""
    return f"{ratio.bound} {ratio.value:.2f}x".strip()
