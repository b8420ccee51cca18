"""One figure of any runs: curves, or the final loss over a key.

python -m minigpt.plot outputs --by optim --out curves.pdf
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from numpy import interp

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
  python -m minigpt.plot outputs --by optim --out curves.pdf     as PNG, SVG, PDF or HTML
  python -m minigpt.plot outputs/a-3fa9c1d2 --y loss val_loss    one run, two curves
  python -m minigpt.plot outputs --by optim --where seed=0 --y loss --x seconds --out a.svg
  python -m minigpt.plot outputs --by optim --x optim.lr_scale --out sensitivity.pdf
  python -m minigpt.plot outputs --by optim --out a.svg \\
    --labels muon=Muon adamw=AdamW tokens="Training tokens" val_loss="Loss (nats)"

--y takes any name of metrics.jsonl (train/loss, grad_norm, lr/hidden, ...); loss, val_loss and
val_bits_per_byte are short for train/loss, val/loss and val/bits_per_byte. Without --by each run
is an arm, and --labels also knows it by the name of its folder.
"""
SHORT = {
    "loss": "train/loss",
    "val_loss": "val/loss",
    "val_bits_per_byte": "val/bits_per_byte",
    "seconds": "time_s",
}
FINAL = {name: short for short, name in SHORT.items() if name.startswith("val/")}
ALONG = ("tokens", "step", "time_s", "flops")
WIDTH, HEIGHT = 72, 17  # of a chart, in characters
KINDS = ("png", "svg", "pdf", "html")
STYLE = "body{--ink:#1f2328;--line:#d0d4d9} svg{max-width:56em}"
PAGE = f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>"
Line = list[tuple[float, list[float]]]  # x, and what each run of the arm has there


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.plot", HELP)
    parser.select_runs()
    add = parser.add_argument
    add("--by", metavar="KEY", help="what sets the arms apart (default: each run is one)")
    add("--y", metavar="KEY", nargs="+", default=["val_loss"],
        help="one or more of metrics.jsonl (default: val_loss)")  # fmt: skip
    add("--x", metavar="KEY", default="tokens",
        help="tokens, step, seconds, flops, or a key of the runs")  # fmt: skip
    add("--study", metavar="STUDY", help="only runs of this study")
    add("--labels", metavar="NAME=LABEL", nargs="+", action="extend", default=[],
        help="words of your own for arms, and for x and y")  # fmt: skip
    add("--out", metavar="FILE", type=Path,
        help="a .png, .svg, .pdf or .html (default: the terminal)")  # fmt: skip
    return exit_code_of(lambda: plot(parser.parse_args(arguments)))


def plot(asked: argparse.Namespace) -> None:
    """Draw it. Raises ConfigError if there is nothing to draw, StorageError on a bad file."""
    runs = select(find(asked.paths).runs, asked.study, asked.where)
    arms = _arms(runs, asked.by)
    x, *ys = (SHORT.get(name, name) for name in [asked.x, *asked.y])
    own = {run.name: arm for arm, (run, *others) in arms.items() if asked.by is None}
    labels = _labels(asked.labels, list(dict.fromkeys([*arms, *own, x, *ys])), own)
    lines: dict[str, Line] = {}
    for y in ys:
        drawn = {arm: line for arm, found in arms.items() if (line := line_of(found, x, y))}
        if not drawn:
            raise ConfigError(
                f"nothing to draw: --y {y} over --x {x}: "
                "no run has both (metrics.jsonl has the names)"
            )
        for arm, line in drawn.items():
            name = labels.get(arm, arm) + (f", {labels.get(y, y)}" if ys[1:] else "")
            if name in lines:
                raise ConfigError(f"two lines of one name: {name} (give them other --labels)")
            lines[name] = line
    names = labels.get(x, x), ", ".join(labels.get(y, y) for y in ys)
    if asked.out is None:
        print("\n".join(map(escape_line, chart(lines, *names, connected=x in ALONG))))
        return
    kind = asked.out.suffix.removeprefix(".")
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of figure: --out {asked.out} (.{', .'.join(KINDS)})")
    figure = draw_figure(asked.out.stem, partial(draw_lines, lines, names, x in ALONG), kind)
    assert figure is not None
    files = figure.files | {f"{figure.name}.html": (PAGE + figure.svg).encode()}
    with durable.writing(asked.out, "--out"):
        durable.write_atomic(asked.out, files[f"{figure.name}.{kind}"])
    print(asked.out)


