"""The figures of a declared study: a forest of arms, losses over budgets, tuning, cells."""

import math
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.compare.figures import Figure, draw_figure
from minigpt.compare.panels import COLOURS, INK
from minigpt.compare.study_findings import CellFindings, Findings, loss_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS = {"val_loss": "nats per token", "val_bits_per_byte": "bits per byte"}
Draw = Callable[["Axes"], str | None]


def study_figures(found: Findings) -> dict[str, list[Figure]]:
    """Every figure for which there is something to draw, by cell; "" for all cells together."""
    drawn: dict[str, list[Figure]] = {}
    if len(found.cells) > 1:
        drawn[""] = _draw("cells-", {"effects": partial(effects, found)})
    for number, cell in enumerate(found.cells):
        prefix = f"{number:02d}-" if len(found.cells) > 1 else ""
        draws: dict[str, Draw] = {
            "forest": partial(forest, cell),
            "budgets": partial(budgets, cell),
            "sensitivity": partial(sensitivity, cell),
            "tuning": partial(tuning, cell),
        }
        drawn[cell.name] = _draw(prefix, draws)
    return drawn


def _draw(prefix: str, draws: dict[str, Draw]) -> list[Figure]:
    found = (draw_figure(f"{prefix}{name}", draw) for name, draw in draws.items())
    return [figure for figure in found if figure is not None]


def _colour(cell: CellFindings, arm: str) -> str:
    return COLOURS[cell.declaration.arms.index(arm) % len(COLOURS)]


