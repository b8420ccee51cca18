"""Doubts about a study that block no claim."""

import math
from statistics import fmean

from minigpt.compare.statistics import second_difference
from minigpt.compare.study_findings import CellFindings, loss_of
from minigpt.compare.tuning_value import along
from minigpt.run.source_digest import in_short
from minigpt.study.declaration import Setting
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
        *weak_runs(run for arm in cell.judged for run in cell.judged_runs(arm)),
        *_seconds(cell),
    ]


def _contradicted(cell: CellFindings) -> list[str]:
    """Judged runs whose metrics.jsonl ends in another loss than their summary.json."""
    names = []
    for run in (run for arm in cell.judged for run in cell.judged_runs(arm)):
        final = next((row["val/loss"] for row in reversed(run.rows) if "val/loss" in row), None)
        if final is not None and run.summary is not None:
            names += [run.name] * (run.summary["val_loss"] not in (None, final))
    if not names:
        return []
    return [f"not to be trusted: metrics.jsonl ends in another loss: {few(names)} (minigpt.verify)"]


def _seconds(cell: CellFindings) -> list[str]:
    if cell.why_no_seconds:
        return [f"no seconds: {cell.why_no_seconds}"]
    if (most := max(cell.loads.values())) < ALONE:
        return []
    return [
        f"seconds are of runs side by side on one machine ({most:.1f} others at a time, in all "
        "arms alike): runs alone may come to another ratio"
    ]


def _edges(cell: CellFindings) -> list[str]:
    lines = []
    for arm, search in cell.searches.items():
        for key, value in search.chosen or ():
            values = [dict(setting)[key] for setting in search.scores]
            tried = {float(one) for one in values if is_number(one)}
            if len(tried) > 1 and value in (min(tried), max(tried)):
                lines.append(
                    f"{arm}: the best {key}={value} still lies on an edge of what was tried "
                    f"({min(tried):g} to {max(tried):g}); claims that it loses allow for what it "
                    "may gain beyond"
                )
    return lines


def _between_points(cell: CellFindings) -> list[str]:
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
    return [
        f"between the points of {key} an arm may end lower by more than the margin of {margin:g} "
        f"({', '.join(arms)}): claims allow for what a parabola says of it (finer grids need none)"
        for key, arms in hiding.items()
    ]


def _close_runners_up(cell: CellFindings) -> list[str]:
    lines = []
    for arm, search in cell.searches.items():
        if len(search.ranking) > 1:
            best, second = (_tuning_losses(cell, arm, s) for s in search.ranking[:2])
            gaps = [second[seed] - best[seed] for seed in best]
            if min(gaps) <= 0 < max(gaps) or max(gaps) == 0:
                lines.append(
                    f"{arm}: the choice of {label(search.ranking[0])} over "
                    f"{label(search.ranking[1])} lies within noise "
                    f"({fmean(gaps):.4f} over {len(gaps)} seeds)"
                )
    return lines


def _few_draws(cell: CellFindings) -> list[str]:
    """What random search rests on: the number of draws, and how far apart the best of them are."""
    lines, margin = [], cell.declaration.margin
    for arm, search in cell.searches.items():
        best = [search.scores[s] for s in search.ranking[:BEST_FEW]]
        if cell.declaration.tune.method != "random" or len(best) < BEST_FEW:
            continue
        line = f"{arm}: chosen from {len(search.scores)} random draws"
        if not math.isfinite(best[-1]):
            lines.append(f"{line}, of which fewer than {BEST_FEW} ended")
            continue
        apart = best[-1] - best[0]
        line += f", of which the best {BEST_FEW} lie within {apart:.4f}"
        if apart > margin:
            line += f", more than the margin of {margin:g}: other draws may choose otherwise"
        lines.append(line)
    return lines


def _tuning_losses(cell: CellFindings, arm: str, setting: Setting) -> dict[int, float]:
    return {
        seed: loss_of(run, cell.declaration.metric)
        for seed, run in cell.tuned[arm][setting].items()
    }


def _unequal_trials(cell: CellFindings) -> list[str]:
    trials = {arm: len(search.scores) for arm, search in cell.searches.items()}
    if len(set(trials.values())) == 1:
        return []
    shown = ", ".join(f"{arm} {number}" for arm, number in trials.items())
    return [f"unequal trials: {shown}; the arm with more had more chances"]


def _unequal_costs(cell: CellFindings) -> list[str]:
    other = cell.flops(cell.baseline)
    unknown = [arm for arm in cell.losses if not cell.flops(arm)]
    lines = [f"FLOPs unknown: {', '.join(unknown)}"] if unknown else []
    for arm in cell.ruling.findings:
        own = cell.flops(arm)
        if own and other and not 1 / NOTABLE_COST < own / other < NOTABLE_COST:
            lines.append(
                f"{arm}: a token costs {own / other:.2f}x the FLOPs of {cell.baseline}: "
                "equal tokens are not equal work"
            )
    return lines


def _else_unlike(cell: CellFindings) -> list[str]:
    """What a preset sets beyond its group, and what follows from the key that is compared."""
    own = {cell.declaration.by.replace("/", ".")}
    own |= {
        key.partition(".")[0] for search in cell.searches.values() for key, _ in search.chosen or ()
    }
    lines = []
    for arm in () if cell.exploratory else cell.ruling.findings:
        run, other = (next(iter(cell.at_primary[one].values())) for one in (arm, cell.baseline))
        found = differing([run, other])
        keys = [
            key
            for key in found[run]
            if not any(f"{key}.".replace("/", ".").startswith(f"{node}.") for node in own)
        ]
        if keys:
            shown = "; ".join(f"{k}: {found[other][k]} -> {found[run][k]}" for k in keys)
            lines.append(
                f"{cell.baseline} -> {arm} changes more than {cell.declaration.by}: {shown}"
            )
    return lines


def _mixed(cell: CellFindings) -> list[str]:
    judged = {arm: cell.judged_runs(arm) for arm in cell.judged}
    mixed = {change for runs in judged.values() for run in runs for change in run.record["mixed"]}
    shown = "; ".join(in_short(sorted(mixed)))
    lines = [f"runs went on after a change: {shown}"] if mixed else []
    for arm, runs in judged.items():
        found: dict[str, set[str]] = {}
        for run in (*cell.tuned_runs(arm), *runs):
            for module, code in run.record["source"].items():
                found.setdefault(module, set()).add(code)
        if changed := [module for module, codes in found.items() if len(codes) > 1]:
            lines.append(f"{arm}: code changed between its runs: {few(changed)}")
    return lines


def _diverged(cell: CellFindings) -> list[str]:
    lines = []
    for arm, by_budget in cell.losses.items():
        at: dict[str, list[str]] = {}  # seeds -> budgets at which they diverged
        for budget, by_seed in by_budget.items():
            if seeds := [str(seed) for seed, loss in by_seed.items() if math.isinf(loss)]:
                at.setdefault(", ".join(seeds), []).append(f"{budget:g}")
        if at:
            shown = "; ".join(f"seeds {s} diverged at {', '.join(b)}" for s, b in at.items())
            lines.append(f"{arm}: {shown}")
    return lines
