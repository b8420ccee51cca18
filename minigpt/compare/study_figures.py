"""The figures of a study: a forest of arms, losses over budgets, tuning, cells."""

import math
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.compare.figures import COLOURS, INK, SIZE, Figure, draw_figure
from minigpt.compare.statistics import Interval
from minigpt.compare.study_findings import CellFindings, Findings, loss_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vPX<>h"
FEW = 3  # arms, up to which each seed is drawn
CHARACTER = 0.095  # inches of a letter in a name
Draw = Callable[["Axes"], str | None]


def study_figures(found: Findings, kind: str = "png") -> dict[str, list[Figure]]:
    """Every figure for which there is something to draw, by cell; "" for all cells together.

    kind: of the files that are written: png, svg or pdf.
    """
    drawn: dict[str, list[Figure]] = {}
    if len(found.cells) > 1 and found.declared:
        drawn[""] = _draw("cells-", {"effects": partial(effects, found)}, kind)
    for number, cell in enumerate(found.cells):
        prefix = f"{number:02d}-" if len(found.cells) > 1 else ""
        draws = (forest, budgets, sensitivity, tuning)
        named: dict[str, Draw] = {draw.__name__: partial(draw, cell) for draw in draws}
        drawn[cell.name] = _draw(prefix, named, kind)
    return drawn


def _draw(prefix: str, draws: dict[str, Draw], kind: str) -> list[Figure]:
    found = (draw_figure(f"{prefix}{name}", draw, kind) for name, draw in draws.items())
    return [figure for figure in found if figure is not None]


def _style(cell: CellFindings, arm: str) -> dict[str, Any]:
    """Each of ten arms has a marker of its own; where colours come again, lines are dashed."""
    number = cell.declaration.arms.index(arm)
    again = number // len(COLOURS) % 2
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": "--" if again else "-",
    }


def _point(cell: CellFindings, arm: str) -> dict[str, Any]:
    """The same without a line."""
    return _style(cell, arm) | {"linestyle": ""}


def _grow(axes: "Axes", width: float = 0.0, height: float = 0.0) -> None:
    """Let the figure have so many inches more than usual."""
    figure: Any = axes.get_figure()
    figure.set_size_inches(SIZE[0] + max(0.0, width), SIZE[1] + height)


def _label(text: str) -> str:
    """Its unit on a line of its own where both do not fit beside the axes."""
    return text if len(text) < 40 else "\n".join(text.rsplit(", ", 1))


def _row_names(axes: "Axes", names: list[str]) -> None:
    """Names on the left, with room for the longest, and a row for each."""
    longest = max(map(len, names))
    _grow(axes, CHARACTER * (longest - 12), 0.36 * len(names) - 2.2)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", visible=False)


