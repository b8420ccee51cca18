"""A job of a sweep seen from outside, and the best setting of each arm so far."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from minigpt.study.outcome import own_overrides
from minigpt.study.run import Run
from minigpt.terminal import count

CHANGED = "finished (code changed)"
STATE_OF = {
    "finished": "done",
    "diverged": "diverged",
    "running": "running",
    "failed": "failed",
    "unfinished": "interrupted",
}


@dataclass(eq=False)
class JobStatus:
    """One job of a sweep."""

    name: str  # of its run folder, empty until known
    overrides: Sequence[str]
    run: Run | None  # None while it waits
    failure: dict[str, Any] | None
    unreadable: str = ""  # why its folder cannot be read
    label: str = ""

    @property
    def state(self) -> str:
        if self.unreadable:
            return "unreadable"
        if self.run is not None:
            changed = self.run.status == "finished" and self.run.changed_code
            return CHANGED if changed else STATE_OF[self.run.status]
        return "waiting" if self.failure is None else "failed"

    @property
    def kind(self) -> tuple[str, ...]:
        """Jobs that differ in nothing but the seed take as long as each other."""
        return tuple(override for override in self.overrides if not override.startswith("seed="))

    @property
    def label_without_seed(self) -> str:
        """What sets its setting apart."""
        words = [word for word in self.label.split(" ") if not word.startswith("seed=")]
        return " ".join(words) or self.name


Settings = dict[str, dict[int, JobStatus]]  # setting -> seed, at one budget


def swept_group(jobs: Sequence[JobStatus]) -> str:
    """The group whose options the jobs try; optim if that is one of several, or there is none."""
    groups = {key for job in jobs if job.run is not None for key in job.run.record["choices"]}
    own = own_overrides([job.overrides for job in jobs]) if len(jobs) > 1 else []
    keys = [override.lstrip("+").partition("=")[0] for job in own for override in job]
    tried = [key for key in keys if key in groups]
    return "optim" if "optim" in tried or not tried else tried[0]


def best_lines(ended: Sequence[JobStatus], by: str) -> list[str]:
    """The best setting of each arm: the lowest mean loss at one budget over the same seeds.

    The budget is the longest at which every arm has ended runs, the seeds are those that every
    setting has there; where there is none that all share, each arm has its own. A setting that
    diverged on one of the seeds is never best.
    """
    runs = {job: run for job in ended if (run := job.run) is not None}
    budgets: dict[str, set[int]] = {}
    for run in runs.values():
        budgets.setdefault(run.arm(by), set()).add(run.budget_tokens or 0)
    if not budgets:
        return []
    shared = set.intersection(*budgets.values())
    budget = {arm: max(shared or own) for arm, own in budgets.items()}
    arms: dict[str, Settings] = {}
    for job, run in runs.items():
        if (run.budget_tokens or 0) == budget[run.arm(by)]:
            settings = arms.setdefault(run.arm(by), {})
            settings.setdefault(_setting(run), {})[run.seed] = job
    everywhere = _shared(found for one in arms.values() for found in one.values())
    lines = []
    for arm, one in sorted(arms.items()):
        seeds = everywhere or _shared(one.values()) or _most_tried(one)
        means = {
            name: fmean(_loss(found[seed]) for seed in seeds)
            for name, found in one.items()
            if seeds <= found.keys()
        }
        name = min(means, key=lambda setting: means[setting])
        if math.isfinite(means[name]):
            label = one[name][min(seeds)].label_without_seed
            where = f"mean of {count(len(seeds), 'seed')} at {budget[arm]:,} tokens"
            lines.append(f"  best so far  {arm}: {means[name]:.4f}  {label}  ({where})")
    return lines


def _shared(settings: Iterable[Mapping[int, object]]) -> set[int]:
    return set.intersection(*map(set, settings))


def _most_tried(settings: Settings) -> set[int]:
    """The seed that most settings have."""
    tried = Counter(seed for found in settings.values() for seed in found)
    return {max(sorted(tried), key=lambda seed: tried[seed])}


def _setting(run: Run) -> str:
    """Equal for runs that differ in seed and budget only."""
    identity = {k: v for k, v in run.record["identity"].items() if k not in ("seed", "budget")}
    return json.dumps(identity, sort_keys=True)


def _loss(job: JobStatus) -> float:
    """Infinite for a run that diverged."""
    assert job.run is not None
    loss = job.run.loss("val_loss")
    return math.inf if loss is None else loss
