"""The figures of a report, drawn once by matplotlib: PNG files, and SVG that takes its colours from
the page.
"""

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minigpt.compare.cost import PARTS, Costs, breakdown, path_of
from minigpt.compare.verdict import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without black and yellow: told apart by the colour-blind, readable on
# white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
PAPER = ("#1f2328", "#d0d4d9")  # ink and grid of a PNG
PAGE = ("#010203", "#040506")  # stand-ins, which become CSS variables of the page
INKED = ("axes.labelcolor", "text.color", "xtick.color", "ytick.color")
GRIDDED = ("axes.edgecolor", "grid.color")
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "minigpt",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # names of arms and keys mean what they say
}
SIZE = (5.4, 3.6)  # inches; one panel a figure, so that a narrow screen stacks them


@dataclass(frozen=True)
class Figure:
    """name: of the PNG file.  caption: what to see.  png, svg: the same drawing."""

    name: str
    caption: str
    png: bytes
    svg: str


def figures(result: Result, times: Costs, prefix: str) -> list[Figure]:
    """Every figure for which there is something to draw."""
    unit = "nats per token" if result.group.question.metric == "val_loss" else "bits per byte"
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(result.group.arms)}
    drawn = [
        ("differences", lambda axes: _differences(axes, result, colours, unit)),
        ("budgets", lambda axes: _budgets(axes, result, colours, unit)),
        ("loss_tokens", lambda axes: _curves(axes, result, colours, unit, "tokens")),
        ("loss_seconds", lambda axes: _curves(axes, result, colours, unit, "time_s")),
        ("sensitivity", lambda axes: _sensitivity(axes, result, colours, unit)),
        ("cost", lambda axes: _cost(axes, result, colours)),
    ]
    return [
        figure for name, draw in drawn if (figure := _draw(f"{prefix}{name}", draw)) is not None
    ]


def _draw(name: str, draw: Callable[["Axes"], str | None]) -> Figure | None:
    """A figure in both formats; None if there was nothing to draw."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    written: dict[str, bytes] = {}
    caption: str | None = None
    for kind, ink, grid in (("svg", *PAGE), ("png", *PAPER)):
        style: Any = STYLE | dict.fromkeys(INKED, ink) | dict.fromkeys(GRIDDED, grid)
        with matplotlib.rc_context(style):
            canvas = Canvas(figsize=SIZE, layout="constrained")
            FigureCanvasAgg(canvas)
            axes = canvas.add_subplot()
            axes.set_axisbelow(True)
            caption = draw(axes)
            if caption is None:
                return None
            file = io.BytesIO()
            # the same figure gives the same bytes
            nothing = {"Date": None} if kind == "svg" else {"Software": None}
            canvas.savefig(file, format=kind, dpi=130, transparent=kind == "svg", metadata=nothing)
            written[kind] = file.getvalue()
    assert caption is not None
    return Figure(name, caption, written["png"], page_svg(written["svg"].decode(), name))


def page_svg(svg: str, name: str) -> str:
    """matplotlib's SVG as a part of a page: no XML header, no foreign references, own ids, colours
    by CSS variable.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1),
        count=1,
    )
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    return svg.replace(PAGE[0], "var(--ink)").replace(PAGE[1], "var(--line)").strip()


def _differences(axes: "Axes", result: Result, colours: dict[str, str], unit: str) -> str | None:
    comparisons = [c for c in result.at_headline.comparisons if c.interval is not None]
    if not comparisons:
        return None
    for row, c in enumerate(comparisons):
        assert c.interval is not None
        colour = colours[c.arm.arm]
        points = [c.arm.losses[seed] - c.baseline.losses[seed] for seed in c.seeds]
        axes.plot(
            points,
            [row + 0.18] * len(points),
            "o",
            color=colour,
            alpha=0.55,
            markersize=5,
            markeredgewidth=0,
        )
        if math.isfinite(c.interval.low):
            axes.plot(
                [c.interval.low, c.interval.high], [row - 0.12] * 2, color=colour, linewidth=3
            )
        axes.plot([c.interval.mean], [row - 0.12], "D", color=colour, markersize=7)
    axes.axvline(0, color=_ink(), linewidth=1)
    if result.rules.margin:
        axes.axvspan(
            -result.rules.margin, result.rules.margin, color=_ink(), alpha=0.08, linewidth=0
        )
    axes.set_yticks(range(len(comparisons)), [c.arm.arm for c in comparisons])
    axes.set_ylim(-0.7, len(comparisons) - 0.3)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"loss minus that of {result.baseline}, {unit}  (left: better)")
    margin = ", grey: the margin" if result.rules.margin else ""
    return (
        f"Paired differences of final loss at {result.headline:,} tokens: a dot for each seed, below it the mean "
        f"with its {100 * result.rules.confidence:g} % interval{margin}."
    )


