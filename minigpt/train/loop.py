"""The training loop: one plain function."""

from typing import Any

import torch

from minigpt.errors import NumericsError
from minigpt.model.dropout import sequences
from minigpt.train.evaluate import documents_of
from minigpt.train.run import Run


def fit(run: Run) -> bool:
    """Train from `progress.step` to the end of the budget. False if the run was asked to stop.

    Every draw is a function of (seed, step), every decision one of the step number. So a resumed
    run computes what it would have computed anyway. Non-finite values never reach a weight.
    Raises NumericsError after train.max_bad_steps steps in a row without an update.
    """
    progress, budget = run.progress, run.budget
    saved, logged_tokens, logged_time = progress.step, progress.tokens, progress.train_time_s
    run.optimizer.train()
    while progress.step < budget.steps:
        saved = at_boundary(run, saved)
        if stops(run):
            return False
        set_learning_rates(run)
        nats = accumulate_gradients(run)
        with progress.timed("optimizer"):
            norm = clip_gradients(run)
            usable = bool(torch.isfinite(norm) & torch.isfinite(nats) & (norm > 0))
            good = usable and progress.accepts(norm, run.config["train"]["skip_spikes"])
        probed = update(run, norm) if good else {}
        run.scaler.update()
        run.optimizer.zero_grad()
        progress.advance(budget.tokens_per_step, updated=good)
        run.on_step()

        logged = due(run.config["log"]["every"], progress.step, 0)
        if not good or probed or logged or progress.step == budget.steps:
            elapsed = progress.train_time_s - logged_time
            tokens_per_s = (progress.tokens - logged_tokens) / elapsed
            run.record(row_of(run, nats, norm, tokens_per_s) | probed)
            logged_tokens, logged_time = progress.tokens, progress.train_time_s
        refuse_bad_steps(run, nats, norm, usable)
    return True


def at_boundary(run: Run, saved: int) -> int:
    """Evaluate, sample and save where it is due. Returns the step of the last checkpoint."""
    progress, config, step = run.progress, run.config, run.progress.step
    if due(config["eval"]["every"], step, progress.evaluated):
        with progress.timed("evaluation"):
            run.evaluate(final=False)
    if due(config["sample"]["every"], step, progress.sampled):
        with progress.timed("sampling"):
            run.sample(final=False)
        progress.sampled = step
    wanted = step in run.keep_at and saved < step
    wanted = wanted or due(config["checkpoint"]["every"], step, saved)
    # After a bad step the weights may be the fault: the last good checkpoint stays.
    if wanted and progress.bad_in_a_row == 0:
        with progress.timed("saving"):
            run.save(final=False, beside=True)
        return step
    return saved


def stops(run: Run) -> bool:
    """Whether the run was asked to stop here; then a checkpoint is saved.

    After a bad step none is: those steps are taken again, with the same result.
    """
    stop_after = run.config["train"]["stop_after"]
    reached = stop_after is not None and run.progress.step >= stop_after
    if not (run.stop_requested() or reached):
        return False
    if run.progress.bad_in_a_row == 0:
        run.save(final=False)
    return True


def set_learning_rates(run: Run) -> None:
    multiplier = run.schedule(run.progress.step, run.budget.steps)
    for group in run.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier


def accumulate_gradients(run: Run) -> torch.Tensor:
    """Forward and backward of every micro-batch of a step. Returns the sum of the losses in nats.

    The loss is divided by the tokens of the step, so gradients do not depend on the cut, nor on how
    many ranks share it.
    """
    progress, budget = run.progress, run.budget
    nats = torch.zeros((), device=run.precision.device)
    first = progress.step * budget.accumulation
    for micro in range(first, first + budget.accumulation):
        with progress.timed("data"):
            inputs, targets, seeds, seed = run.batches[micro]
        with progress.timed("forward_backward"), sequences(seeds):
            torch.manual_seed(seed)  # for layers that draw from torch's generator themselves
            with run.precision.autocast():
                loss = run.forward(inputs, targets, documents_of(inputs, run.end_of_text))
            run.scaler.scale(loss / budget.tokens_per_step).backward()
            nats += loss.detach()
        with progress.timed("data"):
            run.batches.fetch_ahead(micro + 1)  # while a GPU is still at the backward pass
    if budget.ranks > 1:
        with progress.timed("communication"):
            run.sum_over_ranks(nats)
    return nats


def clip_gradients(run: Run) -> torch.Tensor:
    """Unscale and clip all gradients together. Returns their global norm before clipping."""
    for part in run.optimizer.optimizers.values():
        run.scaler.unscale_(part)
    return torch.nn.utils.clip_grad_norm_(list(run.optimizer.names), max_norm(run))


def max_norm(run: Run) -> float:
    clip: float | None = run.config["train"]["grad_clip"]
    return float("inf") if clip is None else clip


def update(run: Run, norm: torch.Tensor) -> dict[str, float]:
    """Step all optimizers. Returns what the probe saw of it, if it looked."""
    looks = run.probe is not None and due(run.config["probe"]["every"], run.progress.step + 1, 0)
    if looks:
        run.probe.before(min(1.0, max_norm(run) / float(norm)))
    with run.progress.timed("optimizer"):
        run.optimizer.step()
    return run.probe.after() if looks else {}


def row_of(run: Run, nats: torch.Tensor, norm: torch.Tensor, tokens_per_s: float) -> dict[str, Any]:
    """What is logged of a step. `skipped` only where the step was."""
    row = {
        "train/loss": float(nats) / run.budget.tokens_per_step,
        "grad_norm": float(norm),
        **{f"lr/{group['role']}": group["lr"] for group in run.optimizer.param_groups},
        "perf/tokens_per_s": tokens_per_s,
    }
    if run.scaler.is_enabled():
        row["scale"] = run.scaler.get_scale()
    if run.progress.bad_in_a_row:
        row["skipped"] = run.progress.skipped
    return row


def refuse_bad_steps(run: Run, nats: torch.Tensor, norm: torch.Tensor, usable: bool) -> None:
    """Raise NumericsError if too many steps in a row were bad, or the loss scale is used up."""
    bad, most = run.progress.bad_in_a_row, run.config["train"]["max_bad_steps"]
    if bad < most and run.scaler.get_scale() >= 1:
        return
    what, kind, way = "diverged", "non-finite", "lower the lr, or train.precision=fp32"
    if usable:
        kind = "skipped"
    elif norm == 0:
        what, kind = "nothing is learnt", "zero-gradient"
        way = "a part of the model cuts the gradient off; does train.compile=false help?"
    raise NumericsError(
        f"{what}: step {run.progress.step}: {bad} {kind} steps in a row "
        f"(train.max_bad_steps={most}), loss {float(nats) / run.budget.tokens_per_step}, "
        f"gradient norm {float(norm)} ({way})"
    )


def due(every: int | None, step: int, last: int) -> bool:
    """Whether what happens every so many steps is due here and was not done yet."""
    return every is not None and step > 0 and step % every == 0 and last < step
