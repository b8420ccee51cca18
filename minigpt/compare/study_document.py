"""What the report of a study says, in which order: verdicts first, then what they rest on.

The blocks are those of document.py, so the writers for the terminal, Markdown and HTML are shared.
"""

import math
from collections.abc import Iterable, Sequence

from minigpt.compare import document as doc
from minigpt.compare import study_tables as tables
from minigpt.compare.declared import ALPHA, Finding
from minigpt.compare.equal_cost import EqualCost
from minigpt.compare.explored import FIRST_CONFIRMATION_SEED
from minigpt.compare.figures import Figure
from minigpt.compare.study_findings import CellFindings, Findings
from minigpt.compare.study_notes import notes
from minigpt.compare.study_power import still_needed
from minigpt.compare.study_tables import MOST_BOXES, interval_text, ratio_text, runs_of
from minigpt.study.decisions import looks_before
from minigpt.terminal import count

WORDS = {"better": "than", "lower": "than", "equivalent": "to", "alike": "with",
         "no difference": "from", "undecided": "against", "worse": "than",
         "higher": "than"}  # fmt: skip
EXPLORED = {
    "lower": "{} ended lower than {}",
    "higher": "{} ended higher than {}",
    "alike": "{} and {} ended alike",
    "no difference": "there is no difference between {} and {}",
    "undecided": "{} against {} is undecided",
}


def document(found: Findings, figures: dict[str, list[Figure]]) -> doc.Document:
    """The report. figures: by the name of the cell, and under "" those of the whole study."""
    declaration = found.declaration
    blocks: list[doc.Block] = []
    several, rate = len(found.cells) > 1, _error_rate(found)
    amended = f"; amended after looks: {rate}" if rate else ""
    # groups that nobody declared may differ in many keys: each has its verdicts below its name
    apart = several and found.declared is None
    for cell in [] if apart else found.cells:
        blocks += _verdicts(cell, several, amended)
    if found.stopped:
        title = "Not judged" if found.declared else "Not compared"
        blocks.append(doc.Bullets(title, list(found.stopped)))
    blocks.append(doc.Paragraph(_rules(found)))
    if declaration.by_code:
        blocks.append(doc.Bullets("Code of the arms", declaration.code_lines))
    blocks += _amendments(found, rate)
    if several and found.declared:
        blocks += _trends(found)
        blocks += _figures(figures.get("", []), found.cells)
    for cell in found.cells:
        if several or (cell.exploratory and cell.name):
            blocks.append(doc.Heading(cell.name))
        blocks += _verdicts(cell, False, "") if apart else []
        blocks += _cell(cell, figures.get(cell.name, []))
    return doc.Document(f"{declaration.study}: {declaration.question}", blocks)


def _error_rate(found: Findings) -> str:
    """`claims are wrong in up to 10 % of studies`, where looks came before an amendment."""
    if not found.spent:
        return ""
    if math.isnan(found.error_rate):
        return "how often claims are wrong is not known"
    return f"claims are wrong in up to {100 * found.error_rate:.3g} % of studies"


def _amendments(found: Findings, rate: str) -> Iterable[doc.Block]:
    for amendment in found.amendments:
        changes = "; ".join(amendment["changes"])
        after = count(amendment["after_decisions"], "decision")
        lines = [f"{amendment['why']} ({changes}; after {after})"]
        nothing = ["no look was read before it"] if "looks" in amendment else []
        lines += [f"read before it: {line}" for line in looks_before(amendment)] or nothing
        yield doc.Bullets("Amended after it began", lines)
    if rate:
        levels = " + ".join(f"{100 * level:.3g} %" for level in found.spent)
        yield doc.Paragraph(
            f"Error rate: {rate}: {levels} of the looks before, and {100 * ALPHA:g} % of "
            "those declared now. It can be more where what was read chose the number of pairs "
            "that were added: new seeds are free of that (another study, with its first_seed)."
        )


def _verdicts(cell: CellFindings, several: bool, amended: str) -> Iterable[doc.Block]:
    """A box for each arm; for many arms one for each word."""
    if len(cell.ruling.findings) > MOST_BOXES:
        yield from _grouped(cell, several, amended)
        return
    for arm, finding in cell.ruling.findings.items():
        said = EXPLORED[finding.word] if cell.exploratory else "{} against {}"
        line = f"{_where(cell, several)}{said.format(arm, cell.baseline)}: "
        line += _cost_line(finding, cell.equal_costs[arm], cell.declaration.unit)
        line += f"; {finding.why}{amended}."
        yield doc.VerdictLine(finding.word, line, runs_of(cell, arm, cell.baseline))


def _where(cell: CellFindings, several: bool) -> str:
    """What a verdict is about, before it."""
    if cell.exploratory:
        return f"Exploratory, at {cell.tokens(cell.declaration.primary):,} tokens: "
    return f"{cell.name}: " if several else ""