def _marker(cell: CellFindings, arm: str) -> str:
    """Another one where colours come again."""
    return "osD^v"[cell.declaration.arms.index(arm) // len(COLOURS) % 5]


def forest(cell: CellFindings, axes: "Axes") -> str | None:
    """The arms by loss: each pair, the mean and its interval, the margin as a band."""
    rows = [one.arm for one in cell.ranking if one.arm in cell.ruling.findings][::-1]
    losses, primary = cell.losses, cell.declaration.primary
    baseline = losses[cell.baseline][primary]
    for row, arm in enumerate(rows):
        interval = cell.ruling.findings[arm].interval
        colour = _colour(cell, arm)
        points = [losses[arm][primary][seed] - baseline[seed] for seed in baseline]
        points = [point for point in points if math.isfinite(point)]
        axes.plot(
            points, [row + 0.2] * len(points), "o", color=colour, alpha=0.5, markersize=4,
            markeredgewidth=0,
        )  # fmt: skip
        if interval is None:
            axes.text(0, row, "  diverged", va="center")
            continue
        if math.isfinite(interval.low):
            axes.plot([interval.low, interval.high], [row] * 2, color=colour, linewidth=3)
        axes.plot([interval.mean], [row], _marker(cell, arm), color=colour, markersize=7)
    axes.axvline(0, color=INK, linewidth=1)
    margin = cell.declaration.margin
    axes.axvspan(-margin, margin, color=INK, alpha=0.08, linewidth=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"loss minus that of {cell.baseline}, {UNITS[cell.declaration.metric]}")
    return (
        f"Paired differences at {cell.tokens(primary):,} tokens, best arm on top, left is better: "
        f"a dot a seed, the mean and its {100 * (1 - cell.alpha):g} % interval, grey the margin."
    )


def budgets(cell: CellFindings, axes: "Axes") -> str | None:
    """Final losses over budgets, with the fit."""
    measured = cell.measured
    if measured is None:
        return None
    curves = measured.curves()
    fine = np.geomspace(measured.budgets[0], measured.budgets[-1], 50)
    for arm, losses in measured.losses.items():
        style: Any = {"color": _colour(cell, arm), "marker": _marker(cell, arm)}
        axes.plot(measured.budgets, losses.mean(axis=1), linestyle="", markersize=6, **style)
        axes.plot(
            np.repeat(measured.budgets, losses.shape[1]), losses.ravel(), linestyle="",
            markersize=3, alpha=0.35, markeredgewidth=0, **style,
        )  # fmt: skip
        fitted = [float(curves.loss(arm, budget)) for budget in fine]
        axes.plot(fine, fitted, color=_colour(cell, arm), linewidth=1.5, label=arm)
    _budget_axis(axes, measured.budgets)
    axes.set_xlabel("training tokens")
    axes.set_ylabel(f"final loss, {UNITS[cell.declaration.metric]}")
    _legend(axes, len(measured.losses))
    return "Final losses of whole schedules by budget: small a seed, large the mean; lines the fit."


def _budget_axis(axes: "Axes", values: tuple[float, ...]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(values, [_short(value) for value in values])
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
    key = keys[0]
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
        colour = _colour(cell, arm)
        for value, losses in line.items():
            axes.plot(
                [value] * len(losses), losses, "o", color=colour, alpha=0.4, markersize=4,
                markeredgewidth=0,
            )  # fmt: skip
        means = [fmean(losses) for losses in line.values()]
        axes.plot(list(line), means, color=colour, linewidth=1.5, label=arm)
        best = dict(search.chosen)[key]
        if isinstance(best, int | float) and float(best) in line:
            axes.plot([float(best)], [fmean(line[float(best)])], "*", color=colour, markersize=13)
    ticks = sorted({float(x) for curve in axes.lines for x in np.atleast_1d(curve.get_xdata())})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45 if len(ticks) > 6 else 0)
    axes.minorticks_off()
    axes.set_xlabel(key)
    axes.set_ylabel(f"tuning loss, {UNITS[cell.declaration.metric]}")
    _legend(axes, len(cell.searches))
    seeds = ", ".join(map(str, cell.declaration.tune.seeds))
    return (
        f"Tuning: a dot for each of the tuning seeds {seeds}, lines their mean, stars the choice."
    )


def tuning(cell: CellFindings, axes: "Axes") -> str | None:
    """The best loss to expect of k trials."""
    from matplotlib.ticker import MaxNLocator

    curves = {arm: cell.tuning_curve(arm) for arm in cell.searches}
    curves = {arm: curve for arm, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    for arm, curve in curves.items():
        axes.plot(
            range(1, len(curve) + 1), curve, color=_colour(cell, arm), marker=_marker(cell, arm),
            markersize=4, label=arm,
        )  # fmt: skip
    axes.set_xlabel("trials")
    axes.set_ylabel(f"expected best tuning loss, {UNITS[cell.declaration.metric]}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, len(curves))
    return "What tuning buys: the best tuning loss to expect of so many random trials."


def effects(found: Findings, axes: "Axes") -> str | None:
    """The difference of each arm in each cell."""
    cells = found.cells
    arms = list(cells[0].ruling.findings)
    for number, arm in enumerate(arms):
        offset = (number - (len(arms) - 1) / 2) * 0.6 / max(1, len(arms))
        for row, cell in enumerate(cells):
            interval = cell.ruling.findings[arm].interval
            if interval is None:
                continue
            colour, at = _colour(cell, arm), row + offset
            if math.isfinite(interval.low):
                axes.plot([interval.low, interval.high], [at] * 2, color=colour, linewidth=3)
            name = arm if not row else None
            axes.plot(
                [interval.mean], [at], _marker(cell, arm), color=colour, markersize=6, label=name
            )
    axes.axvline(0, color=INK, linewidth=1)
    margin = found.declaration.margin
    axes.axvspan(-margin, margin, color=INK, alpha=0.08, linewidth=0)
    axes.set_yticks(range(len(cells)), [cell.name for cell in cells])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"loss minus that of {cells[0].baseline}, {UNITS[found.declaration.metric]}")
    _legend(axes, len(arms))
    return "The difference in each cell, with its interval; left is better, grey the margin."


def _legend(axes: "Axes", entries: int) -> None:
    """Beside the plot, not on it."""
    if entries > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