def _budgets(axes: "Axes", result: Result, colours: dict[str, str], unit: str) -> str | None:
    if len(result.horizons) < 2:
        return None
    for name in result.group.arms:
        setting = result.choices[name].setting if name in result.choices else None
        points = [
            (horizon, at.evidence[name].interval)
            for horizon, at in sorted(result.horizons.items())
            if name in at.evidence
            and at.evidence[name].interval
            and at.evidence[name].setting is setting
        ]
        x, means = [h for h, _ in points], [i.mean for _, i in points if i]
        bars = [i.high - i.mean if i and math.isfinite(i.high) else 0 for _, i in points]
        axes.errorbar(
            x,
            means,
            yerr=bars,
            color=colours[name],
            marker="o",
            capsize=3,
            label=name,
            linewidth=1.8,
        )
    axes.set_xscale("log")
    _token_ticks(axes, sorted(result.horizons))
    axes.set_xlabel("training tokens of the whole run (log scale)")
    axes.set_ylabel(f"final loss, {unit}")
    axes.legend()
    return (
        "Final loss of finished schedules by budget, each arm at one setting, with the intervals of the means. "
        "Equal loss is read off between these points only."
    )


def _token_ticks(axes: "Axes", values: list[int]) -> None:
    axes.set_xticks(values, [_short(value) for value in values])
    axes.minorticks_off()


