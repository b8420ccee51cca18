"""Doubts about a study that block no claim."""

import math
from collections.abc import Iterable
from statistics import fmean

from minigpt.compare.statistics import second_difference
from minigpt.compare.study_findings import CellFindings, loss_of
from minigpt.compare.tuning_value import along
from minigpt.run.source_digest import in_short
from minigpt.study.planned import label
from minigpt.study.run import differing, weak_runs
from minigpt.study.values import is_number
from minigpt.terminal import few

NOTABLE_COST = 1.1  # a factor of FLOPs a token from which equal tokens need a word
BEST_FEW = 3  # draws, whose spread tells what luck did
ALONE = 0.05  # other runs at a time, below which a run had its machine to itself


def notes(cell: CellFindings) -> list[str]:
    """One sentence each."""
    return [
        *cell.doubts,
        *_contradicted(cell),
        *_edges(cell),
        *_between_points(cell),
        *_close_runners_up(cell),
        *_few_draws(cell),
        *_unequal_trials(cell),
        *_unequal_costs(cell),
        *_else_unlike(cell),
        *_mixed(cell),
        *_diverged(cell),
        *weak_runs(cell.all_judged),
        *_seconds(cell),
    ]


def _contradicted(cell: CellFindings) -> Iterable[str]:
    """Judged runs whose metrics.jsonl ends in another loss than their summary.json."""
    names = []
    for run in cell.all_judged:
        final = next((row["val/loss"] for row in reversed(run.rows) if "val/loss" in row), None)
        if final is not None and run.summary is not None:
            names += [run.name] * (run.summary["val_loss"] not in (None, final))
    if names:
        ends = "metrics.jsonl ends in another loss"
        yield f"not to be trusted: {ends}: {few(names)} (minigpt.verify)"


def _seconds(cell: CellFindings) -> Iterable[str]:
    if cell.why_no_seconds:
        yield f"no seconds: {cell.why_no_seconds}"
    elif (most := max(cell.loads.values())) >= ALONE:
        yield (
            f"seconds are of runs side by side on one machine ({most:.1f} others at a time, in all "
            "arms alike): runs alone may come to another ratio"
        )


def _edges(cell: CellFindings) -> Iterable[str]:
    for arm, search in cell.searches.items():
        for key, value in search.chosen or ():
            values = [dict(setting)[key] for setting in search.scores]
            tried = {float(one) for one in values if is_number(one)}
            if len(tried) > 1 and value in (min(tried), max(tried)):
                yield (
                    f"{arm}: the best {key}={value} still lies on an edge of what was tried "
                    f"({min(tried):g} to {max(tried):g}); claims that it loses allow for what it "
                    "may gain beyond"
                )


def _between_points(cell: CellFindings) -> Iterable[str]:
    """Where a better value may lie between two points of the grid, by more than the margin.

    The gain is at most the curvature of the tuning loss, by the parabola in log2 through the best
    value and its neighbours, times the square of half of the wider step.
    """
    hiding: dict[str, list[str]] = {}  # key -> arms
    margin = cell.declaration.margin
    for arm, search in cell.searches.items():
        for key, value in search.chosen or ():
            line = along(search.scores, search.chosen or (), key)
            x = sorted(line)
            at = x.index(value) if isinstance(value, int | float) and value in x else 0
            if (x and x[0] <= 0) or not 0 < at < len(x) - 1:
                continue
            beside = x[at - 1 : at + 2]
            logs, losses = [math.log2(v) for v in beside], [line[v] for v in beside]
            if not all(map(math.isfinite, losses)):
                continue
            half_step = max(logs[1] - logs[0], logs[2] - logs[1]) / 2
            hidden = second_difference(logs, losses) * half_step**2
            if hidden > margin:
                hiding.setdefault(key, []).append(f"{arm} by up to {hidden:.4f}")
    for key, arms in hiding.items():
        yield (
            f"between the points of {key} an arm may end lower by more than the margin of "
            f"{margin:g} ({', '.join(arms)}): claims allow for what a parabola says of it (finer "
            "grids need none)"
        )


