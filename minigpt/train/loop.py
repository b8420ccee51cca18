"""The training loop: one plain function."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Protocol

import torch

from minigpt.config.budget import Budget
from minigpt.config.precision import Precision
from minigpt.data.windows import TrainWindows
from minigpt.errors import NumericsError
from minigpt.model.dropout import sequences
from minigpt.optim.by_role import ByRole
from minigpt.seeding import derive_seed
from minigpt.train.evaluate import Evaluation, documents_of

# gradient norms that a spike is measured against; judged from a quarter of them on
SPIKE_WINDOW = 64


@dataclass
class Progress:
    """Where a run stands at a step boundary: all that a checkpoint holds besides tensors.

    step, tokens: done.  skipped: steps without an update, because something was not finite or a
        spike; bad_in_a_row:
    the last of them.  norms: gradient norms of the last updates, where spikes are skipped.
    evaluated, sampled: the step of the last one, so that a resumed run neither repeats nor misses
    any.  seconds: where time went.  final: the last evaluation, once there.
    """

    step: int = 0
    tokens: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    norms: list[float] = field(default_factory=list)
    evaluated: int = 0
    sampled: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    final: dict[str, Any] | None = None

    @property
    def train_time_s(self) -> float:
        """Seconds of training proper: data, forward and backward, optimizer; no evaluation, no
        saving.
        """
        return sum(
            self.seconds.get(part, 0.0) for part in ("data", "forward_backward", "optimizer")
        )

    def takes(self, norm: torch.Tensor, factor: float | None) -> bool:
        """Whether a step with this gradient norm may update: unless it exceeds `factor` times the
        median of the last.

        A norm that may joins those that the next are held against; None takes all and keeps none.
        """
        if factor is None:
            return True
        found = float(norm)
        if len(self.norms) >= SPIKE_WINDOW // 4 and found > factor * median(self.norms) > 0:
            return False
        self.norms = [*self.norms, found][-SPIKE_WINDOW:]
        return True

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin


class Probe(Protocol):
    """What looks at an optimizer step from before and after, without changing anything."""

    def before(self, clip_factor: float) -> None: ...
    def after(self) -> dict[str, float]: ...


class Hooks(Protocol):
    """What the loop asks of the run around it."""

    def record(self, row: dict[str, Any]) -> None: ...
    def save(self, final: bool) -> None: ...
    def evaluate(self, final: bool) -> Evaluation | None: ...
    def sample(self) -> object: ...
    def stop_requested(self) -> object: ...
    def on_step(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What the loop reads of the configuration. Intervals and stop_after are steps; None is off."""

    seed: int
    grad_clip: float | None  # global norm
    max_bad_steps: int
    skip_spikes: float | None  # times the median gradient norm
    end_of_text: int | None  # given when attention stays inside documents
    eval_every: int | None
    checkpoint_every: int | None
    checkpoint_at: Collection[int]  # steps
    sample_every: int | None
    log_every: int | None
    probe_every: int | None
    stop_after: int | None


