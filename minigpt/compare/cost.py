"""What arms cost: seconds of a step measured alone, FLOPs, memory, and the ratios that follow from
equal loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from minigpt.compare import statistics
from minigpt.compare.budget_to_equal_loss import EqualLoss
from minigpt.compare.statistics import Interval
from minigpt.compare.verdict import Result
from minigpt.study.run import Run

# What must be equal before two times are compared. Where one of them is what is compared, it is
# left out.
PATH = ("device", "precision", "compile", "threads", "micro_batch_size", "deterministic")
PARTS = ("data", "forward_backward", "optimizer", "evaluation", "saving")


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step of an arm, from runs that had their machine to themselves, all
    on one path.

    log: interval of the natural log of the step time over the runs.
    """

    log: Interval
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        """The geometric mean over the runs, which the interval is around."""
        return math.exp(self.log.mean)


@dataclass(frozen=True)
class Costs:
    """By arm. step_times: empty where times cannot be compared; why_no_times: the reason, or
    empty.
    """

    step_times: dict[str, StepTime]
    why_no_times: str
    path: str


@dataclass(frozen=True)
class Ratios:
    """Ratios arm over baseline at equal loss, as logs; None where unknown. The bounds of tokens
    scale along.
    """

    tokens: Interval | None
    steps: float  # factor on the ratio of tokens
    flops: float | None
    seconds: float | None
    seconds_log: Interval | None


def ran_alone(runs: Sequence[Run]) -> set[Run]:
    """The runs whose time overlaps with no other run on the same host, as far as run.json tells.

    A resumed run counts from its first start, for as long as it computed; other programs leave no
    trace here.
    """
    timed = [(run, run.interval_s) for run in runs]
    alone = set()
    for run, own in timed:
        if own is None or own[1] <= own[0]:
            continue
        host = run.record["hardware"].get("host")
        others = (
            o
            for r, o in timed
            if r is not run and o is not None and r.record["hardware"].get("host") == host
        )
        # A second of slack: `started` is rounded down to whole seconds.
        if not any(other[0] + 1 < own[1] and own[0] + 1 < other[1] for other in others):
            alone.add(run)
    return alone


def path_of(run: Run, by: str) -> tuple[tuple[str, Any], ...]:
    """The machine and the way a run was computed, without what is compared."""
    chosen, hardware = run.record["chosen"], run.record["hardware"]
    found = {key: chosen.get(key) for key in PATH if by != f"train.{key}"}
    found |= {"host": hardware.get("host"), "processor": hardware.get("device")}
    found["torch"] = run.record.get("versions", {}).get("torch")
    return tuple(found.items())


def costs(result: Result, everything: Sequence[Run]) -> Costs:
    """Step times of the chosen settings on the one path that serves most arms; any seed and any
    budget will do.

    everything: all runs that were found, also of other groups, since they too may have shared the
        machine.
    """
    alone = ran_alone(everything)
    by = result.group.question.by
    runs = {
        name: [
            run
            for run in choice.setting.all_runs
            if run.step_time_s is not None and run.status == "finished"
        ]
        for name, choice in result.choices.items()
    }
    paths: dict[tuple[tuple[str, Any], ...], dict[str, list[Run]]] = {}
    for name, members in runs.items():
        for run in members:
            if run in alone:
                paths.setdefault(path_of(run, by), {}).setdefault(name, []).append(run)
    if not paths:
        shared = any(members for members in runs.values())
        why = "no run had its machine to itself" if shared else "no run has a step time"
        return Costs({}, f"{why}; run one of each arm alone", "")
    best = max(paths, key=lambda p: (len(paths[p]), sum(map(len, paths[p].values()))))
    times = {}
    for name, members in paths[best].items():
        seconds = [run.step_time_s or math.nan for run in members]
        log = statistics.t_interval([math.log(s) for s in seconds])
        times[name] = StepTime(log, tuple(members))
    path = ", ".join(
        f"{key} {value}" for key, value in best if key in ("host", "device", "precision", "threads")
    )
    lacking = [name for name in result.choices if name not in times]
    why = ""
    if lacking:
        differing = sorted(
            {key for p in paths for (key, value), (_, other) in zip(p, best) if value != other}
        )
        reason = (
            f"paths differ in {', '.join(differing)}" if differing else "they shared the machine"
        )
        why = f"no step time of {', '.join(lacking)} to compare ({reason}); run one alone on the same path ({path})"
    return Costs(times, why, path)


def flops_per_token(run: Run) -> float | None:
    """FLOPs of the matrix products that train on a token, those of the optimizer included; None
    where one of the two is unknown."""
    summary = run.summary or {}
    if summary.get("flops_per_token") is None or summary.get("optimizer_flops_share") is None:
        return None
    return float(summary["flops_per_token"]) * (1 + float(summary["optimizer_flops_share"]))


def ratios(found: EqualLoss, result: Result, times: Costs) -> Ratios:
    """Steps, FLOPs and seconds at equal loss: the ratio of tokens times the ratio of what a token
    costs.

    The interval of seconds adds the spread of the step times to that of the tokens (Welch and
    Satterthwaite).
    """
    arm = next(iter(result.choices[found.arm].setting.all_runs))
    base = next(iter(result.choices[found.baseline].setting.all_runs))
    steps = base.tokens_per_step / arm.tokens_per_step
    a, b = flops_per_token(arm), flops_per_token(base)
    seconds = seconds_log = None
    if found.arm in times.step_times and found.baseline in times.step_times:
        a_time, b_time = times.step_times[found.arm], times.step_times[found.baseline]
        seconds = steps * a_time.seconds / b_time.seconds
        if found.ratio.log is not None:
            confidence = result.rules.confidence
            negative = Interval(
                -b_time.log.mean, -b_time.log.high, -b_time.log.low, b_time.log.sd, b_time.log.n
            )
            # One timed run says nothing of its spread: its step time counts as known.
            timed = [part for part in (a_time.log, negative) if part.n > 1]
            spread = statistics.sum_interval([found.ratio.log, *timed], confidence)
            centre = found.ratio.log.mean + math.log(seconds)
            shift = centre - spread.mean
            seconds_log = Interval(
                centre, spread.low + shift, spread.high + shift, spread.sd, found.ratio.log.n
            )
    return Ratios(found.ratio.log, steps, a / b if a and b else None, seconds, seconds_log)


def breakdown(runs: Sequence[Run]) -> dict[str, float]:
    """Mean seconds by part of a run, over finished runs."""
    finished = [run.summary["seconds"] for run in runs if run.summary and run.status == "finished"]
    return {part: fmean(s.get(part, 0.0) for s in finished) for part in PARTS} if finished else {}
