"""What the figures of a report show. Each draws on axes and returns its caption.

It returns None if there is nothing to draw.
"""

import math
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minigpt.compare.arms import ended_loss
from minigpt.compare.cost import PARTS, breakdown, path_of
from minigpt.compare.judge import Result
from minigpt.compare.tuning import along

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without black and yellow: told apart by the colour-blind, readable on
# white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
INK = "#1f2328"
LOGGED = {"val_loss": "val/loss", "val_bits_per_byte": "val/bits_per_byte"}
FEWEST_ROWS = 3  # of evaluations on the way; with fewer the training loss is drawn


def _colour(result: Result, arm: str) -> str:
    return COLOURS[list(result.group.arms).index(arm) % len(COLOURS)]


def differences(result: Result, axes: "Axes") -> str | None:
    """The differences of the pairs, with their mean and its interval."""
    comparisons = [c for c in result.at_headline.comparisons if c.interval is not None]
    if not comparisons:
        return None
    for row, c in enumerate(comparisons):
        assert c.interval is not None
        colour = _colour(result, c.arm.arm)
        points = [c.arm.losses[seed] - c.baseline.losses[seed] for seed in c.seeds]
        seeds: Any = {"alpha": 0.55, "markersize": 5, "markeredgewidth": 0}
        axes.plot(points, [row + 0.18] * len(points), "o", color=colour, **seeds)
        if math.isfinite(c.interval.low):
            ends = [c.interval.low, c.interval.high]
            axes.plot(ends, [row - 0.12] * 2, color=colour, linewidth=3)
        axes.plot([c.interval.mean], [row - 0.12], "D", color=colour, markersize=7)
    axes.axvline(0, color=INK, linewidth=1)
    margin = result.rules.margin
    if margin:
        axes.axvspan(-margin, margin, color=INK, alpha=0.08, linewidth=0)
    axes.set_yticks(range(len(comparisons)), [c.arm.arm for c in comparisons])
    axes.set_ylim(-0.7, len(comparisons) - 0.3)
    axes.grid(axis="y", visible=False)
    unit = result.group.question.unit
    axes.set_xlabel(f"loss minus that of {result.baseline}, {unit}  (left: better)")
    return (
        f"Paired differences of final loss at {result.headline:,} tokens: a dot for each seed, "
        f"below it the mean with its {100 * result.rules.confidence:g} % interval"
        f"{', grey: the margin' if margin else ''}."
    )


