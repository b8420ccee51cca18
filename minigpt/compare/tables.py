"""The tables of a report; each number with the runs it rests on."""

import json
import math

from minigpt.compare.cost import PARTS, Costs, StepTime, breakdown, cost_factors
from minigpt.compare.document import Cell, Table
from minigpt.compare.judge import Result
from minigpt.compare.statistics import detectable_difference, p_value
from minigpt.compare.tuning import edges
from minigpt.compare.wording import p_text, plain, ratio_text, signed
from minigpt.study.run import Run
from minigpt.study.values import show
from minigpt.terminal import duration


def arms_table(result: Result) -> Table:
    """Each arm: its setting, how it was chosen, its loss, and what it took."""
    rows = []
    for name, arm in result.group.arms.items():
        found, choice = result.at_headline.evidence.get(name), result.choices.get(name)
        scores = choice.scores if choice else ()
        tuning = tuple(run for score in scores for run in score.runs)
        tuned = f"{len(scores)} settings, {len(tuning)} runs" if tuning else "none"
        loss, sd, judged_by = "no run", "", ""
        runs: tuple[Run, ...] = ()
        if found is not None:
            runs, loss = found.all_runs, plain(found.interval)
            diverged = f", {len(found.diverged)} diverged" if found.diverged else ""
            judged_by = f"{len(found.losses)} {found.kind}{diverged}"
            if found.interval is not None and found.interval.n > 1:
                sd = f"{found.interval.sd:.4f}"
        everything = (*arm.runs, *arm.unended)
        spent = duration(sum(run.spent_s for run in everything))
        row = {
            "arm": Cell(name + (" (baseline)" if name == result.baseline else "")),
            "setting": Cell(
                arm.describe(choice.setting) if choice else "not chosen: no tuning seeds"
            ),
            "tuned over": Cell(tuned, tuning),
            f"loss ({100 * result.rules.confidence:g} %)": Cell(loss, runs),
            "seed sd": Cell(sd, runs),
            "judged by": Cell(judged_by, runs),
            "runs spent": Cell(f"{len(everything)} ({spent})", everything),
        }
        rows.append(row)
    return Table(f"Arms at {result.headline:,} tokens, {result.group.question.unit}", rows)


def differences_table(result: Result) -> Table:
    """Each arm against the baseline at every budget."""
    rules, rows = result.rules, []
    for budget, at in sorted(result.budgets.items(), reverse=True):
        for c in at.comparisons:
            runs = (*c.arm.all_runs, *c.baseline.all_runs)
            p = p_holm = detectable = None
            if c.interval is not None and c.interval.n > 1:
                p, p_holm = p_value(c.interval), c.p_holm
                detectable = detectable_difference(c.interval.sd, c.interval.n, rules.confidence)
            row = {
                "tokens": Cell(f"{budget:,}" + (" *" if budget == result.headline else "")),
                "arm": Cell(c.arm.arm),
                f"difference ({100 * rules.confidence:g} %)": Cell(
                    signed(c.interval) if c.interval else "none", runs
                ),
                "p": Cell("" if p is None else p_text(p), runs),
                "p of claim": Cell("" if p_holm is None else p_text(p_holm), runs),
                "pairs": Cell(str(len(c.seeds)), runs),
                "r": Cell("" if c.correlation is None else f"{c.correlation:.2f}", runs),
                "detectable": Cell("" if detectable is None else f"{detectable:.4f}", runs),
                "verdict": Cell(c.verdict, runs),
            }
            rows.append(row)
    arms = len(result.at_headline.comparisons)
    note = (
        f"difference: arm minus {result.baseline}, {result.group.question.unit}; "
        "p: two-sided, of no difference; "
        f"p of claim: of lying beyond (or within) the margin of {rules.margin:g}"
        f"{f', Holm over {arms} arms' if arms > 1 else ''}; "
        "r: correlation of the pairs; "
        "detectable: the true difference that as many pairs show in 8 of 10 studies; "
        "*: the verdict's budget."
    )
    return Table(f"Paired differences against {result.baseline}", rows, note)


