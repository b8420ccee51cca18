"""Muon against torch.optim.Muon, and the promises of its docstring."""

import copy
import itertools

import pytest
import torch
from torch import nn

from minigpt.optim.muon import Muon

SHAPES = {"tall": (96, 32), "wide": (32, 96), "square": (64, 64), "large": (512, 256)}


def parameters(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def set_gradients(step, *lists, scale=1.0):
    """The same gradients, drawn from `step` alone, for every list of parameters."""
    for params in lists:
        generator = torch.Generator().manual_seed(1000 + step)
        for p in params:
            p.grad = (scale * torch.randn(p.shape, generator=generator)).to(p.dtype)


def take(optimizer, params, steps):
    for step in steps:
        set_gradients(step, params)
        optimizer.step()


@pytest.mark.parametrize(
    ("nesterov", "weight_decay", "scale", "dtype"),
    list(
        itertools.product((True, False), (0.0, 0.1), ("original", "match_rms_adamw"), (torch.float32, torch.bfloat16))
    ),
)
def test_equals_torch_muon_bit_for_bit(nesterov, weight_decay, scale, dtype):
    if dtype == torch.bfloat16 and not nesterov:
        pytest.skip("torch.optim.Muon corrupts its own momentum here: compared with float64 below")
    ours, theirs = parameters(*SHAPES.values(), dtype=dtype), parameters(*SHAPES.values(), dtype=dtype)
    common = {"lr": 0.02, "weight_decay": weight_decay, "momentum": 0.95, "nesterov": nesterov}
    muon = Muon(ours, **common, scale=scale, ns_dtype="bf16")
    reference = torch.optim.Muon(theirs, **common, adjust_lr_fn=scale)
    for step in range(10):
        set_gradients(step, ours, theirs)
        muon.step()
        reference.step()
    assert {name: torch.equal(a, b) for name, a, b in zip(SHAPES, ours, theirs)} == dict.fromkeys(SHAPES, True)


def test_ten_steps_equal_five_saved_loaded_and_five_more_through_torchs_own_state_dict():
    params = parameters(*SHAPES.values())
    muon = Muon(params)
    take(muon, params, range(5))
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    again = Muon(resumed)
    again.load_state_dict(copy.deepcopy(muon.state_dict()))
    take(muon, params, range(5, 10))
    take(again, resumed, range(5, 10))
    assert all(map(torch.equal, params, resumed))


@pytest.mark.parametrize("wrong", [{"lr": -0.1}, {"lr": float("nan")}, {"lr": float("inf")}, {"weight_decay": -1.0},
    {"momentum": 1.0}, {"momentum": -0.1}, {"scale": "rms"}, {"ns_dtype": "fp16"}, {"ns_steps": 0}, {"ns_steps": 100},
    {"ns_schedule": "quintic"}, {"ns_schedule": []}, {"ns_schedule": [[1.0, 2.0]]}])  # fmt: skip
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Muon(parameters((4, 4)), **wrong)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4,\) \(give it to AdamW\)"):
        Muon(parameters((4, 4), (4,)))
