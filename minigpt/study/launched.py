"""The runs of a declared study as jobs of Hydra: planned, launched, read back from disk."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from minigpt.config.budget import Budget
from minigpt.config.plan import Plan
from minigpt.errors import CheckpointError, ConfigError
from minigpt.files.records import read_failure, summary_of
from minigpt.run.claim import own_record
from minigpt.run.record import failure
from minigpt.study.declaration import Declaration
from minigpt.study.elsewhere import ElsewherePlanner
from minigpt.study.find import read_run
from minigpt.study.jobs import Planner, refuse_changes
from minigpt.study.journal import IMPOSSIBLE
from minigpt.study.live import LiveLine, WatchedJob
from minigpt.study.planned import PlannedRun, label
from minigpt.study.run import Run
from minigpt.study.task import Launch, StudyTask
from minigpt.study.values import is_number
from minigpt.terminal import escape_line


class LaunchedRuns:
    """See `conduct.Runs`.

    typed: the overrides that all runs of the study share.
    planner: plans jobs, here or by the code that is an arm.
    """

    def __init__(
        self,
        declaration: Declaration,
        typed: list[str],
        planner: Planner | ElsewherePlanner,
        task: StudyTask,
    ) -> None:
        self.declaration, self.typed = declaration, typed
        self.planner, self.task = planner, task
        self.launch: Launch | None = None  # by Hydra's launcher; set once Hydra has made it
        self._plans: dict[PlannedRun, Plan] = {}
        self._losses: dict[PlannedRun, float] = {}
        self._impossible: dict[PlannedRun, str] = {}  # and why
        self._errors: dict[PlannedRun, Exception | None] = {}  # of the last phase
        self.exit_code: int | None = None  # of the first job that failed

    def overrides(self, run: PlannedRun) -> list[str]:
        """The job of a run: what one would type for it alone."""
        own = run.overrides(self.declaration)
        # what is spelled out is long, and the name of a run has 80 characters
        return [*own, *self.typed] if self.declaration.by_code else [*self.typed, *own]

    def plan_all(self, planned: Sequence[PlannedRun]) -> list[Plan]:
        """Their plans. Raises ConfigError for a run that cannot work."""
        new = [run for run in dict.fromkeys(planned) if run not in self._plans]
        self._plans |= zip(new, self.planner.all([self.overrides(run) for run in new]))
        return [self._plans[run] for run in planned]

    @property
    def folders(self) -> dict[str, str]:
        """The folder of each run that was asked for, by what one would type for it."""
        names = {run: plan.folder.name for run, plan in self._plans.items()}
        names |= dict.fromkeys(self._impossible, IMPOSSIBLE)
        return {run.line(self.declaration): name for run, name in names.items()}

    @property
    def any_plan(self) -> Plan:
        """The plan of one of them."""
        return next(iter(self._plans.values()))

    def run(self, phase: str, planned: Sequence[PlannedRun]) -> None:
        """Train those that have not ended. Nothing is trained if code or tokens changed, since one
        of these began or since one ended that the study rests on.
        """
        assert self.launch is not None
        plans = self.plan_all(planned)
        if not self.declaration.by_code:  # else each job's own code does
            refuse_changes([*plans, *self.plan_all(list(self._losses))])
        jobs = [self.overrides(run) for run in planned]
        first = self.task.add(jobs, plans)
        watched = [
            WatchedJob(plan.folder, run.arm) for run, plan in zip(planned, plans, strict=True)
        ]
        with LiveLine(f"{self.declaration.study}  {phase}", watched, self.declaration.metric):
            # the folder as its own code names it
            folders = (f"hydra.sweep.subdir={plan.folder.name}" for plan in plans)
            errors = self.launch([[*job, folder] for job, folder in zip(jobs, folders)], first)
        self._errors = dict(zip(planned, errors))

    def loss(self, run: PlannedRun) -> float | None:
        """Infinite also for a run that ended in a loss that is no number."""
        if self._cannot_be(run):
            return math.nan
        if run not in self._losses:
            loss = self._read_loss(run)
            if loss is None:
                return None
            self._losses[run] = loss
        return self._losses[run]

    def _cannot_be(self, run: PlannedRun) -> bool:
        # all that stands in the declaration was checked before the first run
        tunes = run.seed in self.declaration.tune.seeds
        if tunes and run not in self._plans and run not in self._impossible:
            try:
                self.planner.check(*self.plan_all([run]))
            except ConfigError as error:
                self._plans.pop(run, None)
                self._impossible[run] = str(error)
                where = f"{run.arm}, {label(run.setting)}, seed {run.seed}"
                print(escape_line(f"not tried: {where}: {error}"), file=sys.stderr)
        return run in self._impossible

    def _read_loss(self, run: PlannedRun) -> float | None:
        (plan,) = self.plan_all([run])
        summary = summary_of(plan.folder)
        if summary is None or own_record(plan) is None:
            return None
        if summary["status"] == "diverged":
            return math.inf
        loss = summary.get(self.declaration.metric)
        if not is_number(loss):
            shown = ", ".join(key for key, value in summary.items() if is_number(value))
            raise ConfigError(
                f"no such number: verdict.metric={self.declaration.metric}: {plan.folder} has none "
                f"(it has {shown})"
            )
        return float(loss) if math.isfinite(loss) else math.inf

    def why(self, run: PlannedRun) -> str:
        if run in self._impossible:
            return self._impossible[run]
        folder = self.folder(run)
        try:
            failed = read_failure(folder)
        except CheckpointError as error:
            return str(error)
        if failed is None:
            failed = self.task.failure_of(self.overrides(run))
        if failed is None and (raised := self._errors.get(run)) is not None:
            failed = failure(raised)  # on a full disk it stands nowhere else
        if failed is None:
            return "interrupted"
        self.exit_code = self.exit_code or failed["exit_code"]
        return (failed["error"].splitlines() or ["failed"])[0]

    def read(self, run: PlannedRun) -> Run:
        """A run that has ended, whole."""
        return read_run(self.folder(run))

    def folder(self, run: PlannedRun) -> Path:
        (plan,) = self.plan_all([run])
        return plan.folder


def refuse_same_runs(
    declaration: Declaration, plans: dict[PlannedRun, Plan], first: dict[str, PlannedRun]
) -> None:
    """Raise ConfigError where two arms, settings or cells come to the same run.

    first: a run of each id that came before; these are added.
    """

    def name(run: PlannedRun) -> str:
        budget = (declaration.budget_key, run.budget)
        return label((*run.cell, (declaration.by, run.arm), *run.setting, budget))

    for run, plan in plans.items():
        other = first.setdefault(plan.id, run)
        if name(other) != name(run):
            raise ConfigError(
                f"the same run: {name(other)} and {name(run)} are {plan.id} "
                "(what differs does not reach the run)"
            )


def refuse_other_texts(declaration: Declaration, plans: dict[PlannedRun, Plan]) -> None:
    """Raise ConfigError where losses are in the tokens of several tokenizers."""
    found: dict[str, PlannedRun] = {}
    for run, plan in plans.items():
        tokenizer = plan.identity["data"].get("tokenizer")
        found.setdefault(json.dumps(tokenizer, sort_keys=True), run)
    if len(found) > 1 and declaration.metric == "val_loss":
        one, two, *_ = (run.line(declaration) for run in found.values())
        raise ConfigError(
            f"tokens of different tokenizers: verdict.metric=val_loss: {one}; {two} "
            "(verdict.metric=val_bits_per_byte compares them)"
        )


def refuse_unequal_tokens(declaration: Declaration, plans: dict[PlannedRun, Plan]) -> None:
    """Raise ConfigError where arms or settings of a cell train on more tokens than others."""
    first: dict[float, tuple[PlannedRun, Budget]] = {}
    for run, plan in plans.items():
        if plan.config["train"]["steps"] is None:
            continue  # only the corpus knows: the judge looks
        own = plan.budget()
        other, its = first.setdefault(run.budget, (run, own))
        # train.tokens is rounded up to whole steps, and arms may have different ones
        step = max(own.tokens_per_step, its.tokens_per_step)
        if abs(own.tokens - its.tokens) >= (
            step if declaration.budget_key == "train.tokens" else 1
        ):
            raise ConfigError(
                f"unequal tokens: {other.line(declaration)}: {its.tokens:,}; "
                f"{run.line(declaration)}: {own.tokens:,} "
                "(verdict.budgets in train.tokens are the same for all)"
            )
