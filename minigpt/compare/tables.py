"""The tables of a report; each number with the runs it rests on."""

import json
import math

from minigpt.compare import cost
from minigpt.compare.caveats import edges
from minigpt.compare.cost import Costs
from minigpt.compare.document import Cell, Table
from minigpt.compare.selection import Evidence
from minigpt.compare.statistics import Interval
from minigpt.compare.verdict import Result
from minigpt.compare.wording import p_text, plain, ratio_text, signed
from minigpt.study.run import Run
from minigpt.study.values import show
from minigpt.terminal import duration


def arms_table(result: Result, unit: str) -> Table:
    rows = []
    for name, arm in result.group.arms.items():
        found, choice = result.at_headline.evidence.get(name), result.choices.get(name)
        everything = (*arm.runs, *arm.unended)
        tuning = tuple(run for score in (choice.scores if choice else ()) for run in score.runs)
        diverged = (
            "" if found is None or not found.diverged else f", {len(found.diverged)} diverged"
        )
        rows.append(
            [
                Cell(name + (" (baseline)" if name == result.baseline else "")),
                Cell(arm.describe(choice.setting) if choice else "not chosen: no tuning seeds"),
                Cell(
                    f"{len(choice.scores)} settings, {len(tuning)} runs"
                    if choice and tuning
                    else "none",
                    tuning,
                ),
                Cell("no run" if found is None else plain(found.interval), _runs(found)),
                Cell(
                    f"{found.interval.sd:.4f}"
                    if found and found.interval and found.interval.n > 1
                    else "",
                    _runs(found),
                ),
                Cell(
                    "" if found is None else f"{len(found.losses)} {found.kind}{diverged}",
                    _runs(found),
                ),
                Cell(
                    f"{len(everything)} ({duration(sum(run.spent_s for run in everything))})",
                    everything,
                ),
            ]
        )
    confidence = f"{100 * result.rules.confidence:g} %"
    columns = [
        "arm",
        "setting",
        "tuned over",
        f"loss ({confidence})",
        "seed sd",
        "judged by",
        "runs spent",
    ]
    return Table(f"Arms at {result.headline:,} tokens, {unit}", columns, rows)


def _runs(found: Evidence | None) -> tuple[Run, ...]:
    return () if found is None else tuple(found.runs.values())


def differences_table(result: Result, unit: str) -> Table:
    rows = []
    for horizon, at in sorted(result.horizons.items(), reverse=True):
        for c in at.comparisons:
            runs = (*_runs(c.arm), *_runs(c.baseline))
            correlation = "" if c.correlation is None else f"{c.correlation:.2f}"
            rows.append(
                [
                    Cell(f"{horizon:,}" + (" *" if horizon == result.headline else "")),
                    Cell(c.arm.arm),
                    Cell(signed(c.interval) if c.interval else "none", runs),
                    Cell(p_text(c.p) if len(c.seeds) > 1 else "", runs),
                    Cell(p_text(c.p_holm) if len(c.seeds) > 1 else "", runs),
                    Cell(str(len(c.seeds)), runs),
                    Cell(correlation, runs),
                    Cell("" if c.detectable is None else f"{c.detectable:.4f}", runs),
                    Cell(c.verdict, runs),
                ]
            )
    confidence = f"{100 * result.rules.confidence:g} %"
    columns = [
        "tokens",
        "arm",
        f"difference ({confidence})",
        "p",
        "p of claim",
        "pairs",
        "r",
        "detectable",
        "verdict",
    ]
    arms = len(result.at_headline.comparisons)
    note = (
        f"difference: arm minus {result.baseline}, {unit}; p: two-sided, of no difference; p of claim: of lying beyond "
        f"(or within) the margin of {result.rules.margin:g}"
        + (f", Holm over {arms} arms" if arms > 1 else "")
        + "; r: correlation of the pairs; detectable: the true difference that as many pairs show in 8 of 10 studies; "
        "*: the verdict's budget."
    )
    return Table(f"Paired differences against {result.baseline}", columns, rows, note)


def equal_loss_table(result: Result, times: Costs) -> Table:
    rows = []
    for found in result.equal_loss:
        r = cost.ratios(found, result, times)
        runs = tuple(found.runs)
        timed = tuple(
            run
            for name in (found.arm, found.baseline)
            if (t := times.step_times.get(name))
            for run in t.runs
        )
        between = " to ".join(f"{tokens:,}" for tokens in found.ratio.used)
        rows.append(
            [
                Cell(f"{found.horizon:,}"),
                Cell(found.arm),
                Cell(ratio_text(found, 1.0, r.tokens), runs),
                Cell(ratio_text(found, r.steps, _shifted(r.tokens, r.steps)), runs),
                Cell(ratio_text(found, r.flops, _shifted(r.tokens, r.flops)), runs),
                Cell(
                    ratio_text(found, r.seconds, r.seconds_log),
                    (*runs, *timed) if r.seconds else (),
                ),
                Cell(between, runs),
                Cell(str(found.ratio.n), runs),
            ]
        )
    note = (
        f"Share of {result.baseline}'s budget with which an arm reaches its final loss, read off between finished "
        "schedules of the arm that bracket it (never on the way of a run); outside of them only a bound. FLOPs: "
        "training and optimizer. Seconds: steps times a step time measured alone"
        + (
            f" ({times.path})."
            if times.step_times and not times.why_no_times
            else f"; here {times.why_no_times or 'unknown'}."
        )
    )
    columns = [
        f"{result.baseline}'s tokens",
        "arm",
        "tokens",
        "steps",
        "FLOPs",
        "seconds",
        "bracketed by",
        "seeds",
    ]
    return Table(f"Budget to {result.baseline}'s final loss", columns, rows, note)


