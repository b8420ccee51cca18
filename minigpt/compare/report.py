"""What a report says, in which order: verdicts, what is missing, doubts, tables, figures."""

from collections.abc import Sequence

from minigpt.compare import document as doc
from minigpt.compare import tables
from minigpt.compare.caveats import caveats
from minigpt.compare.cost import Costs
from minigpt.compare.figures import Figure
from minigpt.compare.groups import Groups
from minigpt.compare.judge import Result
from minigpt.compare.rules import FIRST_CONFIRMATION_SEED
from minigpt.compare.verdict import MIN_PAIRS
from minigpt.compare.wording import sentence


def compose(
    title: str,
    judged: Sequence[tuple[Result, Costs, list[Figure]]],
    groups: Groups,
    others: list[str],
) -> doc.Document:
    """The whole report. others: remarks on what was found and not compared."""
    blocks: list[doc.Block] = []
    for result, times, figures in judged:
        if len(judged) > 1 or result.group.split:
            blocks.append(doc.Heading(result.group.title))
        blocks += group_blocks(result, times, figures)
    rest = [f"{len(group.runs)} runs of one arm only: {group.title}" for group in groups.single]
    if len(groups.several) + len(groups.single) > 1:
        keys = ", ".join(groups.split_keys) or "none"
        rest.insert(0, f"runs that differ in these keys are not mixed: {keys}")
    if rest or others:
        blocks.append(doc.Bullets("Not compared", [*rest, *others]))
    ending = (
        "Intervals are over seeds (Student's t), not over texts: "
        "another validation split is another question. "
        f"A claim needs {MIN_PAIRS} pairs of seeds that took no part in choosing the settings."
    )
    return doc.Document(title, [*blocks, doc.Paragraph(ending)])


def group_blocks(result: Result, times: Costs, figures: list[Figure]) -> list[doc.Block]:
    """One group."""
    comparisons = result.at_headline.comparisons
    blocks: list[doc.Block] = [
        doc.VerdictLine(
            c.verdict,
            f"Exploratory, at {result.headline:,} tokens: {sentence(c, result)}.",
            (*c.arm.all_runs, *c.baseline.all_runs),
        )
        for c in comparisons
    ]
    blocks.append(doc.Paragraph(rules_text(result)))
    missing = [
        f"{c.arm.arm} against {c.baseline.arm}: {text}" if len(comparisons) > 1 else text
        for c in comparisons
        for text in c.missing
    ]
    if missing:
        blocks.append(doc.Bullets("Missing for a claim", missing))
    if doubts := caveats(result, times):
        blocks.append(doc.Bullets("Before believing it", doubts))
    blocks += [
        tables.arms_table(result),
        tables.differences_table(result),
        tables.equal_loss_table(result, times),
    ]
    if figures:
        drawn = tuple(run for arm in result.group.arms.values() for run in arm.runs)
        blocks.append(doc.Figures(figures, doc.Cell(f"{len(drawn)} runs", drawn)))
    blocks += [
        tables.cost_table(result, times),
        tables.tuning_table(result),
        tables.configuration_table(result),
    ]
    return [block for block in blocks if not isinstance(block, doc.Table) or block.rows]


def rules_text(result: Result) -> str:
    """By what the arms were compared."""
    rules = result.rules
    return (
        f"Exploratory: nothing was declared before these runs, so nothing is claimed. "
        f"Baseline {result.baseline}; margin of {rules.margin:g} {result.group.question.unit}; "
        f"judged by seeds from {FIRST_CONFIRMATION_SEED} on, tuned on the others; "
        f"{100 * rules.confidence:g} % intervals."
    )
