"""A report as blocks, the same for the terminal, Markdown and HTML; every number knows the runs behind it."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from minigpt.compare import cost
from minigpt.compare.budget_to_equal_loss import EqualLoss
from minigpt.compare.caveats import caveats, edges
from minigpt.compare.cost import Costs
from minigpt.compare.figures import Figure
from minigpt.compare.groups import Group, Sorted
from minigpt.compare.runs import Run, show
from minigpt.compare.statistics import Interval
from minigpt.compare.verdict import MIN_PAIRS, Comparison, Evidence, Result

UNITS = {"val_loss": "nats per token", "val_bits_per_byte": "bits per byte"}


@dataclass(frozen=True)
class Cell:
    text: str
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Heading:
    text: str
    level: int


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class VerdictLine:
    kind: str  # better, worse, equivalent, no difference, undecided
    text: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Bullets:
    title: str
    items: list[str]


@dataclass(frozen=True)
class Table:
    """detail: for the files, not for the terminal.  note: below the table."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    detail: bool = False


@dataclass(frozen=True)
class Figures:
    figures: list[Figure]


Block = Heading | Paragraph | VerdictLine | Bullets | Table | Figures


@dataclass
class Document:
    title: str
    blocks: list[Block] = field(default_factory=list)

    def run_sets(self) -> dict[tuple[Run, ...], int]:
        """Every set of runs that a number rests on, numbered in order of appearance."""
        sets: dict[tuple[Run, ...], int] = {}
        for block in self.blocks:
            if isinstance(block, VerdictLine) and block.runs:
                sets.setdefault(block.runs, len(sets) + 1)
            for row in block.rows if isinstance(block, Table) else []:
                for cell in row:
                    if cell.runs:
                        sets.setdefault(cell.runs, len(sets) + 1)
        return sets


def sentence(c: Comparison, result: Result) -> str:
    """The verdict on one arm in words."""
    unit = UNITS[result.group.question.metric]
    kind = {"no difference": "no difference between"}.get(c.verdict, c.verdict)
    if c.verdict in ("better", "worse"):
        text = f"{c.arm.arm} is {kind} than {c.baseline.arm}"
    elif c.verdict == "equivalent":
        text = f"{c.arm.arm} is equivalent to {c.baseline.arm}"
    else:
        text = f"{kind} {c.arm.arm} and {c.baseline.arm}" if c.verdict == "no difference" else f"{c.arm.arm} against {c.baseline.arm}: undecided"
    if c.interval is not None:
        text += f", by {signed(c.interval)} {unit}, {c.interval.n} pairs" if c.verdict != "no difference" else ""
    text += f"; {c.why}"
    if c.pairs_needed is not None and c.interval is not None and c.pairs_needed > c.interval.n:
        text += f"; about {c.pairs_needed} pairs would decide if mean and spread stay as they are"
    elif c.verdict == "undecided" and c.pairs_needed is None and c.interval is not None and c.interval.n > 1 and not c.missing:
        text += "; not to be decided with a thousand pairs" if not c.interval.constant else ""
    return text


