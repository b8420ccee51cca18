"""Numbers as words: intervals, p values, ratios and their bounds, and the sentence of a
verdict.
"""

import math

from minigpt.compare.budget_to_equal_loss import EqualLoss
from minigpt.compare.statistics import MOST_PAIRS, Interval
from minigpt.compare.verdict import Comparison, Result
from minigpt.terminal import count

UNITS = {"val_loss": "nats per token", "val_bits_per_byte": "bits per byte"}


def sentence(c: Comparison, result: Result) -> str:
    """The verdict on one arm in words."""
    unit = UNITS[result.group.question.metric]
    arms = f"{c.arm.arm} is {{}} {c.baseline.arm}"
    text = {
        "better": arms.format("better than"),
        "worse": arms.format("worse than"),
        "equivalent": arms.format("equivalent to"),
        "no difference": f"there is no difference between {c.arm.arm} and {c.baseline.arm}",
        "undecided": f"{c.arm.arm} against {c.baseline.arm} is undecided",
    }[c.verdict]
    if c.interval is not None:
        text += f": {signed(c.interval)} {unit}, {count(len(c.seeds), 'pair')}"
    text += f"; {c.why}"
    hopeless = (
        c.interval is None
        or c.interval.n < 2
        or c.interval.constant
        or c.arm.diverged
        or c.baseline.diverged
    )
    if c.verdict != "undecided" or hopeless or c.interval is None:
        return text  # no spread to judge by, or nothing that more seeds would undo
    if c.pairs_needed is None:
        return f"{text}; if mean and spread stay as they are, not even {MOST_PAIRS:,} pairs would decide"
    if c.pairs_needed > c.interval.n:
        text += f"; about {c.pairs_needed} pairs would decide if mean and spread stay as they are"
    return text


def signed(interval: Interval) -> str:
    """`-0.0312 (-0.0340 to -0.0284)`, or the mean alone where there is no interval."""
    if not math.isfinite(interval.low):
        return f"{interval.mean:+.4f} (no interval)"
    return f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def plain(interval: Interval | None) -> str:
    if interval is None:
        return "none finished"
    if not math.isfinite(interval.low):
        return f"{interval.mean:.4f} (one seed)"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def p_text(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def ratio_text(found: EqualLoss, factor: float | None, log: Interval | None) -> str:
    """`0.71x (0.66 to 0.76)`, or a bound. Ends of an interval outside the measured budgets are
    bounds too.
    """
    if factor is None:
        return "unknown"
    ratio = found.ratio
    low, high = ratio.at_least * factor, ratio.at_most * factor
    bounds = {
        "below": f"at most {low:.2f}x",
        "above": f"more than {high:.2f}x",
        "about below": f"about {low:.2f}x or less",
        "about above": f"about {high:.2f}x or more",
    }
    if ratio.bound in bounds:
        return bounds[ratio.bound]
    if log is None:
        return "unclear: not every seed's loss falls with the budget"
    text = f"{math.exp(log.mean):.2f}x"
    if not math.isfinite(log.low):
        return f"{text} (one seed, no interval)"
    a, b = math.exp(log.low), math.exp(log.high)
    shown_low = f"below {low:.2f}" if a < low * 0.9995 else f"{a:.2f}"
    shown_high = f"above {high:.2f}" if b > high * 1.0005 else f"{b:.2f}"
    return f"{text} ({shown_low} to {shown_high})"