def _shifted(log: Interval | None, factor: float | None) -> Interval | None:
    if log is None or factor is None:
        return None
    by = math.log(factor)
    return Interval(log.mean + by, log.low + by, log.high + by, log.sd, log.n)


def cost_table(result: Result, times: Costs) -> Table:
    rows = []
    for name, found in result.at_headline.evidence.items():
        run = next(
            (run for run in found.runs.values() if run.summary and run.status == "finished"), None
        )
        if run is None or run.summary is None:
            continue
        time, parts = times.step_times.get(name), cost.breakdown(_runs(found))
        share = run.summary.get("optimizer_flops_share")
        rate = f"{run.tokens_per_step / time.seconds:,.0f}" if time else "not alone"
        rows.append(
            [
                Cell(name),
                Cell(f"{run.summary['parameters']:,}", (run,)),
                Cell(f"{run.summary['flops_per_token']:,}", (run,)),
                Cell("unknown" if share is None else f"{100 * share:.1f} %", (run,)),
                Cell(f"{(run.summary.get('optimizer_state_bytes') or 0) / 2**20:.1f}", (run,)),
                Cell(step_time_text(time), time.runs if time else ()),
                Cell(rate, time.runs if time else ()),
                *(Cell(f"{parts.get(part, 0):.1f}", _runs(found)) for part in cost.PARTS),
            ]
        )
    parts_names = [part.replace("_", " and ") + " s" for part in cost.PARTS]
    columns = [
        "arm",
        "parameters",
        "FLOPs/token",
        "optimizer FLOPs",
        "state MiB",
        "step ms",
        "tokens/s",
        *parts_names,
    ]
    return Table(
        "What a run costs",
        columns,
        rows,
        "Seconds: mean over the runs of the table above, as measured.",
        detail=True,
    )


def step_time_text(time: cost.StepTime | None) -> str:
    """Milliseconds: the geometric mean over runs and its 95 % interval."""
    if time is None:
        return "not alone"
    text = f"{1000 * time.seconds:.2f}"
    if not math.isfinite(time.log.low):
        return text
    return f"{text} ({1000 * math.exp(time.log.low):.2f} to {1000 * math.exp(time.log.high):.2f})"


def tuning_table(result: Result, unit: str) -> Table:
    rows = []
    for name, choice in result.choices.items():
        arm = result.group.arms[name]
        edge = {text for text, _ in edges(arm, choice)}
        for score in choice.scores:
            chosen = score.setting is choice.setting
            remark = "chosen" + (", edge of the grid" if edge else "") if chosen else ""
            diverged = f", {score.diverged} diverged" if score.diverged else ""
            rows.append(
                [
                    Cell(name),
                    Cell(arm.describe(score.setting)),
                    Cell("diverged" if math.isinf(score.mean) else f"{score.mean:.4f}", score.runs),
                    Cell(f"{', '.join(map(str, score.seeds))}{diverged}"),
                    Cell(remark),
                ]
            )
    note = "Chosen is the lowest mean over the tuning seeds. A setting that diverged on one of them comes last."
    return Table(
        f"Tuning, {unit}", ["arm", "setting", "mean loss", "seeds", ""], rows, note, detail=True
    )


def configuration_table(result: Result) -> list[Table]:
    """Identity keys in which the judged settings differ, one column an arm."""
    runs = {
        name: next(iter(found.runs.values())) for name, found in result.at_headline.evidence.items()
    }
    flat = {name: run.flat_identity for name, run in runs.items()}
    keys = sorted(set().union(*flat.values()) - {"seed"})
    rows = [
        [Cell(key), *(Cell(_value(run, key), (run,)) for run in runs.values())]
        for key in keys
        if len({json.dumps(f.get(key), sort_keys=True) for f in flat.values()}) > 1
    ]
    note = "Everything else that decides a result is equal. `default`: the constructor's own value, or no such key."
    return [Table("What differs in the configuration", ["key", *runs], rows, note, detail=True)]


def _value(run: Run, key: str) -> str:
    value = run.decided(key)
    return "default" if value is None and key not in run.flat_identity else show(value)