def signed(interval: Interval) -> str:
    """`-0.0312 (-0.0340 to -0.0284)`, or the mean alone where there is no interval."""
    if not math.isfinite(interval.low):
        return f"{interval.mean:+.4f} (one pair, no interval)"
    return f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def plain(interval: Interval | None) -> str:
    if interval is None:
        return "none finished"
    if not math.isfinite(interval.low):
        return f"{interval.mean:.4f} (one seed)"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def p_text(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def ratio_text(found: EqualLoss, factor: float | None, log: Interval | None) -> str:
    """`0.71x (0.66 to 0.76)`, or a bound. Ends of an interval outside the measured budgets are bounds too."""
    if factor is None:
        return "unknown"
    ratio = found.ratio
    low, high = ratio.at_least * factor, ratio.at_most * factor
    if ratio.bound == "equal":
        return f"{high:.2f}x, equal losses"
    if ratio.bound == "below":
        return f"at most {low:.2f}x"
    if ratio.bound == "above":
        return f"more than {high:.2f}x"
    if log is None:
        return "unclear: not every seed's loss falls with the budget"
    text = f"{math.exp(log.mean):.2f}x"
    if not math.isfinite(log.low):
        return f"{text} (one seed, no interval)"
    a, b = math.exp(log.low), math.exp(log.high)
    shown_low = f"below {low:.2f}" if a < low * 0.9995 else f"{a:.2f}"
    shown_high = f"above {high:.2f}" if b > high * 1.0005 else f"{b:.2f}"
    return f"{text} ({shown_low} to {shown_high})"


def report(title: str, judged: Sequence[tuple[Result, Costs, list[Figure]]], found: Sorted, others: list[str]) -> Document:
    """The whole report. others: remarks on what was found and not compared."""
    document = Document(title)
    for result, times, figures in judged:
        document.blocks += group_blocks(result, times, figures)
    rest = [f"{len(group.runs)} runs of one arm only: {group.title}" for group in found.single]
    if len(found.groups) + len(found.single) > 1:
        rest.insert(0, f"runs that differ in these keys are not mixed: {', '.join(found.split_keys) or 'none'}")
    if rest or others:
        document.blocks.append(Bullets("Not compared", [*rest, *others]))
    document.blocks.append(
        Paragraph(
            f"Intervals are over seeds (Student's t), not over texts: another validation split is another question. "
            f"A claim needs {MIN_PAIRS} pairs of seeds that took no part in choosing the settings."
        )
    )
    return document


def group_blocks(result: Result, times: Costs, figures: list[Figure]) -> list[Block]:
    """One group: verdicts, doubts, tables, figures."""
    unit = UNITS[result.group.question.metric]
    blocks: list[Block] = [Heading(result.group.title, 2)]
    for c in result.at_headline.comparisons:
        runs = (*c.arm.runs.values(), *c.baseline.runs.values())
        blocks.append(VerdictLine(c.verdict, f"At {result.headline:,} tokens {sentence(c, result)}.", runs))
    if len(result.at_headline.comparisons) == 0:
        blocks.append(VerdictLine("undecided", f"No ended runs of {result.baseline} and another arm at a budget.", ()))
    missing = [f"{c.arm.arm}: {text}" for c in result.at_headline.comparisons for text in c.missing]
    if missing:
        blocks.append(Bullets("Missing for a claim", missing))
    if doubts := caveats(result, times):
        blocks.append(Bullets("Before believing it", doubts))
    blocks += [arms_table(result, unit), differences_table(result, unit), equal_loss_table(result, times)]
    blocks.append(Figures(figures))
    blocks += [cost_table(result, times), tuning_table(result, unit), *configuration_table(result)]
    return [block for block in blocks if not (isinstance(block, Table) and not block.rows)]


def arms_table(result: Result, unit: str) -> Table:
    rows = []
    for name, arm in result.group.arms.items():
        found, choice = result.at_headline.evidence.get(name), result.choices.get(name)
        everything = tuple([*arm.runs, *arm.unended])
        tuning = tuple(run for score in (choice.scores if choice else ()) for run in score.runs)
        diverged = "" if found is None or not found.diverged else f", {len(found.diverged)} diverged"
        rows.append(
            [
                Cell(name + (" (baseline)" if name == result.baseline else "")),
                Cell(arm.describe(choice.setting) if choice else "not chosen: no tuning seeds"),
                Cell(f"{len(choice.scores)} settings, {len(tuning)} runs" if choice and tuning else "none", tuning),
                Cell("no run" if found is None else plain(found.interval), () if found is None else _runs(found)),
                Cell("" if found is None or not found.interval else f"{found.interval.sd:.4f}"),
                Cell("" if found is None else f"{len(found.losses)} {found.kind}{diverged}"),
                Cell(f"{len(everything)} ({duration(cost.spent_s(everything))})", everything),
            ]
        )
    confidence = f"{100 * result.rules.confidence:g} %"
    columns = ["arm", "setting", "tuned over", f"loss ({confidence})", "seed sd", "judged by", "runs spent"]
    return Table(f"Arms at {result.headline:,} tokens, {unit}", columns, rows)


def _runs(found: Evidence) -> tuple[Run, ...]:
    return tuple(found.runs.values())


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
                    Cell(p_text(c.p)),
                    Cell(p_text(c.p_holm)),
                    Cell(str(len(c.seeds))),
                    Cell(correlation),
                    Cell("" if c.detectable is None else f"{c.detectable:.4f}"),
                    Cell(c.verdict),
                ]
            )
    confidence = f"{100 * result.rules.confidence:g} %"
    columns = ["tokens", "arm", f"difference ({confidence})", "p", "p of claim", "pairs", "r", "detectable", "verdict"]
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
        shift = lambda factor: _shifted(r.tokens, factor)
        timed = tuple(run for name in (found.arm, found.baseline) if (t := times.step_times.get(name)) for run in t.runs)
        between = " to ".join(f"{tokens:,}" for tokens in found.ratio.used)
        rows.append(
            [
                Cell(f"{found.horizon:,}"),
                Cell(found.arm),
                Cell(ratio_text(found, 1.0, r.tokens), runs),
                Cell(ratio_text(found, r.steps, shift(r.steps)), runs),
                Cell(ratio_text(found, r.flops, shift(r.flops)), runs),
                Cell(ratio_text(found, r.seconds, r.seconds_log), (*runs, *timed) if r.seconds else ()),
                Cell(between),
                Cell(str(found.ratio.n)),
            ]
        )
    note = (
        f"Share of {result.baseline}'s budget with which an arm reaches its final loss, read off between finished schedules "
        "of the arm that bracket it (never on the way of a run); outside of them only a bound. FLOPs: training and "
        "optimizer. Seconds: steps times a step time measured alone"
        + (f" ({times.path})." if times.step_times and not times.why_no_times else f"; here {times.why_no_times or 'unknown'}.")
    )
    columns = [f"{result.baseline}'s tokens", "arm", "tokens", "steps", "FLOPs", "seconds", "bracketed by", "seeds"]
    return Table(f"Budget to {result.baseline}'s final loss", columns, rows, note)


