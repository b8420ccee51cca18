"""`-m`: a sweep, or a declared study. One run loads nothing of this, nor of studies."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from minigpt import interrupt, streams
from minigpt.cli import study
from minigpt.cli.boundary import not_composed
from minigpt.cli.code_arms import CODE
from minigpt.cli.composition import groups_in
from minigpt.cli.flags import canonical
from minigpt.cli.launch import hide_bases, launch, workers_hold_signals_back
from minigpt.cli.overrides import first_value, without_glob
from minigpt.config.composed import is_declared
from minigpt.errors import Stopped
from minigpt.files.durable import ensure_writable
from minigpt.study.elsewhere import train_elsewhere
from minigpt.study.jobs import Compose, only, shortest_first
from minigpt.study.journal import Journal
from minigpt.study.sweep import Sweep
from minigpt.study.task import StudyTask


def laid_out(parsed: argparse.Namespace) -> list[str]:
    """The overrides of the command in the order of its jobs, with the options that globs name."""
    hide_bases()
    folders = groups_in(parsed.config_dir, parsed.overrides)
    return shortest_first([without_glob(typed, folders) for typed in parsed.overrides])


def run(
    parsed: argparse.Namespace,
    sweep: Sweep,
    config_name: str,
    composed: Compose,
    study_ends: Callable[[], study.Ends] | None,
) -> int:
    """All jobs of the command, to its exit code."""
    cfg = composed([first_value(override) for override in parsed.overrides])
    if study_ends is not None and is_declared(cfg):
        return _study(parsed, sweep, config_name, composed, cfg, study_ends())
    if cfg.hydra.sweeper._target_ == study.OPTUNA_SWEEPER:
        study.register_optuna()
    if "train" in cfg:
        ensure_writable(Path(cfg.output_dir).expanduser())
    arguments = canonical(parsed)
    if sweep.begin(cfg, arguments, parsed.overrides, composed):
        return sweep.finish()
    if "submitit" in cfg.hydra.launcher._target_:
        interrupt.restore()  # this process only waits: Ctrl-C leaves the jobs in the queue
    sys.argv[1:] = arguments
    with only(sweep.left, sweep.planned), sweep.live(cfg), _workers(cfg):
        failed = launch(sweep, config_name, only_shows=False)
    # told here, since OmegaConf adds the frames of an exception that is being handled
    if failed is not None:
        raise not_composed(failed)
    code = sweep.finish()
    # where workers ran the jobs, none of them could end the sweep
    signal_number = interrupt.requested()
    return Stopped(signal_number).exit_code if signal_number else code


def _study(
    parsed: argparse.Namespace,
    sweep: Sweep,
    config_name: str,
    composed: Compose,
    cfg: DictConfig,
    ends: study.Ends,
) -> int:
    """A declared study from its check to its report."""
    run_job = sweep.run_job
    if cfg.verdict.by == CODE:
        run_job = partial(train_elsewhere, parsed.config_dir)
    task = StudyTask(run_job, sweep.set_up, sweep.report)
    runs = study.prepare(cfg, parsed.overrides, task, composed, parsed.config_dir)
    output, arguments = Path(cfg.output_dir).expanduser(), canonical(parsed)
    with closing(runs.planner):
        base = study.check_whole(runs)
        parallel = study.runs_side_by_side(cfg, runs)
        if cfg.dry_run:
            streams.stdout_must_arrive()
            Journal(output, runs.declaration, base).changes()  # refuses what the study would refuse
            ends.describe(runs, output, (os.cpu_count() or 1) if parallel else 1)
            return 0
        ensure_writable(output)
        sys.argv[1:] = [*arguments, "hydra/hydra_logging=none"]  # one line tells of all jobs
        begun = study.begin(runs, output, arguments, base, ends)
        with begun, study.conducting(task, parallel), _workers(cfg, parallel):
            failed = launch(task, config_name, only_shows=False)
            if failed is not None:
                raise not_composed(failed)
    return 0


def _workers(cfg: DictConfig, parallel: bool = False) -> AbstractContextManager[None]:
    joblib = parallel or cfg.hydra.launcher._target_.endswith(".JoblibLauncher")
    return workers_hold_signals_back() if joblib else nullcontext()
