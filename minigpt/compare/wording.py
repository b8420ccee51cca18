"""Numbers as words: intervals, p values, ratios and their bounds, and the sentence of a verdict."""

import math

from minigpt.compare.budget_to_equal_loss import Ratio
from minigpt.compare.judge import Result
from minigpt.compare.statistics import MOST_PAIRS, Interval, pairs_to_decide
from minigpt.compare.verdict import MIN_PAIRS, Comparison
from minigpt.terminal import count


def sentence(c: Comparison, result: Result) -> str:
    """The verdict on one arm in words."""
    arm, baseline = c.arm.arm, c.baseline.arm
    text = {
        "lower": f"{arm} ended lower than {baseline}",
        "higher": f"{arm} ended higher than {baseline}",
        "alike": f"{arm} and {baseline} ended alike",
        "no difference": f"there is no difference between {arm} and {baseline}",
        "undecided": f"{arm} against {baseline} is undecided",
    }[c.verdict]
    if c.interval is not None:
        unit = result.group.question.unit
        text += f": {signed(c.interval)} {unit}, {count(len(c.seeds), 'pair')}"
    text += f"; {c.why}"
    if c.verdict != "undecided" or c.interval is None or c.arm.diverged or c.baseline.diverged:
        return text  # more seeds would undo nothing
    if c.interval.n < 2 or c.interval.constant:
        return text  # no spread to judge by
    rules = result.rules
    needed = pairs_to_decide(c.interval, rules.margin, MIN_PAIRS, rules.confidence)
    steady = "if mean and spread stay as they are"
    if needed is None:
        return f"{text}; {steady}, not even {MOST_PAIRS:,} pairs would decide"
    if needed > c.interval.n:
        text += f"; about {needed} pairs would decide {steady}"
    return text


def signed(interval: Interval) -> str:
    """`-0.0312 (-0.0340 to -0.0284)`, or the mean alone where there is no interval."""
    if not math.isfinite(interval.low):
        return f"{interval.mean:+.4f} (no interval)"
    return f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def plain(interval: Interval | None) -> str:
    """The same without signs, of a loss."""
    if interval is None:
        return "none finished"
    if not math.isfinite(interval.low):
        return f"{interval.mean:.4f} (one seed)"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def p_text(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def ratio_text(ratio: Ratio, factor: float | None) -> str:
    """`0.71x (0.66 to 0.76)`, or a bound. Ends outside the measured budgets are bounds too.

    factor: what a token of the arm costs, over what one of the baseline costs; None if unknown.
    """
    if factor is None:
        return "unknown"
    low, high = ratio.at_least * factor, ratio.at_most * factor
    bounds = {
        "below": f"at most {low:.2f}x",
        "above": f"more than {high:.2f}x",
        "about below": f"about {low:.2f}x or less",
        "about above": f"about {high:.2f}x or more",
    }
    if ratio.bound in bounds:
        return bounds[ratio.bound]
    if ratio.log is None:
        return "unclear: not every seed's loss falls with the budget"
    text = f"{factor * math.exp(ratio.log.mean):.2f}x"
    if not math.isfinite(ratio.log.low):
        return f"{text} (one seed, no interval)"
    a, b = factor * math.exp(ratio.log.low), factor * math.exp(ratio.log.high)
    shown_low = f"below {low:.2f}" if a < low * 0.9995 else f"{a:.2f}"
    shown_high = f"above {high:.2f}" if b > high * 1.0005 else f"{b:.2f}"
    return f"{text} ({shown_low} to {shown_high})"
