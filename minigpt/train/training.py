"""Train what a plan describes, from wherever it stands."""

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, cast

import torch

from minigpt import interrupt, ranks
from minigpt.config.budget import memory_problem
from minigpt.config.plan import Plan
from minigpt.errors import ConfigError, NumericsError
from minigpt.run.folder import RunFolder
from minigpt.run.follower import FollowedFolder
from minigpt.run.metrics import whole_rows
from minigpt.train import devices
from minigpt.train.assemble import assemble
from minigpt.train.evaluate import Evaluation
from minigpt.train.loop import accumulate_gradients, fit
from minigpt.train.run import Run

log = logging.getLogger(__name__)
# A job of a sweep must not inherit those of the job before.
DEFAULT_THREADS = torch.get_num_threads()


def run(plan: Plan) -> dict[str, Any] | None:
    """Train a plan's run. Returns its summary; None if train.stop_after ended it early.

    On ranks other than the first it is None too.

    Raises Stopped after a signal, with a checkpoint saved.
    """
    if plan.devices > ranks.launched():
        return devices.train(plan)
    torch.set_num_threads(plan.threads(DEFAULT_THREADS))
    train_node = plan.config["train"]
    with ExitStack() as stack:
        stack.enter_context(ranks.meeting(train_node["device"], train_node["rank_timeout"]))
        folder = (RunFolder if ranks.rank() == 0 else FollowedFolder)(plan)
        ranks.decide(lambda: stack.enter_context(folder) and None)
        try:
            return to_its_end(assemble(plan, folder))
        except torch.OutOfMemoryError as error:
            raise ConfigError(memory_problem(train_node)) from error


def to_its_end(live: Run) -> dict[str, Any] | None:
    """Train a run that is assembled. Returns as `run`."""
    summary: dict[str, Any] = {}
    rows = whole_rows(live.folder.metrics.path)
    live.logger.start(live.folder.saved or {}, live.config, rows)
    try:
        with live.bar:
            if live.progress.final is not None or train(live):
                summary = finish(live)
            else:
                say_stopped(live)
    finally:
        live.logger.finish(summary)
    return summary or None


def train(live: Run) -> bool:
    """The loop, then the whole validation split. False if stopped on the way."""
    try:
        live.model.train()
        if live.precision.compile and live.progress.step < live.budget.steps:
            compile_model(live)
        return fit(live) and evaluate_at_the_end(live)
    except NumericsError:
        live.folder.finish(live.summary("diverged", None))
        raise


def compile_model(live: Run) -> None:
    """Compile the model, by gradients that are thrown away: its seconds are none of training."""
    torch.compiler.reset()  # else the ninth shape of a process, in a sweep, would not be compiled
    live.forward = cast(Callable[..., torch.Tensor], torch.compile(live.model))
    progress = live.progress
    with progress.timed("compilation"):
        live.progress = replace(progress, seconds={})
        accumulate_gradients(live)
        live.optimizer.zero_grad()
    live.progress = progress
    live.bar.restart()


def evaluate_at_the_end(live: Run) -> bool:
    """Evaluate and save the trained model. False if stopped on the way."""
    progress = live.progress
    with progress.timed("evaluation"):
        evaluation = live.evaluate(final=True)
    if evaluation is None:
        if progress.bad_in_a_row == 0:
            live.save(final=False)
        return False
    for name, value in {"loss": evaluation.loss, **evaluation.own}.items():
        if not math.isfinite(value):
            raise NumericsError(
                f"diverged: validation {name} is {value} after step {progress.step} (lower the lr)"
            )
    progress.final = asdict(evaluation)
    live.save(final=True)
    return True


def finish(live: Run) -> dict[str, Any]:
    """Write sample and summary; from then on the run is finished."""
    assert live.progress.final is not None
    if ranks.rank() > 0:
        return {}
    text = live.sample(final=True)
    summary = live.summary("finished", Evaluation(**live.progress.final))
    live.folder.finish(summary, text)
    return summary


def say_stopped(live: Run) -> None:
    """Say where a run stopped; raise Stopped if a signal did it."""
    step = live.progress.step
    log.info("stopped at step %d of %d; the same command goes on", step, live.budget.steps)
    interrupt.stop_if_requested(f"{live.folder.folder} at step {step} (the same command goes on)")