def budgets(result: Result, axes: "Axes") -> str | None:
    """Final loss by budget, each arm at its chosen setting."""
    if len(result.budgets) < 2:
        return None
    for name in result.group.arms:
        setting = result.choices[name].setting if name in result.choices else None
        found = [at.evidence[name] for at in result.budgets.values() if name in at.evidence]
        points = [
            (one.budget, one.interval) for one in found if one.interval and one.setting is setting
        ]
        half = [i.high - i.mean if math.isfinite(i.high) else 0 for _, i in points]
        axes.errorbar(
            [budget for budget, _ in points],
            [interval.mean for _, interval in points],
            yerr=half,
            color=_colour(result, name),
            marker="o",
            capsize=3,
            label=name,
            linewidth=1.8,
        )
    axes.set_xscale("log")
    ticks = sorted(result.budgets)
    axes.set_xticks(ticks, [_short(tokens) for tokens in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training tokens of the whole run (log scale)")
    axes.set_ylabel(f"final loss, {result.group.question.unit}")
    axes.legend()
    return (
        "Final loss of finished schedules by budget, each arm at one setting, "
        "with the intervals of the means. Equal loss is read off between these points only."
    )


def _short(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def curves(result: Result, axes: "Axes", x: str) -> str | None:
    """Loss on the way, where it was measured together: mean line, band from least to greatest."""
    rows_of = {
        name: [run.rows for run in found.all_runs if run.status == "finished"]
        for name, found in result.at_headline.evidence.items()
    }
    runs = [rows for lists in rows_of.values() for rows in lists]
    key, unit = LOGGED[result.group.question.metric], result.group.question.unit
    if key == "val/loss":
        most = max((sum(key in row for row in rows) for rows in runs), default=0)
        key = key if most >= FEWEST_ROWS else "train/loss"
    lines = {name: band(lists, key, x) for name, lists in rows_of.items()}
    lines = {name: line for name, line in lines.items() if len(line) > 1}
    if not lines:
        return None
    for name, line in lines.items():
        xs, low, mean, high = zip(*line)
        colour, label = _colour(result, name), f"{name} ({len(rows_of[name])} seeds)"
        axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(xs, mean, color=colour, label=label, linewidth=1.8)
    shown = [row[key] for rows in runs for row in rows if row.get(key) is not None]
    final, height = min(shown), max(shown) - min(shown)
    # The first steps, from ln(vocabulary) down, would flatten everything that differs.
    axes.set_ylim(final - 0.05 * height, final + 0.6 * height)
    training = key == "train/loss"
    axes.set_ylabel("training loss, nats per token" if training else f"validation loss, {unit}")
    axes.legend()
    if x == "tokens":
        from matplotlib.ticker import FuncFormatter

        axes.set_xlabel("training tokens")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        part = "; on the way a part of the validation split, at the end all of it"
        return (
            "Loss against tokens at the longest judged budget; "
            f"line: mean over seeds, band: least to greatest{'' if training else part}."
        )
    axes.set_xlabel("seconds of training (no evaluation, no saving)")
    by, judged = result.group.question.by, result.at_headline.evidence.values()
    several = len({path_of(run, by) for found in judged for run in found.all_runs}) > 1
    warning = " The runs come from different machines or paths: seconds do not compare."
    return (
        "The same against seconds of training, as they were measured in these runs."
        f"{warning if several else ''}"
    )


def band(
    lists: list[list[dict[str, Any]]], key: str, x: str
) -> list[tuple[float, float, float, float]]:
    """(x, least, mean, greatest) at every step that all runs have logged; x is their mean."""
    by_step = [{row["step"]: row for row in rows if row.get(key) is not None} for rows in lists]
    common = sorted(set.intersection(*map(set, by_step))) if by_step else []
    result = []
    for step in common:
        values = [rows[step][key] for rows in by_step]
        mean_x = fmean(rows[step][x] for rows in by_step)
        result.append((mean_x, min(values), fmean(values), max(values)))
    return result


def sensitivity(result: Result, axes: "Axes") -> str | None:
    """Tuning loss by the first numeric axis of each arm, the other axes as they were chosen."""
    axis_names: set[str] = set()
    tried: set[float] = set()
    for name, choice in result.choices.items():
        arm = result.group.arms[name]
        numeric = (one for one in arm.axes if len(one.numbers) > 1 and min(one.numbers) > 0)
        axis = next(numeric, None)
        if axis is None or not choice.scores:
            continue
        line = along(arm, choice, axis)
        finite = {x: line[x].mean for x in sorted(line) if math.isfinite(line[x].mean)}
        if len(line) < 2 or not finite:
            continue
        colour = _colour(result, name)
        axis_names.add(axis.name)
        tried |= line.keys()
        axes.plot(
            list(finite), list(finite.values()), color=colour, marker="o", label=name, linewidth=1.8
        )
        for value, score in line.items():
            losses = [ended_loss(run, result.group.question.metric) for run in score.runs]
            seen = [loss for loss in losses if math.isfinite(loss)]
            axes.plot([value] * len(seen), seen, ".", color=colour, alpha=0.5)
            if score.diverged:
                top = max(finite.values())
                axes.annotate("diverged", (value, top), color=colour, ha="center")
        best = axis.values[choice.setting.key]
        axes.plot(best, finite[best], "o", color=colour, markersize=11, fillstyle="none")
    if not tried:
        return None
    axes.set_xscale("log")
    if len(tried) <= 9:
        ticks = sorted(tried)
        axes.set_xticks(ticks, [f"{value:.3g}" for value in ticks], fontsize=9)
        axes.minorticks_off()
    axes.set_xlabel(" / ".join(sorted(axis_names)))
    axes.set_ylabel(f"final loss, {result.group.question.unit}")
    axes.legend()
    return (
        "Sensitivity to the tuned value on the tuning seeds: "
        "dots are runs, the ring is the chosen setting."
    )


def cost(result: Result, axes: "Axes") -> str | None:
    """Where the seconds of a run went."""
    found = {name: breakdown(one.all_runs) for name, one in result.at_headline.evidence.items()}
    found = {name: parts for name, parts in found.items() if sum(parts.values()) > 0}
    if not found:
        return None
    longest = max(sum(parts.values()) for parts in found.values())
    for row, (name, parts) in enumerate(found.items()):
        colour, left = _colour(result, name), 0.0
        for part, alpha in zip(PARTS, (0.2, 0.65, 0.4, 0.3, 0.15)):
            bar: Any = {"color": colour, "alpha": alpha, "height": 0.6, "linewidth": 0}
            axes.barh(row, parts[part], left=left, **bar)
            if parts[part] > 0.15 * longest:
                middle, words = left + parts[part] / 2, part.replace("_", "\n")
                axes.text(middle, row, words, ha="center", va="center", fontsize=9)
            left += parts[part]
    axes.set_yticks(range(len(found)), list(found))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds of a run, mean over its seeds")
    return (
        "Where the seconds of a run went "
        "(as measured, whether or not the machine was busy with other work)."
    )
