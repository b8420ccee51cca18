"""How many pairs a declared study needs for its margin: after its runs, from their spread alone.

The difference that happened to come out is not used. Taken for the truth (observed power), it gives
advice that is as uncertain as the study that is to be mended.
"""

import numpy as np
from scipy.special import nctdtr, ndtr, stdtrit

from minigpt.compare.declared import ALPHA, MIN_PAIRS
from minigpt.compare.document import Cell, Table
from minigpt.compare.statistics import POWER
from minigpt.compare.study_findings import CellFindings
from minigpt.study.declaration import Declaration

MOST_PAIRS = 1000  # beyond this a question is not one of more seeds


def pairs_for_the_margin(declaration: Declaration, spread: float) -> int | None:
    """The pairs with which 8 of 10 studies decide, for arms that are equal as well as for arms
    whose difference is twice the margin.

    spread: standard deviation of paired differences.  None without a margin or a spread, and for
    more than MOST_PAIRS. The 5 % are shared by the declared looks, and by the arms as in the first
    step of Holm's adjustment.

    Equal arms: Schuirmann's two tests, with the t quantile, and the normal distribution for the
    mean. Twice the margin: the noncentral t distribution, beyond the margin.
    """
    margin = declaration.margin
    if margin <= 0 or spread <= 0:
        return None
    alpha = ALPHA / len(declaration.looks) / (len(declaration.arms) - 1)
    n = np.arange(MIN_PAIRS, MOST_PAIRS + 1)
    room = margin * np.sqrt(n) / spread
    quantile = stdtrit(n - 1, 1 - alpha / 2)
    equal = 2 * ndtr(room - quantile) - 1
    # nctdtr gives NaN far out in the tail, where power is 1
    beyond = np.nan_to_num(1 - nctdtr(n - 1, room, quantile), nan=1.0)
    enough = n[np.minimum(equal, beyond) >= POWER]
    return int(enough[0]) if len(enough) else None


def still_needed(cell: CellFindings) -> Table:
    """The pairs that each undecided arm needs in all; no rows where there is no telling.

    A spread of fewer than MIN_PAIRS pairs, or of those that did not diverge, tells nothing.
    """
    declaration, rows = cell.declaration, []
    for arm, finding in cell.ruling.findings.items():
        interval = finding.interval
        if finding.word != "undecided" or interval is None or interval.n < finding.pairs:
            continue
        if declaration.margin <= 0 or interval.sd <= 0 or interval.n < MIN_PAIRS:
            continue
        needed = pairs_for_the_margin(declaration, interval.sd)
        rows.append(
            {
                "arm": Cell(arm),
                "spread of pairs": Cell(f"{interval.sd:.4f}"),
                "pairs judged": Cell(str(finding.pairs)),
                "pairs needed": Cell(f"more than {MOST_PAIRS}" if needed is None else str(needed)),
                "": Cell(_what_to_do(declaration, needed, finding.pairs, cell.exploratory)),
            }
        )
    return Table(
        f"Undecided: pairs that decide 8 of 10 studies by the margin of {declaration.margin:g}",
        rows,
        "For arms that are equal as well as for a difference of twice the margin, at the spread "
        "that was measured and not at the difference that came out; the 5 % are shared by the "
        "declared looks, and by the arms (Holm).",
    )


def _what_to_do(
    declaration: Declaration, needed: int | None, judged: int, exploratory: bool
) -> str:
    if needed is not None and needed <= judged:
        return "enough were judged: the difference may lie near the margin"
    if exploratory:
        return "declare them: docs/studies.md"
    if needed is None or needed > declaration.looks[-1]:
        return f"{declaration.looks[-1]} are declared: another study=, or verdict.amend"
    return ""
