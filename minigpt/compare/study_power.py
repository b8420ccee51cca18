"""How many pairs a declared study needs for its margin: after its runs, from their spread alone.

The difference that happened to come out is not used. Taken for the truth (observed power), it gives
advice that is as uncertain as the study that is to be mended.
"""

import math

import numpy as np
from scipy.special import nctdtr, ndtr, stdtrit

from minigpt.compare.declared import ALPHA, MIN_PAIRS
from minigpt.compare.statistics import MOST_PAIRS, POWER
from minigpt.study.declaration import Declaration


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


def advice(declaration: Declaration, arm: str, spread: float, pairs: int) -> str | None:
    """What an undecided arm still needs, in a sentence; None without a margin or a spread.

    pairs: those that were judged.
    """
    if declaration.margin <= 0 or spread <= 0 or not math.isfinite(spread):
        return None
    needed = pairs_for_the_margin(declaration, spread)
    said = f"{arm}: undecided with {pairs} pairs; at their spread of {spread:.4f} "
    ending = (
        f"(equal arms, or a difference of twice the margin of {declaration.margin:g}; shared by "
        f"{len(declaration.looks)} looks and {len(declaration.arms) - 1} arms beside the baseline)"
    )
    if needed is None:
        return f"{said}more than {MOST_PAIRS} pairs decide 8 of 10 studies {ending}"
    if needed <= pairs:
        return (
            f"{said}{needed} pairs decide 8 of 10 studies {ending}: "
            "the difference may lie near the margin, where no number of pairs decides soon"
        )
    said += f"{needed} pairs, {needed - pairs} more, decide 8 of 10 studies {ending}"
    if needed > declaration.looks[-1]:
        said += f"; {declaration.looks[-1]} are declared: another study=, or verdict.amend"
    return said