def forest(cell: CellFindings, axes: "Axes") -> str | None:
    """The arms by loss: each pair, the mean and its interval, the margin as a band."""
    rows = cell.order[::-1]
    losses, primary = cell.losses, cell.declaration.primary
    baseline = losses[cell.baseline][primary]
    for row, arm in enumerate(rows):
        style = _point(cell, arm)
        if arm == cell.baseline:
            axes.plot([0], [row], markersize=7, markerfacecolor="none", **style)
            continue
        interval = cell.ruling.findings[arm].interval
        points = [loss - baseline[seed] for seed, loss in losses[arm][primary].items()]
        points = [point for point in points if math.isfinite(point)]
        axes.plot(
            points, [row + 0.25] * len(points), "o", color=style["color"], alpha=0.5,
            markersize=3.5, markeredgewidth=0,
        )  # fmt: skip
        if interval is None:
            axes.text(0, row, "  diverged", va="center")
            continue
        _interval(axes, interval, row - 0.05, style, width=3)
    _zero_and_margin(axes, cell)
    _row_names(axes, [f"{arm} (baseline)" if arm == cell.baseline else arm for arm in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    return (
        f"Paired differences at {cell.tokens(primary):,} tokens, lowest on top, left is lower: "
        f"a dot a seed, the mean and its {100 * (1 - cell.alpha):.3g} % interval, grey the margin."
    )


def _interval(axes: "Axes", found: Interval, row: float, style: dict[str, Any], width: int) -> None:
    if math.isfinite(found.low):
        ends = [found.low, found.high]
        axes.plot(ends, [row] * 2, color=style["color"], linewidth=width)
    axes.plot([found.mean], [row], markersize=2 * width + 1, **style)


def _zero_and_margin(axes: "Axes", cell: CellFindings) -> None:
    from matplotlib.ticker import MaxNLocator

    margin = cell.declaration.margin
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvspan(-margin, margin, color=INK, alpha=0.08, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlabel(_label(f"loss minus that of {cell.baseline}, {cell.declaration.unit}"))


def budgets(cell: CellFindings, axes: "Axes") -> str | None:
    """Final losses over budgets, with the fit."""
    fits = {arm: fit for arm in cell.order if (fit := cell.measured[arm]) is not None}
    if not fits:
        return None
    for arm, measured in fits.items():
        losses, style = measured.losses[arm], _style(cell, arm)
        fine = np.geomspace(measured.budgets[0], measured.budgets[-1], 50)
        axes.plot(measured.budgets, losses.mean(axis=1), markersize=6, **_point(cell, arm))
        if len(fits) <= FEW:
            axes.plot(
                np.repeat(measured.budgets, losses.shape[1]), losses.ravel(), markersize=3,
                alpha=0.35, markeredgewidth=0, **_point(cell, arm),
            )  # fmt: skip
        fitted = [float(measured.curves().loss(arm, budget)) for budget in fine]
        axes.plot(fine, fitted, linewidth=1.5, **style | {"marker": ""})
    ticks = sorted({budget for fit in fits.values() for budget in fit.budgets})
    _log_axis(axes, ticks, list(map(_short, ticks)))
    axes.set_xlabel("training tokens")
    axes.set_ylabel(_label(f"final loss, {cell.declaration.unit}"))
    _legend(axes, cell, list(fits))
    seeds = "small a seed, large the mean" if len(fits) <= FEW else "means over seeds"
    return f"Final losses of whole schedules by budget: {seeds}; lines the fit."


def _log_axis(axes: "Axes", ticks: list[float], labels: list[str]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels, rotation=45 if len(ticks) > 8 else 0)
    axes.minorticks_off()


def _short(tokens: float) -> str:
    """`768`, `614k`, `1.2M`."""
    if tokens < 1e4:
        return f"{tokens:,.0f}"
    return f"{tokens / 1e6:.3g}M" if tokens >= 1e6 else f"{tokens / 1e3:.3g}k"


def sensitivity(cell: CellFindings, axes: "Axes") -> str | None:
    """Tuning loss over the first key that is a size, other keys as they were chosen."""
    keys = [key for arm in cell.searches for key in cell.good_ranges(arm)]
    if not keys:
        return None
    key, drawn = keys[0], list[str]()
    for arm, search in cell.searches.items():
        if search.chosen is None or key not in dict(search.chosen):
            continue
        others = {name: value for name, value in search.chosen if name != key}
        line: dict[float, list[float]] = {}
        for setting, by_seed in cell.tuned[arm].items():
            values = dict(setting)
            value = values.pop(key)
            if values == others and isinstance(value, int | float):
                found = [loss_of(run, cell.declaration.metric) for run in by_seed.values()]
                line[float(value)] = [loss for loss in found if math.isfinite(loss)]
        line = {value: losses for value, losses in sorted(line.items()) if losses}
        drawn.append(arm)
        style = _style(cell, arm)
        if len(cell.searches) <= FEW:
            for value, losses in line.items():
                axes.plot(
                    [value] * len(losses), losses, "o", color=style["color"], alpha=0.4,
                    markersize=4, markeredgewidth=0,
                )  # fmt: skip
        means = [fmean(losses) for losses in line.values()]
        axes.plot(list(line), means, linewidth=1.5, **style | {"marker": ""})
        best = dict(search.chosen)[key]
        if isinstance(best, int | float) and float(best) in line:
            at = fmean(line[float(best)])
            axes.plot([float(best)], [at], markersize=9, **_point(cell, arm))
    ticks = sorted({float(x) for curve in axes.lines for x in np.atleast_1d(curve.get_xdata())})
    _log_axis(axes, ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(key)
    axes.set_ylabel(_label(f"tuning loss, {cell.declaration.unit}"))
    _legend(axes, cell, drawn)
    seeds = ", ".join(map(str, cell.declaration.tune.seeds))
    dots = "small dots; " if len(cell.searches) <= FEW else ""
    return f"Tuning on seeds {seeds}: {dots}lines their mean; marked the choice of each arm."


def tuning(cell: CellFindings, axes: "Axes") -> str | None:
    """The best loss to expect of k trials."""
    from matplotlib.ticker import MaxNLocator

    curves = {arm: cell.tuning_curve(arm) for arm in cell.searches}
    curves = {arm: curve for arm, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    for arm, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, markersize=5, **_style(cell, arm))
    axes.set_xlabel("trials")
    axes.set_ylabel(_label(f"expected best tuning loss, {cell.declaration.unit}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, cell, list(curves))
    return "What tuning buys: the best tuning loss to expect of so many random trials."


def effects(found: Findings, axes: "Axes") -> str | None:
    """The difference of each arm in each cell."""
    cells = found.cells
    arms = list(dict.fromkeys(arm for cell in cells for arm in cell.ruling.findings))
    for number, arm in enumerate(arms):
        offset = ((len(arms) - 1) / 2 - number) * 0.7 / len(arms)
        for row, cell in enumerate(cells[::-1]):
            finding, style = cell.ruling.findings.get(arm), _point(cell, arm)
            if finding is None or (interval := finding.interval) is None:
                continue
            _interval(axes, interval, row + offset, style, width=2)
    _zero_and_margin(axes, cells[0])
    names = [cell.name for cell in cells[::-1]]
    _row_names(axes, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    width = CHARACTER * (max(map(len, names)) - 12)
    _legend(axes, cells[0], arms, max(0.0, width), 0.12 * len(arms) * len(names) - 1.5)
    return "The difference in each cell, with its interval; left is lower, grey the margin."


def _legend(
    axes: "Axes", cell: CellFindings, arms: list[str], width: float = 0.0, height: float = 0.0
) -> None:
    """Beside the plot, not on it, the best arm first; the figure gets the room that it takes.

    width, height: what the figure has grown by already.
    """
    if len(arms) < 2:
        return
    from matplotlib.lines import Line2D

    shown = [arm for arm in cell.order if arm in arms]
    handles = [Line2D([], [], markersize=6, **_style(cell, arm)) for arm in shown]
    axes.legend(handles, shown, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.6)
    room = CHARACTER * max(map(len, shown)) + 0.4
    _grow(axes, width + room, max(0.0, height, 0.24 * len(arms) - 2.6))