def _arms(runs: list[Run], by: str | None) -> dict[str, list[Run]]:
    """Arm -> its runs, in the order of their start."""
    arms: dict[str, list[Run]] = {}
    if by is None:
        typed = [run.record.get("overrides", []) for run in runs]
        own = list(map(" ".join, own_overrides(typed) if runs[1:] else [[]]))
        alone = [text if text and own.count(text) == 1 else "" for text in own]
        names = [text or run.name for text, run in zip(alone, runs)]
        return {
            name if names.count(name) == 1 else str(run.folder): [run]
            for name, run in zip(names, runs)
        }
    if not any(run.has(by) for run in runs):
        raise ConfigError(f"unknown key: --by {by} {key_hint(by, runs)}")
    for run in runs:
        arms.setdefault(run.arm(by), []).append(run)
    return arms


def _labels(typed: list[str], known: list[str], own: dict[str, str]) -> dict[str, str]:
    """Name -> label.  own: arms by the name of their run."""
    labels = {}
    for text in typed:  # a name may hold "=" itself
        fitting = [name for name in (*known, *SHORT) if text.startswith(f"{name}=")]
        written = max(fitting, key=len, default=text.partition("=")[0])
        name = SHORT.get(written, written)
        if name not in known:
            raise ConfigError(f"unknown name: --labels {name} {did_you_mean(name, known)}")
        labels[own.get(name, name)] = text[len(written) + 1 :]
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


def draw_lines(lines: dict[str, Line], names: tuple[str, str], along: bool, axes: "Axes") -> str:
    """The lines on axes; returns the caption."""
    for number, (arm, line) in enumerate(lines.items()):
        xs, colour = [x for x, _ in line], COLOURS[number % len(COLOURS)]
        style = ("-", "--", ":")[number // len(COLOURS) % 3] + ("" if along and line[1:] else "o")
        axes.plot(
            xs, [fmean(ys) for _, ys in line], style, color=colour, label=short(arm), linewidth=1.8
        )
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


def short(name: str) -> str:
    """A name that a legend has room for, cut in its middle."""
    return name if len(name) <= 40 else f"{name[:19]}…{name[-20:]}"


def chart(lines: dict[str, Line], x_name: str, y_name: str, connected: bool) -> list[str]:
    """The means in the terminal, a letter an arm.  connected: straight from point to point."""
    means = {arm: [(x, fmean(ys)) for x, ys in line] for arm, line in lines.items()}
    xs, ys = zip(*(point for line in means.values() for point in line))
    spans = (max(xs) - min(xs) or 1.0), (max(ys) - min(ys) or 1.0)
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    letters = [chr(ord("a") + number % 26) for number in range(len(means))]
    for letter, line in zip(letters, means.values()):
        columns = [round((x - min(xs)) / spans[0] * (WIDTH - 1)) for x, _ in line]
        for column in range(columns[0], columns[-1] + 1) if connected else columns:
            y = interp(column, columns, [y for _, y in line])
            grid[round((max(ys) - y) / spans[1] * (HEIGHT - 1))][column] = letter
    shown = [y_name]
    for number, row in enumerate(grid):
        tick = f"{max(ys) - number * spans[1] / (HEIGHT - 1):.4g}" if number % 4 == 0 else ""
        shown.append(f"{tick:>10} | {''.join(row).rstrip()}")
    left = f"{min(xs):.4g}"
    shown.append(f"{'':10} +-{'-' * WIDTH}")
    shown.append(f"{'':13}{left}{max(xs):>{WIDTH - len(left)}.4g}  {x_name}")
    ends = [f"{a}  {arm}: {line[-1][1]:.4f}" for a, (arm, line) in zip(letters, means.items())]
    return shown + ends


if __name__ == "__main__":
    sys.exit(main())
