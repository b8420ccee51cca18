"""The loop's arithmetic: accumulation, one overflow decision for all optimizers, intervals."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from notes import Notes, config_of
from torch.utils._python_dispatch import TorchDispatchMode

from minigpt.config.budget import Budget
from minigpt.config.precision import choose
from minigpt.errors import NumericsError
from minigpt.model.transformer import Transformer
from minigpt.optim.by_role import ByRole
from minigpt.optim.muon import Muon
from minigpt.schedule.constant import Constant
from minigpt.seeding import generator
from minigpt.train.loop import due, fit
from minigpt.train.progress import Progress


class FewWindows:
    """Twelve random but fixed windows: a pure function of the number, as TrainWindows is."""

    def sequences(self, numbers: Sequence[int]) -> np.ndarray:
        draws = (np.random.default_rng(number % 12) for number in numbers)
        return np.stack([random.integers(0, 64, 17) for random in draws])


def make(dropout: float = 0.0) -> tuple[Transformer, ByRole]:
    model = Transformer(64, n_layers=2, d_model=32, n_heads=2, max_seq_len=16, dropout=dropout)
    model.init_weights(generator(0, "init"))
    roles, adamw = model.roles(), partial(torch.optim.AdamW, lr=1e-3, fused=True)
    parameters = [(name, p, roles[name]) for name, p in model.named_parameters()]
    return model, ByRole(parameters, partial(Muon, lr=0.02), adamw, adamw, adamw)


def run(
    model: Any,
    optimizer: ByRole,
    budget: Budget,
    precision: str = "fp32",
    stop_at: int | None = None,
    **changes: Any,
) -> tuple[bool, Notes]:
    chosen = choose("cpu", precision, False, d_model=32)
    notes = Notes(
        config_of(**changes),
        model,
        FewWindows(),
        stop_at,
        optimizer=optimizer,
        schedule=Constant(),
        budget=budget,
        precision=chosen,
        scaler=chosen.grad_scaler(),
    )
    finished = fit(notes)
    return finished, notes


def gradients_of(micro_batch_size: int, dropout: float = 0.0) -> dict[str, torch.Tensor]:
    """The gradients that the optimizers see in the first step."""
    model, optimizer = make(dropout)
    seen: dict[str, torch.Tensor] = {}
    optimizer.step = lambda: seen.update(
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    )  # type: ignore[method-assign]
    run(model, optimizer, Budget(1, 12, micro_batch_size, 16), grad_clip=None)
    return seen


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 4, 6])
def test_accumulated_gradients_are_those_of_the_undivided_batch(
    micro_batch_size: int, dropout: float
) -> None:
    whole, parts = gradients_of(12, dropout), gradients_of(micro_batch_size, dropout)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-6)


def test_the_logged_loss_is_nats_per_token_of_the_whole_batch() -> None:
    losses = []
    for micro in (12, 4):
        model, optimizer = make()
        _, notes = run(model, optimizer, Budget(1, 12, micro, 16))
        losses.append(notes.rows[0]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(np.log(64), rel=0.1)


def state_of(model: Transformer, optimizer: ByRole) -> list[torch.Tensor]:
    """Copies of all weights and of all optimizer state."""
    states = [
        value
        for part in optimizer.optimizers.values()
        for s in part.state.values()
        for value in s.values()
    ]
    return [
        t.detach().clone() for t in [*model.parameters(), *states] if isinstance(t, torch.Tensor)
    ]


@pytest.mark.parametrize(
    "poisoned", ["blocks.0.attention.q.weight", "embed.weight", "final_norm.gain"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.faults(46)
def test_one_bad_gradient_anywhere_stops_every_optimizer_for_that_step(
    poisoned: str, value: float
) -> None:
    model, optimizer = make()
    run(model, optimizer, Budget(2, 4, 4, 16))
    before = state_of(model, optimizer)
    parameter = dict(model.named_parameters())[poisoned]
    handle = parameter.register_hook(lambda gradient: torch.full_like(gradient, value))
    _, notes = run(model, optimizer, Budget(2, 4, 4, 16))
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(model, optimizer), strict=True))
    assert notes.progress.skipped == 2
    assert [row["skipped"] for row in notes.rows] == [1, 2]


@pytest.mark.faults(46)
def test_too_many_bad_steps_in_a_row_end_the_run() -> None:
    model, optimizer = make()
    model.embed.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NumericsError, match="3 non-finite steps in a row"):
        run(model, optimizer, Budget(10, 4, 4, 16))
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.faults(48)
def test_a_spike_is_measured_against_the_median_of_the_last_updates() -> None:
    progress = Progress()
    assert all(progress.accepts(torch.tensor(1000.0), None) for _ in range(100))
    assert progress.norms == []
    assert all(progress.accepts(torch.tensor(10.0**power), 10) for power in range(16)), (
        "too few to judge by"
    )
    progress = Progress(norms=[1.0] * 16)
    assert [progress.accepts(torch.tensor(norm), 10) for norm in (10.0, 10.1, 1e9, 2.0)] == [
        True,
        False,
        False,
        True,
    ]
    assert progress.norms == [1.0] * 16 + [10.0, 2.0]
    assert Progress(norms=[0.0] * 16).accepts(torch.tensor(1.0), 10), (
        "zeros say nothing of what is usual"
    )
    assert all(progress.accepts(torch.tensor(3.0), 10) for _ in range(100))
    assert progress.norms == [3.0] * 64


@pytest.mark.faults(47)
def test_an_overflow_in_fp16_skips_all_lowers_the_scale_and_training_goes_on() -> None:
    model, optimizer = make()
    calls = []

    def overflow_once(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * float("inf") if len(calls) == 2 else gradient

    dict(model.named_parameters())["blocks.0.mlp.up.weight"].register_hook(overflow_once)
    _, notes = run(model, optimizer, Budget(4, 4, 4, 16), precision="fp16", max_bad_steps=10)
    assert notes.progress.skipped == 1
    assert notes.rows[1]["scale"] == notes.rows[0]["scale"] / 2
    assert notes.rows[-1]["train/loss"] < notes.rows[0]["train/loss"]


def test_a_model_that_learns_nothing_ends_the_run() -> None:
    """As code does that loses its gradient on the way."""
    model, optimizer = make()
    for parameter in model.parameters():
        parameter.register_hook(torch.zeros_like)
    with pytest.raises(NumericsError, match="nothing is learnt: step 3: 3 zero-gradient steps"):
        run(model, optimizer, Budget(9, 4, 4, 16), max_bad_steps=3)


def test_gradients_are_clipped_to_the_global_norm_and_the_norm_before_is_logged() -> None:
    model, optimizer = make()
    norms = []
    step = optimizer.step
    optimizer.step = lambda: (
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()),
        step(),
    )  # type: ignore[func-returns-value, method-assign, union-attr]
    _, notes = run(model, optimizer, Budget(1, 4, 4, 16), grad_clip=1e-3)
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert notes.rows[0]["grad_norm"] > 0.1


def test_events_come_at_their_steps_and_a_stop_saves() -> None:
    model, optimizer = make()
    finished, notes = run(
        model,
        optimizer,
        Budget(10, 4, 4, 16),
        stop_at=7,
        eval_every=2,
        checkpoint_every=3,
        sample_every=5,
    )
    assert not finished
    assert notes.events == [
        ("evaluate", 2), ("save", 3), ("evaluate", 4), ("sample", 5), ("evaluate", 6),
        ("save", 6), ("save", 7),
    ]  # fmt: skip


def test_due() -> None:
    assert [step for step in range(10) if due(3, step, 0)] == [3, 6, 9]
    assert not due(3, 6, 6)
    assert not due(None, 6, 0)


def test_micro_batches_change_no_loss_under_dropout() -> None:
    """Beyond rounding, since masks belong to sequences. Newton-Schulz would make much of little."""
    losses = []
    for micro in (1, 2, 4):
        model, _ = make(dropout=0.3)
        roles, adamw = model.roles(), partial(torch.optim.AdamW, lr=1e-3, eps=1e-6)
        optimizer = ByRole(
            [(n, p, roles[n]) for n, p in model.named_parameters()], adamw, adamw, adamw, adamw
        )
        _, notes = run(model, optimizer, Budget(12, 4, micro, 16))
        losses.append([row["train/loss"] for row in notes.rows])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)


def test_dropout_is_a_function_of_seed_and_step_alone(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        model, optimizer = make(dropout=0.5)
        torch.rand(7)  # someone else draws from the global generator
        run(model, optimizer, Budget(3, 4, 2, 16))
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class ReadBack(TorchDispatchMode):
    """Counts the values that the host reads, for each of which a GPU is waited for."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        self.count += function.overloadpacket.__name__ == "_local_scalar_dense"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_step_waits_for_the_device_once_between_log_rows(
    clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    with ReadBack() as read:
        monkeypatch.setattr(Notes, "on_step", lambda notes: counts.append(read.count))
        run(*make(dropout=0.1), Budget(8, 12, 4, 16), log_every=6, grad_clip=clip)
    of_steps = [after - before for before, after in zip([0, *counts], counts)]
    assert of_steps == [1] * 6 + [of_steps[6], 1]  # the row of step 6 is counted with step 7
    assert of_steps[6] > 1