def equal_loss_table(result: Result, times: Costs) -> Table:
    """What of the baseline's budget an arm needs for the same loss, in four currencies."""
    rows = []
    for found in result.equal_loss:
        runs = tuple(found.runs)
        timed = (times.step_times.get(name) for name in (found.arm, result.baseline))
        of_times = tuple(run for time in timed if time for run in time.runs)
        row = {f"{result.baseline}'s tokens": Cell(f"{found.budget:,}"), "arm": Cell(found.arm)}
        for what, factor in cost_factors(result, times, found.arm).items():
            behind = (*runs, *of_times) if what == "seconds" else runs
            row[what] = Cell(ratio_text(found.ratio, factor), behind if factor else ())
        row["bracketed by"] = Cell(" to ".join(f"{used:,}" for used in found.ratio.used), runs)
        row["seeds"] = Cell(str(found.ratio.n), runs)
        rows.append(row)
    measured = times.step_times and not times.why_no_times
    note = (
        f"Share of {result.baseline}'s budget with which an arm reaches its final loss. "
        "It is read off between finished schedules of the arm that bracket it, "
        "never on the way of a run; outside of them there is only a bound. "
        "FLOPs: training and optimizer. "
        "Seconds: steps times the ratio of step times measured alone, which counts as known"
        + (f" ({times.path})." if measured else f"; here {times.why_no_times or 'unknown'}.")
    )
    return Table(f"Budget to {result.baseline}'s final loss", rows, note)


def cost_table(result: Result, times: Costs) -> Table:
    """What a run of each arm takes: memory, FLOPs, time."""
    rows = []
    for name, found in result.at_headline.evidence.items():
        finished = (run for run in found.all_runs if run.summary and run.status == "finished")
        if (run := next(finished, None)) is None or run.summary is None:
            continue
        time, parts = times.step_times.get(name), breakdown(found.all_runs)
        timed, share = time.runs if time else (), run.summary.get("optimizer_flops_share")
        rate = f"{run.tokens_per_step / time.seconds:,.0f}" if time else "not alone"
        row = {
            "arm": Cell(name),
            "parameters": Cell(f"{run.summary['parameters']:,}", (run,)),
            "FLOPs/token": Cell(f"{run.summary['flops_per_token']:,}", (run,)),
            "optimizer FLOPs": Cell("unknown" if share is None else f"{100 * share:.1f} %", (run,)),
            "state MiB": Cell(
                f"{(run.summary.get('optimizer_state_bytes') or 0) / 2**20:.1f}", (run,)
            ),
            "step ms": Cell(step_time_text(time), timed),
            "tokens/s": Cell(rate, timed),
        }
        for part in PARTS:
            row[f"{part.replace('_', ' and ')} s"] = Cell(f"{parts[part]:.1f}", found.all_runs)
        rows.append(row)
    note = "Seconds: mean over the runs of the table above, as measured."
    return Table("What a run costs", rows, note, detail=True)


def step_time_text(time: StepTime | None) -> str:
    """Milliseconds: the geometric mean over runs and its 95 % interval."""
    if time is None:
        return "not alone"
    text = f"{1000 * time.seconds:.2f}"
    if not math.isfinite(time.log.low):
        return text
    return f"{text} ({1000 * math.exp(time.log.low):.2f} to {1000 * math.exp(time.log.high):.2f})"


def tuning_table(result: Result) -> Table:
    """Every setting that was tried, best first."""
    rows = []
    for name, choice in result.choices.items():
        arm = result.group.arms[name]
        chosen = "chosen, edge of the grid" if edges(arm, choice) else "chosen"
        for score in choice.scores:
            loss = "diverged" if math.isinf(score.mean) else f"{score.mean:.4f}"
            diverged = f", {score.diverged} diverged" if score.diverged else ""
            row = {
                "arm": Cell(name),
                "setting": Cell(arm.describe(score.setting)),
                "mean loss": Cell(loss, score.runs),
                "seeds": Cell(f"{', '.join(map(str, score.seeds))}{diverged}"),
                "": Cell(chosen if score.setting is choice.setting else ""),
            }
            rows.append(row)
    note = (
        "Chosen is the lowest mean over the tuning seeds. "
        "A setting that diverged on one of them comes last."
    )
    return Table(f"Tuning, {result.group.question.unit}", rows, note, detail=True)


def configuration_table(result: Result) -> Table:
    """Identity keys in which the judged settings differ, one column an arm."""
    runs = {name: found.all_runs[0] for name, found in result.at_headline.evidence.items()}
    keys = sorted(set().union(*(run.flat_identity for run in runs.values())) - {"seed"})
    rows = []
    for key in keys:
        values = {json.dumps(r.flat_identity.get(key), sort_keys=True) for r in runs.values()}
        if len(values) > 1:
            cells = {name: Cell(_value(run, key), (run,)) for name, run in runs.items()}
            rows.append({"key": Cell(key)} | cells)
    note = (
        "Everything else that decides a result is equal. "
        "`default`: the constructor's own value, or no such key."
    )
    return Table("What differs in the configuration", rows, note, detail=True)


def _value(run: Run, key: str) -> str:
    value = run.decided(key)
    return "default" if value is None and key not in run.flat_identity else show(value)
