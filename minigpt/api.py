"""What `import minigpt` offers to notebooks and scripts: the commands, with errors raised.

Signals, streams, log and threads are afterwards what they were.
"""

import logging
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt import interrupt, ranks
from minigpt.errors import BusyError, ConfigError

if TYPE_CHECKING:
    from minigpt.config.plan import Plan
    from minigpt.generate.load import Loaded

_one_run = threading.Lock()  # log, signals and the number of threads are the process's


def load(run: str | Path | None = None, trust: Collection[str] = ()) -> "Loaded":
    """A run, checkpoint or exported folder as .model, .tokenizer, .config and .generate(prompt).

    run: its folder; None: the newest finished run in outputs.
    trust: packages beside minigpt.model whose classes a run may name; their code is run.
    Raises ConfigError or CheckpointError if it cannot be read.
    """
    from minigpt.run.source_digest import source_digest

    source_digest({})  # now: what is imported here is what a later train() in this process runs
    from minigpt.generate.load import find_run, load_any
    from minigpt.generate.rebuild import trusted_packages

    folder = find_run(None if run is None else str(run), "outputs")
    return load_any(folder, trusted_packages(trust))


def runs(
    paths: str | Path | Sequence[str | Path] = "outputs",
    where: str | Sequence[str] = (),
    sort: str | None = None,
) -> list[dict[str, Any]]:
    """The rows of `python -m minigpt.runs`, for pandas.DataFrame; the oldest run first.

    paths: run folders, or folders that hold them.
    where, sort: as there, such as ["optim=muon", "status=finished"] and "val_loss".
    Raises ConfigError if there is none.
    """
    from minigpt.study.listing import list_runs

    several = [paths] if isinstance(paths, str | Path) else paths
    conditions = [where] if isinstance(where, str) else where
    return list_runs([Path(path).expanduser() for path in several], conditions, sort)


def train(
    overrides: str | Sequence[str] = (), config_dir: str | Path | None = None
) -> dict[str, Any] | None:
    """Train one run, as `python train.py OVERRIDES` does: the same id, folder and resume.

    Returns its summary with its `folder`; None if train.stop_after ended it, or for dry_run=true.
    In the main thread Ctrl-C saves a checkpoint and raises Stopped. Raises MinigptError.
    """
    typed = [overrides] if isinstance(overrides, str) else list(overrides)
    if not _one_run.acquire(blocking=False):
        raise BusyError("a run is being trained in this process (wait for it)")
    try:
        with _process_of_a_command(typed):
            plan = _planned(typed, None if config_dir is None else str(config_dir))
            summary = _train(plan)
            return None if summary is None else {**summary, "folder": str(plan.folder)}
    finally:
        _one_run.release()


def _planned(typed: list[str], config_dir: str | None) -> "Plan":
    from minigpt.cli.command import refuse_several_runs
    from minigpt.cli.composition import compose, each_logger
    from minigpt.cli.overrides import protect, refuse_secrets
    from minigpt.config.plan import plan_of

    if flags := [text for text in typed if text.startswith("-")]:
        raise ConfigError(f"arguments: {' '.join(flags)} (only key=value; train.py has the flags)")
    if ranks.launched() > 1:
        raise ConfigError("under torchrun: minigpt.train (it starts ranks itself: train.devices=2)")
    typed = each_logger([protect(text, sweeping=False) for text in typed], config_dir)
    refuse_secrets(typed)
    cfg = compose("train", typed, config_dir, plan_of)
    refuse_several_runs(cfg, typed)
    return plan_of(cfg)


def _train(plan: "Plan") -> dict[str, Any] | None:
    """See train.py."""
    from minigpt.config.build import check_built
    from minigpt.files import durable
    from minigpt.run.answer import answer

    if plan.config["code"] is not None:
        raise ConfigError("an arm that is code: code= (only train.py finds its checkout)")
    if plan.devices > 1 and threading.current_thread() is not threading.main_thread():
        raise ConfigError(
            f"train.devices={plan.devices}: not in this thread (the main thread alone starts ranks)"
        )
    summary = None if plan.config["dry_run"] else answer(plan)
    built = check_built(plan) if summary is None else None
    if plan.config["dry_run"] and built:
        from minigpt.train.dry_run import describe

        print(describe(plan, *built))
        return None
    if plan.study is not None:
        from minigpt.study import record

        with durable.writing(plan.folder):
            record.join(plan.folder, plan.study, plan.overrides)
    if summary is not None:
        return summary
    durable.ensure_writable(plan.folder.parent)
    import torch

    from minigpt.train import training

    threads = torch.get_num_threads()
    try:
        return training.run(plan)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _process_of_a_command(typed: list[str]) -> Iterator[None]:
    """What a command sets up for good, for as long as it takes."""
    from minigpt.cli import process

    log = logging.getLogger("minigpt")
    before = log.level, log.propagate, [*log.handlers], sys.argv
    sys.argv = ["minigpt.train", *typed]  # for run.json
    try:
        process.show_log()
        process.set_up_composing()
        with _stop_signals():
            yield
    finally:
        log.level, log.propagate, log.handlers, sys.argv = before


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Stop signals end a run with a checkpoint, if this is the thread that has them.

    After Ctrl-C that is all. Others do then what they would have done at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt.install()
    try:
        yield
    finally:
        interrupt.restore()
        received = interrupt.requested()
        interrupt.clear()
        if received not in (None, signal.SIGINT):
            signal.raise_signal(received)
