"""Losses written down: a change that should not change numbers does not.

Everything that decides them is spelled out here, so that tuned defaults may move. fp32 on a CPU:
initial weights that are off by 1e-7, as another machine's rounding would have them, move the losses
by 1e-7; Newton-Schulz in bf16 moves them by 2e-4. A change that is *meant* to change them (a
formula, the order of random draws) brings new numbers.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from notes import Notes, config_of

from minigpt.config.budget import Budget
from minigpt.config.precision import choose
from minigpt.model.transformer import Transformer
from minigpt.optim.by_role import ByRole
from minigpt.optim.muon import Muon
from minigpt.schedule.warmup_cosine import WarmupCosine
from minigpt.seeding import generator
from minigpt.train.loop import fit

STEPS, BATCH, SHOWN = 40, 8, (1, 2, 10, 40)
MUON = partial(
    Muon, lr=0.02, weight_decay=0.05, momentum=0.95, nesterov=True, ns_schedule="keller",
    ns_steps=5, ns_dtype="fp32", scale="original", momentum_warmup=0, momentum_dtype="gradient",
    renormalise=False, cautious=False, split="matrix",
)  # fmt: skip
ADAMW = partial(torch.optim.AdamW, lr=3e-3, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.05)
LOSSES = {  # at the SHOWN steps
    "muon": (4.120518, 4.137249, 3.783604, 2.931307),
    "adamw": (4.120518, 4.137108, 3.796732, 3.019345),
}


class Runs:
    """Sequences that count modulo 61 from a random start, in strides of 1 to 5: predictable."""

    def sequences(self, numbers: Sequence[int]) -> np.ndarray:
        step, row = divmod(numbers[0], BATCH)
        random = np.random.default_rng(step)
        start, stride = random.integers(0, 61, (BATCH, 1)), random.integers(1, 6, (BATCH, 1))
        return ((start + stride * np.arange(25)) % 61)[row : row + len(numbers)]


def losses_of(hidden: Any) -> dict[int, float]:
    torch.set_num_threads(1)
    model = Transformer(
        61, n_layers=2, d_model=32, n_heads=4, n_kv_heads=1, d_ff=96, max_seq_len=24, dropout=0.0,
        tie_embeddings=False,
        qk_norm=True, rope_theta=10000.0, norm_eps=1e-5, parametrization="standard",
    )  # fmt: skip
    model.init_weights(generator(0, "init"))
    roles = model.roles()
    listed = [(name, parameter, roles[name]) for name, parameter in model.named_parameters()]
    optimizer = ByRole(listed, hidden, ADAMW, ADAMW, ADAMW)
    chosen = choose("cpu", "fp32", False, d_model=32)
    notes = Notes(
        config_of(),
        model,
        optimizer=optimizer,
        schedule=WarmupCosine(warmup=0.1, floor=0.0),
        windows=Runs(),
        budget=Budget(STEPS, BATCH, 4, 24),
        precision=chosen,
        scaler=chosen.grad_scaler(),
    )
    fit(notes)
    return {step: row["train/loss"] for step, row in enumerate(notes.rows, 1)}


@pytest.mark.parametrize(("arm", "hidden"), [("muon", MUON), ("adamw", ADAMW)])
def test_the_losses_are_those_written_down(arm: str, hidden: Any) -> None:
    losses = losses_of(hidden)
    assert [losses[step] for step in SHOWN] == pytest.approx(LOSSES[arm], rel=1e-4)
    assert losses[STEPS] < 0.75 * losses[1]
