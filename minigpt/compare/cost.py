"""What arms cost: seconds of a step measured alone, and FLOPs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from minigpt.compare import statistics
from minigpt.compare.judge import Result
from minigpt.compare.statistics import Interval
from minigpt.study.run import Run

# Must be equal before two times are compared, except for the key that is compared itself.
PATH = ("device", "precision", "compile", "threads", "micro_batch_size", "deterministic")
PARTS = ("data", "forward_backward", "optimizer", "evaluation", "saving")
Path = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step of an arm, from runs on one path that ran alone."""

    log: Interval  # of the natural log of the step time, over the runs
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        """The geometric mean over the runs, which the interval is around."""
        return math.exp(self.log.mean)


@dataclass(frozen=True)
class Costs:
    step_times: dict[str, StepTime]  # by arm; empty where times cannot be compared
    why_no_times: str  # empty if every arm has one
    path: str


def ran_alone(runs: Sequence[Run]) -> set[Run]:
    """The runs whose time overlaps with no other run on the same host, as far as run.json tells.

    A resumed run counts from its first start, for as long as it computed.
    Other programs leave no trace here.
    """
    by_host: dict[str, list[tuple[Run, tuple[float, float]]]] = {}
    for run in runs:
        if run.interval_s is not None:
            host = str(run.record["hardware"].get("host"))
            by_host.setdefault(host, []).append((run, run.interval_s))

    def overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return b[0] + 1 < a[1] and a[0] + 1 < b[1]  # `started` is rounded down to whole seconds

    return {
        run
        for timed in by_host.values()
        for run, own in timed
        if own[1] > own[0]
        and not any(overlap(own, other) for another, other in timed if another is not run)
    }


def path_of(run: Run, by: str) -> Path:
    """The machine and the way a run was computed, without what is compared."""
    chosen, hardware = run.record["chosen"], run.record["hardware"]
    found = {key: chosen.get(key) for key in PATH if by != f"train.{key}"}
    found |= {"host": hardware.get("host"), "processor": hardware.get("device")}
    found["torch"] = run.record.get("versions", {}).get("torch")
    return tuple(found.items())


def beside(run: Run, everything: Sequence[Run]) -> float:
    """How many of these ran on the same host at a time while this one ran, on average."""
    if run.interval_s is None or run.interval_s[1] <= run.interval_s[0]:
        return 0.0
    begin, end = run.interval_s
    host = run.record["hardware"].get("host")
    others = [
        other.interval_s
        for other in everything
        if other.folder != run.folder and other.record["hardware"].get("host") == host
    ]
    shared = sum(max(0.0, min(end, o[1]) - max(begin, o[0])) for o in others if o is not None)
    return shared / (end - begin)


def costs(result: Result, everything: Sequence[Run]) -> Costs:
    """Step times of the chosen settings, of any seed and budget, on the path of most arms.

    everything: all runs that were found. Those of other groups may have shared the machine too.
    """
    alone = ran_alone(everything)
    timed = [
        (name, run)
        for name, choice in result.choices.items()
        for run in choice.setting.all_runs
        if run.step_time_s is not None and run.status == "finished"
    ]
    paths: dict[Path, dict[str, list[Run]]] = {}
    for name, run in timed:
        if run in alone:
            arms = paths.setdefault(path_of(run, result.group.question.by), {})
            arms.setdefault(name, []).append(run)
    if not paths:
        why = "no run had its machine to itself" if timed else "no run has a step time"
        return Costs({}, f"{why}; run one of each arm alone", "")
    best = max(paths, key=lambda p: (len(paths[p]), sum(map(len, paths[p].values()))))
    times = {
        name: StepTime(
            statistics.t_interval([math.log(run.step_time_s or math.nan) for run in runs]),
            tuple(runs),
        )
        for name, runs in paths[best].items()
    }
    shown = ("host", "device", "precision", "threads")
    path = ", ".join(f"{key} {value}" for key, value in best if key in shown and value)
    lacking = ", ".join(name for name in result.choices if name not in times)
    if not lacking:
        return Costs(times, "", path)
    differing = sorted({key for p in paths for key, _ in set(p) - set(best)})
    reason = f"paths differ in {', '.join(differing)}" if differing else "they shared the machine"
    return Costs(
        times,
        f"no step time of {lacking} to compare ({reason}); run one alone on the same path ({path})",
        path,
    )


def flops_per_token(run: Run) -> float | None:
    """FLOPs of the matrix products that train on a token, those of the optimizer included.

    None where one of the two is unknown.
    """
    summary = run.summary or {}
    if summary.get("flops_per_token") is None or summary.get("optimizer_flops_share") is None:
        return None
    return float(summary["flops_per_token"]) * (1 + float(summary["optimizer_flops_share"]))


def cost_factors(result: Result, times: Costs, arm: str) -> dict[str, float | None]:
    """What a token of the arm costs, over what one of the baseline costs. None where unknown.

    Seconds: steps times the ratio of the step times.
    """
    run = result.choices[arm].setting.all_runs[0]
    base = result.choices[result.baseline].setting.all_runs[0]
    steps = base.tokens_per_step / run.tokens_per_step
    a, b = flops_per_token(run), flops_per_token(base)
    time, base_time = times.step_times.get(arm), times.step_times.get(result.baseline)
    return {
        "tokens": 1.0,
        "steps": steps,
        "FLOPs": a / b if a and b else None,
        "seconds": steps * time.seconds / base_time.seconds if time and base_time else None,
    }


def breakdown(runs: Sequence[Run]) -> dict[str, float]:
    """Mean seconds by part of a run, over finished runs."""
    finished = [run.summary["seconds"] for run in runs if run.summary and run.status == "finished"]
    return {part: fmean(s.get(part, 0.0) for s in finished) for part in PARTS} if finished else {}