def _close_runners_up(cell: CellFindings) -> Iterable[str]:
    for arm, search in cell.searches.items():
        if len(search.ranking) < 2:
            continue
        best, second = (
            [loss_of(run, cell.declaration.metric) for run in cell.tuned[arm][s].values()]
            for s in search.ranking[:2]
        )
        gaps = [other - own for own, other in zip(best, second, strict=True)]
        if min(gaps) <= 0 < max(gaps) or max(gaps) == 0:
            yield (
                f"{arm}: the choice of {label(search.ranking[0])} over "
                f"{label(search.ranking[1])} lies within noise "
                f"({fmean(gaps):.4f} over {len(gaps)} seeds)"
            )


def _few_draws(cell: CellFindings) -> Iterable[str]:
    """What random search rests on: the number of draws, and how far apart the best of them are."""
    margin = cell.declaration.margin
    for arm, search in cell.searches.items():
        best = [search.scores[s] for s in search.ranking[:BEST_FEW]]
        if cell.declaration.tune.method != "random" or len(best) < BEST_FEW:
            continue
        line = f"{arm}: chosen from {len(search.scores)} random draws, of which "
        if not math.isfinite(best[-1]):
            yield f"{line}fewer than {BEST_FEW} ended"
            continue
        apart = best[-1] - best[0]
        line += f"the best {BEST_FEW} lie within {apart:.4f}"
        if apart > margin:
            line += f", more than the margin of {margin:g}: other draws may choose otherwise"
        yield line


def _unequal_trials(cell: CellFindings) -> Iterable[str]:
    trials = {arm: len(search.scores) for arm, search in cell.searches.items()}
    if len(set(trials.values())) > 1:
        shown = ", ".join(f"{arm} {number}" for arm, number in trials.items())
        yield f"unequal trials: {shown}; the arm with more had more chances"


def _unequal_costs(cell: CellFindings) -> Iterable[str]:
    flops = {arm: cell.flops(arm) for arm in cell.losses}
    if unknown := [arm for arm, own in flops.items() if not own]:
        yield f"FLOPs unknown: {', '.join(unknown)}"
    other = flops[cell.baseline]
    for arm in cell.ruling.findings:
        own = flops[arm]
        if own and other and not 1 / NOTABLE_COST < own / other < NOTABLE_COST:
            yield (
                f"{arm}: a token costs {own / other:.2f}x the FLOPs of {cell.baseline}: "
                "equal tokens are not equal work"
            )


def _else_unlike(cell: CellFindings) -> Iterable[str]:
    """What a preset sets beyond its group, and what follows from the key that is compared."""
    own = {cell.declaration.by.replace("/", ".")}
    own |= {
        key.partition(".")[0] for search in cell.searches.values() for key, _ in search.chosen or ()
    }
    for arm in () if cell.exploratory else cell.ruling.findings:
        run, other = (next(iter(cell.at_primary[one].values())) for one in (arm, cell.baseline))
        found = differing([run, other])
        shown = "; ".join(
            f"{key}: {found[other][key]} -> {found[run][key]}"
            for key in found[run]
            if not any(f"{key}.".replace("/", ".").startswith(f"{node}.") for node in own)
        )
        if shown:
            yield f"{cell.baseline} -> {arm} changes more than {cell.declaration.by}: {shown}"


def _mixed(cell: CellFindings) -> Iterable[str]:
    if mixed := {change for run in cell.all_judged for change in run.record["mixed"]}:
        yield f"runs went on after a change: {'; '.join(in_short(sorted(mixed)))}"
    for arm in cell.judged:
        found: dict[str, set[str]] = {}
        for run in (*cell.tuned_runs(arm), *cell.judged_runs(arm)):
            for module, code in run.record["source"].items():
                found.setdefault(module, set()).add(code)
        if changed := [module for module, codes in found.items() if len(codes) > 1]:
            yield f"{arm}: code changed between its runs: {few(changed)}"


def _diverged(cell: CellFindings) -> Iterable[str]:
    for arm, by_budget in cell.losses.items():
        at: dict[str, list[str]] = {}  # seeds -> budgets at which they diverged
        for budget, by_seed in by_budget.items():
            if seeds := [str(seed) for seed, loss in by_seed.items() if math.isinf(loss)]:
                at.setdefault(", ".join(seeds), []).append(f"{budget:g}")
        if at:
            shown = "; ".join(f"seeds {s} diverged at {', '.join(b)}" for s, b in at.items())
            yield f"{arm}: {shown}"
