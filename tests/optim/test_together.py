"""Muon in few launches: the same steps as one matrix at a time, and how many operations they take.

The path is a GPU's; here a CPU takes it too, and `meta` counts.
"""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minigpt.model.transformer import Transformer
from minigpt.optim.by_role import ByRole
from minigpt.optim.muon import Muon
from minigpt.optim.normuon import NorMuon
from minigpt.seeding import generator

SHAPES = ((24, 16), (16, 24), (24, 16), (16, 16), (8, 16), (16, 8), (16, 16), (2, 12, 20))
# What launches nothing: views, and memory.
SILENT = {"detach", "view", "_unsafe_view", "t", "transpose", "unbind", "split", "split_with_sizes",
    "slice", "select", "unsqueeze", "empty", "zeros_like", "empty_like", "as_strided", "alias",
    "chunk", "permute"}  # fmt: skip


class Operations(TorchDispatchMode):
    """The names of what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in SILENT and "record_function" not in name:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def weights_after(optimizer, together: bool, steps: int = 4) -> list[torch.Tensor]:
    weights = [
        torch.nn.Parameter(torch.randn(shape, generator=generator(0, "init", i)))
        for i, shape in enumerate(SHAPES)
    ]
    muon = optimizer(weights)
    muon.moves_together = lambda device: together
    for step in range(steps):
        for i, p in enumerate(weights):
            p.grad = torch.randn(p.shape, generator=generator(step, "data", i))
        weights[3].grad = torch.zeros_like(weights[3])
        muon.step()
    return weights


@pytest.mark.parametrize("most", [1 << 26, 500], ids=["one pack", "several packs"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "optimizer",
    [
        Muon,
        partial(Muon, nesterov=False, weight_decay=0.0, scale="spectral"),
        partial(Muon, cautious=True, momentum_warmup=3),
        partial(Muon, renormalise=True, scale="match_rms_adamw"),
        NorMuon,
    ],
)
def test_together_moves_weights_as_one_by_one(optimizer, dtype, most, monkeypatch) -> None:
    monkeypatch.setattr("minigpt.optim.together.BATCH_ELEMENTS", most)
    optimizer = partial(optimizer, lr=0.1, ns_dtype=dtype)
    tolerance = {"rtol": 0, "atol": 2e-6 if dtype == "fp32" else 2e-2}
    for one, other in zip(weights_after(optimizer, True), weights_after(optimizer, False)):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ({"n_layers": 8, "d_model": 512, "n_heads": 8, "n_kv_heads": 1}, 60),
        ({"n_layers": 12, "d_model": 768, "n_heads": 12, "n_kv_heads": 12}, 80),
    ],
    ids=["small", "medium"],
)
def test_launches_of_a_step(sizes, most) -> None:
    """Of Muon's part, and no value is read back."""
    with torch.device("meta"):
        model = Transformer(256, **sizes)
        roles = model.roles()
        listed = [(name, p, roles[name]) for name, p in model.named_parameters()]
        adamw = partial(torch.optim.AdamW, lr=0.1)
        muon = ByRole(listed, Muon, adamw, adamw, adamw).optimizers["hidden"]
        for p in model.parameters():
            p.grad = torch.empty_like(p)
    muon.step()  # makes the state
    with Operations() as seen:
        muon.step()
    assert 30 < len(seen.names) <= most, seen.names
    assert "_local_scalar_dense" not in seen.names