def _short(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def _curves(axes: "Axes", result: Result, colours: dict[str, str], unit: str, x: str) -> str | None:
    """Loss on the way, seed by seed where they were measured together: mean line, band from least
    to greatest.
    """
    key = {"val_loss": "val/loss", "val_bits_per_byte": "val/bits_per_byte"}[
        result.group.question.metric
    ]
    runs_of = {name: found.runs.values() for name, found in result.at_headline.evidence.items()}
    rows_of = {
        name: [run.rows for run in runs if run.status == "finished"]
        for name, runs in runs_of.items()
    }
    rows = [row for lists in rows_of.values() for rows in lists for row in rows]
    if (
        key == "val/loss"
        and max(
            (sum(key in row for row in rows) for lists in rows_of.values() for rows in lists),
            default=0,
        )
        < 3
    ):
        key = "train/loss"
    drawn = False
    for name, lists in rows_of.items():
        line = band(lists, key, x)
        if len(line) < 2:
            continue
        drawn = True
        xs, low, mean, high = zip(*line)
        axes.fill_between(xs, low, high, color=colours[name], alpha=0.2, linewidth=0)
        axes.plot(
            xs, mean, color=colours[name], label=f"{name} ({len(lists)} seeds)", linewidth=1.8
        )
    if not drawn:
        return None
    shown = [row[key] for row in rows if row.get(key) is not None]
    final = min(shown)
    # The first steps, from ln(vocabulary) down, would flatten everything that differs.
    axes.set_ylim(final - 0.05 * (max(shown) - final), final + 0.6 * (max(shown) - final))
    axes.set_xlabel(
        "training tokens" if x == "tokens" else "seconds of training (no evaluation, no saving)"
    )
    if x == "tokens":
        from matplotlib.ticker import FuncFormatter

        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    what = "training" if key == "train/loss" else "validation"
    axes.set_ylabel(f"{what} loss, {unit if what == 'validation' else 'nats per token'}")
    axes.legend()
    note = (
        "; on the way a part of the validation split, at the end all of it"
        if what == "validation"
        else ""
    )
    paths = {path_of(run, result.group.question.by) for runs in runs_of.values() for run in runs}
    warning = (
        " The runs come from different machines or paths: seconds do not compare."
        if len(paths) > 1
        else ""
    )
    if x == "tokens":
        return f"Loss against tokens at the longest judged budget; line: mean over seeds, band: least to greatest{note}."
    return f"The same against seconds of training, as they were measured in these runs.{warning}"


def band(
    lists: list[list[dict[str, Any]]], key: str, x: str
) -> list[tuple[float, float, float, float]]:
    """(x, least, mean, greatest) at every step that all runs have logged; x is averaged over the
    runs.
    """
    by_step = [{row["step"]: row for row in rows if row.get(key) is not None} for rows in lists]
    common = sorted(set.intersection(*(set(rows) for rows in by_step))) if by_step else []
    result = []
    for step in common:
        values = [rows[step][key] for rows in by_step]
        result.append(
            (fmean(rows[step][x] for rows in by_step), min(values), fmean(values), max(values))
        )
    return result


def _sensitivity(axes: "Axes", result: Result, colours: dict[str, str], unit: str) -> str | None:
    """Tuning loss by the first numeric axis of each arm; other axes at the value of the chosen
    setting.
    """
    axis_names: set[str] = set()
    tried: set[float] = set()
    for name, choice in result.choices.items():
        arm = result.group.arms[name]
        axis = next(
            (axis for axis in arm.axes if len(axis.numbers) > 1 and min(axis.numbers) > 0), None
        )
        if axis is None or not choice.scores:
            continue
        others = [other for other in arm.axes if other is not axis]
        line = sorted(
            (
                axis.values[s.setting.key],
                s.mean,
                [r.loss(result.group.question.metric) for r in s.runs],
            )
            for s in choice.scores
            if all(o.values[s.setting.key] == o.values[choice.setting.key] for o in others)
        )
        finite = [(value, mean) for value, mean, _ in line if math.isfinite(mean)]
        if len(line) < 2 or not finite:
            continue
        axis_names.add(axis.name)
        tried |= {value for value, _, _ in line}
        axes.plot(*zip(*finite), color=colours[name], marker="o", label=name, linewidth=1.8)
        for value, _, losses in line:
            seen = [loss for loss in losses if loss is not None and math.isfinite(loss)]
            axes.plot([value] * len(seen), seen, ".", color=colours[name], alpha=0.5)
            if len(seen) < len(losses):
                axes.annotate(
                    "diverged", (value, max(m for _, m in finite)), color=colours[name], ha="center"
                )
        best = axis.values[choice.setting.key]
        axes.plot(
            *next(point for point in finite if point[0] == best),
            "o",
            color=colours[name],
            markersize=11,
            fillstyle="none",
        )
    if not tried:
        return None
    axes.set_xscale("log")
    ticks = sorted(tried)
    if len(ticks) <= 9:
        axes.set_xticks(ticks, [f"{value:.3g}" for value in ticks], fontsize=9)
        axes.minorticks_off()
    axes.set_xlabel(" / ".join(sorted(axis_names)))
    axes.set_ylabel(f"final loss, {unit}")
    axes.legend()
    return "Sensitivity to the tuned value on the tuning seeds: dots are runs, the ring is the chosen setting."


def _cost(axes: "Axes", result: Result, colours: dict[str, str]) -> str | None:
    found = {
        name: breakdown(list(proof.runs.values()))
        for name, proof in result.at_headline.evidence.items()
    }
    found = {name: parts for name, parts in found.items() if parts and sum(parts.values()) > 0}
    if not found:
        return None
    shades = dict(zip(PARTS, (0.2, 0.65, 0.4, 0.3, 0.15)))
    for row, (name, parts) in enumerate(found.items()):
        left = 0.0
        for part in PARTS:
            axes.barh(
                row,
                parts[part],
                left=left,
                color=colours[name],
                alpha=shades[part],
                height=0.6,
                linewidth=0,
            )
            if parts[part] > 0.15 * max(sum(p.values()) for p in found.values()):
                axes.text(
                    left + parts[part] / 2,
                    row,
                    part.replace("_", "\n"),
                    ha="center",
                    va="center",
                    fontsize=9,
                )
            left += parts[part]
    axes.set_yticks(range(len(found)), list(found))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds of a run, mean over its seeds")
    return "Where the seconds of a run went (as measured, whether or not the machine was busy with other work)."


def _ink() -> str:
    """The colour of text in the format that is being drawn."""
    import matplotlib

    return str(matplotlib.rcParams["text.color"])
