"""`-m experiment=<a declared study>`: check it as a whole, then let Hydra launch its jobs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from omegaconf import DictConfig, OmegaConf, open_dict

from minigpt import interrupt
from minigpt.cli import code_arms
from minigpt.cli.composition import groups_in
from minigpt.config.build import choose_precision
from minigpt.config.composed import choices_of
from minigpt.config.identity import flatten
from minigpt.config.schema import BASIC_SWEEPER
from minigpt.errors import ConfigError
from minigpt.study.conduct import Conclusion, Look, Ruling, Unfinished, conduct
from minigpt.study.declaration import Declaration, declaration_of
from minigpt.study.jobs import Compose, Planner
from minigpt.study.journal import Journal
from minigpt.study.launched import (
    LaunchedRuns,
    refuse_other_texts,
    refuse_same_runs,
    refuse_unequal_tokens,
)
from minigpt.study.planned import PlannedRun, judging_runs, label, tuning_runs
from minigpt.study.search import search
from minigpt.study.sweep import refuse_no_slurm
from minigpt.study.task import Launch, StudyTask

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext

DICTIONARIES = ("verdict.budgets", "verdict.cells", "verdict.tune.over", "verdict.tune.per_arm")
OPTUNA_SWEEPER = "hydra_plugins.minigpt.OptunaSweeper"


class Ends(Protocol):
    """What stands above the command line: how a look is judged, what is told before and after."""

    def judge(self, runs: LaunchedRuns, declaration: Declaration, look: Look) -> Ruling: ...

    def report(self, runs: LaunchedRuns, conclusion: Conclusion, journal: Journal) -> None: ...

    def describe(self, runs: LaunchedRuns, output: Path, side_by_side: int) -> None: ...


def register_optuna() -> None:
    """Make `hydra/sweeper=optuna` known, by the only kind of name that Hydra takes."""
    from hydra.core.plugins import Plugins

    from minigpt.study.optuna_sweeper import OptunaSweeper

    Plugins.instance().class_name_to_class[OPTUNA_SWEEPER] = OptunaSweeper


@contextmanager
def conducting(task: StudyTask, parallel: bool) -> Iterator[None]:
    """Hydra's sweeper lets the study say what its launcher launches, and when.

    parallel: with joblib, in place of Hydra's launcher of one job after another.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.utils import JobStatus

    def sweep(self: BasicSweeper, arguments: list[str]) -> None:
        assert self.config is not None
        assert self.hydra_context is not None
        context, config = self.hydra_context, self.config
        launcher = _joblib(context, task, config) if parallel else self.launcher
        assert launcher is not None

        def launch(jobs: list[list[str]], first: int) -> list[Exception | None]:
            _end_if_stopped()  # workers that are not there yet would not have the signal
            ended = launcher.launch(jobs, initial_job_idx=first)
            _end_if_stopped()
            return [job._return_value if job.status == JobStatus.FAILED else None for job in ended]

        task.conduct(launch)

    hydras = BasicSweeper.sweep
    BasicSweeper.sweep = sweep  # type: ignore[method-assign]
    try:
        yield
    finally:
        BasicSweeper.sweep = hydras  # type: ignore[method-assign]


def _end_if_stopped() -> None:
    interrupt.stop_if_requested("the study is not done (the same command goes on)")


def _joblib(context: "HydraContext", task: StudyTask, config: DictConfig) -> "Launcher":
    from hydra.core.plugins import Plugins
    from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf

    own = config.copy()
    with open_dict(own):
        own.hydra.launcher = OmegaConf.structured(JobLibLauncherConf)
    return Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=task, config=own
    )


def runs_side_by_side(cfg: DictConfig, runs: LaunchedRuns) -> bool:
    """Whether jobs go side by side without being told: small models on a CPU of several cores."""
    plan = runs.any_plan
    told = any(typed.startswith("hydra/launcher=") for typed in cfg.hydra.overrides.hydra)
    basic = cfg.hydra.launcher._target_.endswith(".BasicLauncher")
    return (
        basic
        and not told
        and (os.cpu_count() or 1) > 1
        and plan.fits_a_core
        and choose_precision(plan.config).device == "cpu"
    )


def prepare(
    cfg: DictConfig,
    typed: Sequence[str],
    task: StudyTask,
    compose: Compose,
    config_dir: str | None = None,
) -> LaunchedRuns:
    """The checked study of a composed configuration.

    typed: the overrides of the command. config_dir: beside them, for arms that are code.
    Raises ConfigError with everything that is wrong with the declaration, or with one of its
    arms, cells and budgets, before anything but checkouts is written.
    """
    if cfg.hydra.sweeper._target_ != BASIC_SWEEPER or cfg.hydra.sweeper.get("params"):
        raise ConfigError(
            "a sweep and a study: hydra.sweeper beside verdict.by (the study lays out its own jobs)"
        )
    refuse_no_slurm(cfg)
    study = cfg.get("study") or choices_of(cfg, cfg.hydra).get("experiment")
    node: Any = OmegaConf.to_container(cfg.verdict, resolve=True)
    if node["by"] == code_arms.CODE:
        node = code_arms.resolved(cfg, study, node)
    declaration = declaration_of(study, node)
    refuse_own_keys(declaration, typed)
    shared = [override for override in typed if not override.startswith(("verdict.", "hydra"))]
    if not declaration.by_code:
        return LaunchedRuns(declaration, shared, Planner(cfg, compose, shared), task)
    folders = groups_in(config_dir, list(typed))
    shared = code_arms.spelled_out(cfg, shared, declaration.study, folders, compose)
    own = own_keys(declaration)
    shared = [override for override in shared if override.partition("=")[0] not in own]
    planner = code_arms.planner(cfg, node["arms"], shared, config_dir)
    return LaunchedRuns(declaration, shared, planner, task)


