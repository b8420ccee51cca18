"""One figure of any runs: curves, or the final loss over a key.

python -m minigpt.plot outputs --by optim --out curves.pdf
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.compare.cost import flops_per_token
from minigpt.compare.figures import COLOURS, draw_figure
from minigpt.errors import ConfigError
from minigpt.files import durable
from minigpt.study.find import find
from minigpt.study.outcome import own_overrides
from minigpt.study.run import Run
from minigpt.study.select import key_hint, select
from minigpt.terminal import did_you_mean, escape_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HELP = """\
Draw one figure of runs: a line an arm, the mean over its runs, with a band or dots for each.

  python -m minigpt.plot outputs --by optim                      validation loss, in the terminal
  python -m minigpt.plot outputs --by optim --out curves.pdf     as PNG, SVG or PDF
  python -m minigpt.plot outputs --by optim --where seed=0 --y train/loss --x time_s --out a.svg
  python -m minigpt.plot outputs --by optim --x optim.lr_scale --out sensitivity.pdf
  python -m minigpt.plot outputs --by optim --out a.svg \\
    --labels muon=Muon adamw=AdamW tokens="Training tokens" val/loss="Loss (nats)"
"""
FINAL = {"val/loss": "val_loss", "val/bits_per_byte": "val_bits_per_byte"}
ALONG = ("tokens", "step", "time_s", "flops")
KINDS = ("png", "svg", "pdf")
Line = list[tuple[float, list[float]]]  # x, and what each run of the arm has there


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.plot", HELP)
    parser.select_runs()
    add = parser.add_argument
    add("--by", metavar="KEY", help="what sets the arms apart (default: each run is one)")
    add("--y", metavar="KEY", default="val/loss", help="of metrics.jsonl (default: val/loss)")
    add("--x", metavar="KEY", default="tokens", help=f"{', '.join(ALONG)}, or a key of the runs")
    add("--study", metavar="STUDY", help="only runs of this study")
    add("--labels", metavar="NAME=LABEL", nargs="+", action="extend", default=[],
        help="words of your own for arms, and for x and y")  # fmt: skip
    add("--out", metavar="FILE", type=Path, help="a .png, .svg or .pdf (default: the terminal)")
    return exit_code_of(lambda: plot(parser.parse_args(arguments)))


def plot(asked: argparse.Namespace) -> None:
    """Draw it. Raises ConfigError if there is nothing to draw, StorageError on a bad file."""
    runs = select(find(asked.paths).runs, asked.study, asked.where)
    arms = _arms(runs, asked.by)
    labels = _labels(asked.labels, [*arms, asked.x, asked.y])
    lines = {labels.get(arm, arm): line_of(found, asked.x, asked.y) for arm, found in arms.items()}
    lines = {arm: line for arm, line in lines.items() if line}
    if not lines:
        raise ConfigError(
            f"nothing to draw: --y {asked.y} over --x {asked.x}: "
            "no run has both (metrics.jsonl has the names)"
        )
    names = labels.get(asked.x, asked.x), labels.get(asked.y, asked.y)
    if asked.out is None:
        print("\n".join(map(escape_line, chart(lines, *names))))
        return
    kind = asked.out.suffix.removeprefix(".")
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of figure: --out {asked.out} (.{', .'.join(KINDS)})")
    draw = partial(draw_lines, lines, names, asked.x in ALONG)
    figure = draw_figure(asked.out.stem, draw, kind)
    assert figure is not None
    with durable.writing(asked.out):
        durable.write_atomic(asked.out, figure.other[1] if figure.other else figure.png)
    print(asked.out)


def _arms(runs: list[Run], by: str | None) -> dict[str, list[Run]]:
    """Arm -> its runs, in the order of their start."""
    arms: dict[str, list[Run]] = {}
    if by is None:
        typed = own_overrides([run.record.get("overrides", []) for run in runs])
        return {" ".join(own) or run.name: [run] for own, run in zip(typed, runs)}
    if not any(run.has(by) for run in runs):
        raise ConfigError(f"unknown key: --by {by} {key_hint(by, runs)}")
    for run in runs:
        arms.setdefault(run.arm(by), []).append(run)
    return arms


def _labels(typed: list[str], known: list[str]) -> dict[str, str]:
    labels = dict(text.partition("=")[::2] for text in typed)
    for name in labels:
        if name not in known:
            raise ConfigError(f"unknown name: --labels {name} {did_you_mean(name, known)}")
    return labels


def line_of(runs: list[Run], x: str, y: str) -> Line:
    """What an arm's runs have of y, at each x that all of them have logged, or at each of theirs.

    A run that has not logged y at all takes no part.
    """
    if x not in ALONG:
        points: dict[float, list[float]] = {}
        for run in runs:
            at, final = run.value(x) if run.has(x) else None, _final(run, y)
            if isinstance(at, int | float) and final is not None:
                points.setdefault(float(at), []).append(final)
        return sorted(points.items())
    factors = {run: (flops_per_token(run) or 0.0) if x == "flops" else 1.0 for run in runs}
    column = "tokens" if x == "flops" else x
    logged = [
        {row["step"]: (row[column] * factors[run], row[y]) for row in run.rows if _number(row, y)}
        for run in runs
        if factors[run]
    ]
    logged = [rows for rows in logged if rows]
    steps = sorted(set.intersection(*map(set, logged))) if logged else []
    return [(fmean(r[step][0] for r in logged), [r[step][1] for r in logged]) for step in steps]


def _final(run: Run, y: str) -> float | None:
    if y in FINAL:
        final: float | None = (run.summary or {}).get(FINAL[y])
        return final
    return next((row[y] for row in reversed(run.rows) if _number(row, y)), None)


def _number(row: dict[str, Any], key: str) -> bool:
    return isinstance(row.get(key), int | float)


def draw_lines(
    lines: dict[str, Line], names: tuple[str, str], along: bool, axes: "Axes"
) -> str | None:
    """The lines on axes; returns the caption."""
    for number, (arm, line) in enumerate(lines.items()):
        xs, colour = [x for x, _ in line], COLOURS[number % len(COLOURS)]
        style = ("-", "--", ":")[number // len(COLOURS) % 3] + ("" if along else "o")
        axes.plot(xs, [fmean(ys) for _, ys in line], style, color=colour, label=arm, linewidth=1.8)
        if along and any(len(ys) > 1 for _, ys in line):
            low, high = ([end(ys) for _, ys in line] for end in (min, max))
            axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
        elif not along:
            dots = [(x, y) for x, ys in line for y in ys if len(ys) > 1]
            axes.plot(*zip(*dots), "o", color=colour, alpha=0.4, markersize=3) if dots else None
    every = [x for line in lines.values() for x, _ in line]
    if not along and min(every) > 0 and max(every) >= 8 * min(every):
        axes.set_xscale("log")
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.legend()
    return f"{names[1]} over {names[0]}: the mean over the runs of each arm."


def chart(
    lines: dict[str, Line], x_name: str, y_name: str, width: int = 72, height: int = 18
) -> list[str]:
    """The means in the terminal, a letter an arm."""
    means = {arm: [(x, fmean(ys)) for x, ys in line] for arm, line in lines.items()}
    xs, ys = zip(*(point for line in means.values() for point in line))
    spans = (max(xs) - min(xs) or 1.0), (max(ys) - min(ys) or 1.0)
    grid = [[" "] * width for _ in range(height)]
    letters = [chr(ord("a") + number % 26) for number in range(len(means))]
    for letter, line in zip(letters, means.values()):
        for x, y in line:
            column = round((x - min(xs)) / spans[0] * (width - 1))
            grid[round((max(ys) - y) / spans[1] * (height - 1))][column] = letter
    shown = [f"{y_name}: {min(ys):.4g} to {max(ys):.4g}"]
    shown += ["| " + "".join(row).rstrip() for row in grid]
    shown.append(f"+{'-' * width}  {x_name}: {min(xs):.4g} to {max(xs):.4g}")
    ends = [f"{a}  {arm}: {line[-1][1]:.4f}" for a, (arm, line) in zip(letters, means.items())]
    return shown + ends


if __name__ == "__main__":
    sys.exit(main())
