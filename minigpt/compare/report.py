"""What a report says, in which order: verdicts, what is missing, doubts, tables, figures."""

from collections.abc import Sequence

from minigpt.compare import tables
from minigpt.compare.caveats import caveats
from minigpt.compare.cost import Costs
from minigpt.compare.document import (
    Block,
    Bullets,
    Document,
    Figures,
    Heading,
    Paragraph,
    Table,
    VerdictLine,
)
from minigpt.compare.figures import Figure
from minigpt.compare.groups import Sorted
from minigpt.compare.selection import FIRST_CONFIRMATION_SEED
from minigpt.compare.verdict import MIN_PAIRS, Result
from minigpt.compare.wording import UNITS, sentence


def report(
    title: str,
    judged: Sequence[tuple[Result, Costs, list[Figure]]],
    found: Sorted,
    others: list[str],
) -> Document:
    """The whole report. others: remarks on what was found and not compared."""
    document = Document(title)
    for result, times, figures in judged:
        if len(judged) > 1 or result.group.split:
            document.blocks.append(Heading(result.group.title, 2))
        document.blocks += group_blocks(result, times, figures)
    rest = [f"{len(group.runs)} runs of one arm only: {group.title}" for group in found.single]
    if len(found.groups) + len(found.single) > 1:
        rest.insert(
            0,
            f"runs that differ in these keys are not mixed: {', '.join(found.split_keys) or 'none'}",
        )
    if rest or others:
        document.blocks.append(Bullets("Not compared", [*rest, *others]))
    document.blocks.append(
        Paragraph(
            f"Intervals are over seeds (Student's t), not over texts: another validation split is another question. "
            f"A claim needs {MIN_PAIRS} pairs of seeds that took no part in choosing the settings."
        )
    )
    return document


def group_blocks(result: Result, times: Costs, figures: list[Figure]) -> list[Block]:
    """One group: verdicts, doubts, tables, figures."""
    unit = UNITS[result.group.question.metric]
    blocks: list[Block] = []
    for c in result.at_headline.comparisons:
        runs = (*c.arm.runs.values(), *c.baseline.runs.values())
        blocks.append(
            VerdictLine(c.verdict, f"At {result.headline:,} tokens {sentence(c, result)}.", runs)
        )
    if len(result.at_headline.comparisons) == 0:
        blocks.append(
            VerdictLine(
                "undecided", f"No ended runs of {result.baseline} and another arm at a budget.", ()
            )
        )
    blocks.append(Paragraph(rules_text(result, unit)))
    several = len(result.at_headline.comparisons) > 1
    missing = [
        f"{f'{c.arm.arm} against {c.baseline.arm}: ' if several else ''}{text}"
        for c in result.at_headline.comparisons
        for text in c.missing
    ]
    if missing:
        blocks.append(Bullets("Missing for a claim", missing))
    if doubts := caveats(result, times):
        blocks.append(Bullets("Before believing it", doubts))
    blocks += [
        tables.arms_table(result, unit),
        tables.differences_table(result, unit),
        tables.equal_loss_table(result, times),
    ]
    if figures:
        drawn = tuple(run for arm in result.group.arms.values() for run in arm.runs)
        blocks.append(Figures(figures, drawn))
    blocks += [
        tables.cost_table(result, times),
        tables.tuning_table(result, unit),
        *tables.configuration_table(result),
    ]
    return [block for block in blocks if not (isinstance(block, Table) and not block.rows)]


def rules_text(result: Result, unit: str) -> str:
    """By what the verdict was reached."""
    rules = result.rules
    if rules.confirmation_seeds is not None:
        seeds = f"seeds {', '.join(map(str, rules.confirmation_seeds))}"
    else:
        seeds = f"seeds from {FIRST_CONFIRMATION_SEED} on"
    looks = (
        f"; the verdict is read at {', '.join(map(str, rules.read_at))} pairs"
        if rules.read_at
        else ""
    )
    return (
        f"Baseline {result.baseline}; margin of {rules.margin:g} {unit}; judged by {seeds}, tuned on the others; "
        f"{100 * rules.confidence:g} % intervals{looks}."
    )