def refuse_own_keys(declaration: Declaration, typed: Sequence[str]) -> None:
    """Raise ConfigError for a sweep, or for a key that the declaration itself sets."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    own = own_keys(declaration)
    for override in OverridesParser.create().parse_overrides(list(typed)):
        key = override.key_or_group
        if key in DICTIONARIES and not override.is_add():
            node: Any = reduce(getitem, key.split(".")[1:], declaration.node)
            value: Any = override.value()
            if kept := [name for name in node if name not in value]:
                raise ConfigError(
                    f"not replaced: {override.input_line}: {', '.join(kept)} of the experiment "
                    "file would stay (Hydra adds to a dictionary: change it in a copy of the file)"
                )
        if override.is_sweep_override() or key in own:
            raise ConfigError(
                f"not of a declared study: {override.input_line} (it lays out {key} itself: see "
                "verdict in the experiment file; another study is another file or study=)"
            )


def own_keys(declaration: Declaration) -> set[str]:
    """What a study sets in each of its runs."""
    tune, cells = declaration.tune, declaration.node["cells"]
    grids = (tune.over, cells, *tune.per_arm.values())
    return {declaration.by, declaration.budget_key, "seed"}.union(*grids)


def check_whole(runs: LaunchedRuns) -> dict[str, Any]:
    """Plan the first wave of tuning and a run of each arm, cell and budget; build some on `meta`.

    Returns the identity of an arm's first run, by arm.

    Raises ConfigError for what cannot work, for arms, settings or cells that come to the
    same run, for losses of different tokenizers and for unequal numbers of tokens.
    """
    declaration = runs.declaration
    base: dict[str, Any] = {}
    first: dict[str, PlannedRun] = {}
    for cell in declaration.cells:
        planned: list[PlannedRun] = []
        for arm in declaration.arms:
            wanted = search(declaration.tune, arm, lambda setting: None, 1).wanted
            settings = wanted or [()]
            tuned = tuning_runs(declaration, cell, arm, settings)
            judged = judging_runs(declaration, cell, {arm: settings[0]}, declaration.seeds(1))
            planned += [*tuned, *judged]
            # the shortest and the longest, and each value of a grid once
            for run in (judged[0], judged[-1], *_each_value(tuned)):
                _check_built(runs, run)
            identity = runs.plan_all(judged)[-1].identity
            if arm in base:  # what a further cell has else
                own, known = flatten(identity), flatten(base[arm])
                name = f"{arm} in {label(cell)}"
                base[name] = {key: value for key, value in own.items() if known.get(key) != value}
            base.setdefault(arm, identity)
        plans = dict(zip(planned, runs.plan_all(planned)))
        refuse_same_runs(declaration, plans, first)
        refuse_other_texts(declaration, plans)
        refuse_unequal_tokens(declaration, plans)
    return base


def _each_value(tuned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """As many of these as have a value that none before them has."""
    seen: set[tuple[str, Any]] = set()
    found = []
    for run in tuned:
        if not seen.issuperset(run.setting):
            found.append(run)
            seen.update(run.setting)
    return found


def _check_built(runs: LaunchedRuns, run: PlannedRun) -> None:
    (plan,) = runs.plan_all([run])
    try:
        runs.planner.check(plan, metric=runs.declaration.metric)
    except ConfigError as error:
        where = label((*run.cell, (runs.declaration.by, run.arm), *run.setting))
        raise ConfigError(*(f"{line} [{where}]" for line in error.problems)) from None


def begin(
    runs: LaunchedRuns, output: Path, arguments: list[str], base: dict[str, Any], ends: Ends
) -> Journal:
    """The journal of a study, not yet entered. Its task conducts the study once it is launched."""
    declaration = runs.declaration
    journal = Journal(output, declaration, base)
    runs.task.begin_study(output, declaration.study, arguments)

    def call(launch: Launch) -> None:
        def launch_noted(jobs: list[list[str]], first: int) -> Sequence[Exception | None]:
            journal.note_folders(runs.folders)
            return launch(jobs, first)

        runs.launch = launch_noted
        try:
            conclusion = conduct(declaration, runs, partial(ends.judge, runs), journal.note)
        except Unfinished as error:  # as a sweep does: the code says what to mend
            error.exit_code = runs.exit_code or error.exit_code
            raise
        journal.note_folders(runs.folders)
        ends.report(runs, conclusion, journal)

    runs.task.conduct = call
    return journal