def _shifted(log: Interval | None, factor: float | None) -> Interval | None:
    if log is None or factor is None:
        return None
    by = math.log(factor)
    return Interval(log.mean + by, log.low + by, log.high + by, log.sd, log.n)


def cost_table(result: Result, times: Costs) -> Table:
    rows = []
    for name, found in result.at_headline.evidence.items():
        run = next((run for run in found.runs.values() if run.summary and run.status == "finished"), None)
        if run is None or run.summary is None:
            continue
        time, parts = times.step_times.get(name), cost.breakdown(_runs(found))
        rate = f"{run.tokens_per_step / time.seconds:,.0f}" if time else "not alone"
        rows.append(
            [
                Cell(name),
                Cell(f"{run.summary['parameters']:,}", (run,)),
                Cell(f"{run.summary['flops_per_token']:,}", (run,)),
                Cell(f"{100 * (run.summary.get('optimizer_flops_share') or 0):.1f} %", (run,)),
                Cell(f"{(run.summary.get('optimizer_state_bytes') or 0) / 2**20:.1f}", (run,)),
                Cell(f"{1000 * time.seconds:.2f}" if time else "not alone", time.runs if time else ()),
                Cell(rate, time.runs if time else ()),
                *(Cell(f"{parts.get(part, 0):.1f}", _runs(found)) for part in cost.PARTS),
            ]
        )
    parts_names = [part.replace("_", " and ") + " s" for part in cost.PARTS]
    columns = ["arm", "parameters", "FLOPs/token", "optimizer FLOPs", "state MiB", "step ms", "tokens/s", *parts_names]
    return Table("What a run costs", columns, rows, "Seconds: mean over the runs of the table above, as measured.", detail=True)


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
    return Table(f"Tuning, {unit}", ["arm", "setting", "mean loss", "seeds", ""], rows, note, detail=True)


def configuration_table(result: Result) -> list[Table]:
    """Identity keys in which the judged settings differ, one column an arm."""
    runs = {name: next(iter(found.runs.values())) for name, found in result.at_headline.evidence.items()}
    flat = {name: run.flat_identity for name, run in runs.items()}
    keys = sorted(set().union(*flat.values()) - {"seed"})
    rows = [
        [Cell(key), *(Cell(_value(flat[name].get(key, _DEFAULT)), (runs[name],)) for name in runs)]
        for key in keys
        if len({json.dumps(f.get(key), sort_keys=True) for f in flat.values()}) > 1
    ]
    note = "Everything else that decides a result is equal. `default`: the constructor's own value."
    return [Table("What differs in the configuration", ["key", *runs], rows, note, detail=True)]


_DEFAULT = object()


def _value(value: Any) -> str:
    return "default" if value is _DEFAULT else show(value)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def csv_rows(judged: Iterable[Result], rest: Iterable[Group], everything: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each run that was looked at."""
    alone = cost.ran_alone(everything)
    rows = []
    for number, result in enumerate(judged, 1):
        for name, arm in result.group.arms.items():
            choice = result.choices.get(name)
            for setting in arm.settings.values():
                chosen = choice is not None and setting is choice.setting
                for run in setting.all_runs:
                    role = "confirmation" if result.rules.confirms(run.seed) else "tuning"
                    rows.append(_csv_row(run, str(number), name, arm.describe(setting), role, chosen, run in alone))
            rows += [_csv_row(run, str(number), name, "", "not ended", False, False) for run in arm.unended]
    for group in rest:
        for name, arm in group.arms.items():
            rows += [_csv_row(run, "", name, "", "not compared", False, run in alone) for run in (*arm.runs, *arm.unended)]
    return rows


def _csv_row(run: Run, group: str, arm: str, setting: str, role: str, chosen: bool, alone: bool) -> dict[str, Any]:
    summary, record = run.summary or {}, run.record
    learning_rates = {key: value for key, value in run.flat_identity.items() if key.startswith("optim.") and key.endswith(".lr")}
    return {
        "run": run.name,
        "group": group,
        "arm": arm,
        "setting": setting,
        "chosen": chosen,
        "role": role,
        "seed": run.seed,
        "status": run.status,
        "budget_tokens": run.horizon,
        **{key: summary.get(key) for key in ("step", "tokens", "val_loss", "val_bits_per_byte", "train_time_s", "tokens_per_s")},
        "step_time_s": run.step_time_s,
        "ran_alone": alone,
        **{key: summary.get(key) for key in ("parameters", "flops_per_token", "optimizer_flops_share", "optimizer_state_bytes")},
        **{key: record["chosen"].get(key) for key in ("device", "precision", "compile", "threads")},
        "host": record["hardware"].get("host"),
        "commit": (record.get("git") or {}).get("commit"),
        "mixed": "; ".join(record.get("mixed", [])),
        "study": run.study,
        "started": record.get("started"),
        **learning_rates,
        "folder": str(run.folder),
    }