def fit(
    model: Callable[..., torch.Tensor],
    optimizer: ByRole,
    schedule: Callable[[int, int], float],
    windows: TrainWindows,
    budget: Budget,
    precision: Precision,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    settings: Settings,
    run: Hooks,
    probe: Probe | None = None,
) -> bool:
    """Train from `progress.step` to the end of the budget. Returns True when finished, False when
    asked to stop.

    Every draw is a function of (seed, step), every decision of the step number, so a run that was
    interrupted and goes on computes what it would have computed anyway. Raises NumericsError after
    `max_bad_steps` steps in a row that were not finite or a spike; non-finite values never reach a
    weight.
    """
    saved, logged_tokens, logged_time = progress.step, progress.tokens, progress.train_time_s
    optimizer.train()

    while True:
        step = progress.step
        finished = step == budget.steps
        if due(settings.eval_every, step, progress.evaluated) and not finished:
            with progress.timed("evaluation"):
                run.evaluate(final=False)
        if due(settings.sample_every, step, progress.sampled) and not finished:
            run.sample()
            progress.sampled = step
        kept = step in settings.checkpoint_at and saved < step
        # else the weights may be the fault: the last good checkpoint stays
        sound = progress.bad_in_a_row == 0
        if sound and (kept or due(settings.checkpoint_every, step, saved)) and not finished:
            with progress.timed("saving"):
                run.save(final=False)
            saved = step
        if finished:
            return True
        if run.stop_requested() or (
            settings.stop_after is not None and step >= settings.stop_after
        ):
            if sound:
                run.save(final=False)
            # unsound steps are taken again from the last checkpoint, with the same result
            return False

        multiplier = schedule(step, budget.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier

        nats = torch.zeros((), device=precision.device)
        for micro in range(budget.accumulation):
            with progress.timed("data"):
                rows = slice(micro * budget.micro_batch_size, (micro + 1) * budget.micro_batch_size)
                inputs, targets = (
                    to_device(array, precision.device)
                    for array in windows.batch(step, budget.batch_size, rows)
                )
            numbers = range(step * budget.batch_size, (step + 1) * budget.batch_size)[rows]
            seeds = [derive_seed(settings.seed, "dropout", number) for number in numbers]
            with progress.timed("forward_backward"), sequences(seeds, precision.device):
                # for layers that draw from torch's generator themselves
                torch.manual_seed(seeds[0])
                with precision.autocast():
                    loss = model(inputs, targets, documents_of(inputs, settings.end_of_text))
                scaler.scale(loss / budget.tokens_per_step).backward()
                nats += loss.detach()

        with progress.timed("optimizer"):
            # One decision for all optimizers: either every one of them steps or none does.
            for part in optimizer.optimizers.values():
                scaler.unscale_(part)
            grad_norm = torch.nn.utils.clip_grad_norm_(
                list(optimizer.names),
                float("inf") if settings.grad_clip is None else settings.grad_clip,
            )
            finite = bool(torch.isfinite(grad_norm) & torch.isfinite(nats))
            good = finite and progress.takes(grad_norm, settings.skip_spikes)
        looking = probe if good and due(settings.probe_every, step + 1, 0) else None
        if looking is not None:
            looking.before(min(1.0, (settings.grad_clip or float("inf")) / float(grad_norm)))
        with progress.timed("optimizer"):
            if good:
                optimizer.step()
        seen = {} if looking is None else looking.after()
        scaler.update()
        optimizer.zero_grad()

        progress.step += 1
        progress.tokens += budget.tokens_per_step
        progress.skipped += not good
        progress.bad_in_a_row = 0 if good else progress.bad_in_a_row + 1
        run.on_step()
        if (
            not good
            or seen
            or due(settings.log_every, progress.step, 0)
            or progress.step == budget.steps
        ):
            elapsed = progress.train_time_s - logged_time
            run.record(
                {
                    "train/loss": float(nats) / budget.tokens_per_step,
                    "grad_norm": float(grad_norm),
                    **{f"lr/{group['role']}": group["lr"] for group in optimizer.param_groups},
                    "perf/tokens_per_s": (progress.tokens - logged_tokens) / elapsed,
                    **({"scale": scaler.get_scale()} if scaler.is_enabled() else {}),
                    **({} if good else {"skipped": progress.skipped}),
                    **seen,
                }
            )
            logged_tokens, logged_time = progress.tokens, progress.train_time_s
        if progress.bad_in_a_row >= settings.max_bad_steps or scaler.get_scale() < 1:
            raise NumericsError(
                f"diverged: step {progress.step}: {progress.bad_in_a_row} {'skipped' if finite else 'non-finite'} "
                f"steps in a row (train.max_bad_steps={settings.max_bad_steps}), "
                f"loss {float(nats) / budget.tokens_per_step}, gradient norm {float(grad_norm)} "
                "(lower the lr, or train.precision=fp32)"
            )


def due(every: int | None, step: int, last: int) -> bool:
    """Whether something that happens every so many steps is due at this boundary and not done
    yet.
    """
    return every is not None and step > 0 and step % every == 0 and last < step


def to_device(array: Any, device: str) -> torch.Tensor:
    """A NumPy array on the device; pinned and without waiting where that exists."""
    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.startswith("cuda")
        else tensor.to(device)
    )


def progress_of(state: dict[str, Any]) -> Progress:
    """Progress out of a checkpoint's state."""
    known = {"norms": [], **state}  # older checkpoints have none
    return Progress(**{name: known[name] for name in asdict(Progress())})