def _grouped(cell: CellFindings, several: bool, amended: str) -> Iterable[doc.Block]:
    """`better than adamw: muon -0.0421, lion -0.0310`, best first."""
    where = _where(cell, several)
    for word, than in WORDS.items():
        found = cell.ruling.findings
        arms = [arm for arm in cell.order if arm in found and found[arm].word == word]
        if not arms:
            continue
        means = {arm: found[arm].interval for arm in arms}
        shown = ", ".join(f"{arm} {of.mean:+.4f}" if of else arm for arm, of in means.items())
        least, most = (end(found[arm].pairs for arm in arms) for end in (min, max))
        pairs = f"{least} to {most} pairs" if least < most else count(most, "pair")
        how = f"{cell.declaration.unit} at equal tokens, {pairs}; intervals and reasons below"
        line = f"{where}{word} {than} {cell.baseline}: {shown} ({how}){amended}."
        yield doc.VerdictLine(word, line, runs_of(cell, *arms, cell.baseline))


def _rules(found: Findings) -> str:
    declaration = found.declaration
    if found.declared is None:
        baselines = ", ".join(dict.fromkeys(cell.baseline for cell in found.cells))
        return (
            "Exploratory: nothing was declared before these runs, so nothing is claimed. "
            f"Baseline {baselines}, margin {declaration.margin:g} "
            f"{declaration.unit}; settings chosen on seeds below "
            f"{FIRST_CONFIRMATION_SEED}, pairs of the same seed from there on (of any seed where "
            "nothing was chosen); 95 % intervals over seeds, not over texts; Holm over the arms."
        )
    looks = ", ".join(map(str, declaration.looks))
    confidence = 100 * (1 - found.cells[0].alpha)
    when = "before the first run"
    if found.begun_before:
        when = f"AFTER {found.begun_before} of its {len(found.runs)} runs had begun"
    if found.amendments:
        when += ", amended since"
    clock = f"{found.declared:%Y-%m-%d %H:%M} by its machine's clock, which no hash vouches for"
    return (
        f"Declared {when} (SHA-256 {found.sha256[:12]}; {clock}): "
        f"{declaration.by} in {', '.join(declaration.arms)}, baseline {declaration.baseline}, "
        f"margin {declaration.margin:g} {declaration.unit}, judged at "
        f"{declaration.budget_key}={declaration.primary:g} on seeds from "
        f"{declaration.seeds(1)[0]}, tuned on {list(declaration.tune.seeds)}, read at {looks} "
        f"pairs; {confidence:.3g} % intervals over seeds, not over texts; Holm over the arms."
    )


def _cell(cell: CellFindings, figures: list[Figure]) -> list[doc.Block]:
    blocks: list[doc.Block] = [*_figures(figures, [cell])]
    if doubts := notes(cell):
        blocks.append(doc.Bullets("Notes", doubts))
    kinds = (
        tables.ranking, still_needed, tables.costs, tables.budgets, tables.choices, tables.tuning
    )  # fmt: skip
    return [*blocks, *(table for kind in kinds if (table := kind(cell)).rows)]


def _figures(figures: list[Figure], cells: list[CellFindings]) -> list[doc.Block]:
    drawn = tuple(run for cell in cells for run in cell.all_judged)
    return [doc.Figures(figures, doc.Cell(count(len(drawn), "run"), drawn))] if figures else []


def _trends(found: Findings) -> list[doc.Block]:
    rows = [
        {
            "arm": doc.Cell(arm),
            "key": doc.Cell(slope.key),
            "change of the difference for each doubling": doc.Cell(
                f"{slope.value:+.4f} ({slope.low:+.4f} to {slope.high:+.4f})"
            ),
            "p": doc.Cell(f"{slope.p:.3g}"),
            "one effect in all cells": doc.Cell(f"p {trend.homogeneity:.3g}"),
        }
        for arm, trend in found.trends.items()
        for slope in trend.slopes
    ]
    return [doc.Table("What the effect grows with", rows)] if rows else []


def _cost_line(finding: Finding, costs: Sequence[EqualCost], unit: str) -> str:
    """`-0.0420 (-0.0611 to -0.0229) nats at equal tokens, 8 pairs; the baseline's loss, by the fit,
    for 0.90x tokens, 1.05x FLOPs, 1.31x seconds`.
    """
    pairs = count(finding.pairs, "pair")
    if finding.interval is None:
        return f"no pair of finite losses of {pairs}"
    line = f"{interval_text(finding.interval, signed=True)} {unit} at equal tokens, {pairs}"
    shown = ", ".join(f"{ratio_text(cost.ratio)} {cost.what}" for cost in costs)
    return f"{line}; the baseline's loss, by the fit, for {shown}" if shown else line
