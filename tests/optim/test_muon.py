"""Muon against torch.optim.Muon, and the promises of its docstring."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toy import assert_equal_trees

from minigpt.optim.muon import Muon
from minigpt.optim.newton_schulz import coefficients_of, orthogonalise
from minigpt.optim.normuon import NorMuon
from minigpt.optim.state_tree import to_tree

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


COMBINATIONS = [
    (nesterov, weight_decay, scale, dtype)
    for nesterov, weight_decay, scale, dtype in itertools.product(
        (True, False), (0.0, 0.1), ("original", "match_rms_adamw"), (torch.float32, torch.bfloat16)
    )
    # with bf16 parameters and no Nesterov torch.optim.Muon corrupts its own momentum (see below)
    if nesterov or dtype == torch.float32
]


@pytest.mark.parametrize(("nesterov", "weight_decay", "scale", "dtype"), COMBINATIONS)
def test_equals_torch_muon_bit_for_bit(nesterov, weight_decay, scale, dtype):
    ours, theirs = (parameters(*SHAPES.values(), dtype=dtype) for _ in range(2))
    common = {"lr": 0.02, "weight_decay": weight_decay, "momentum": 0.95, "nesterov": nesterov}
    muon = Muon(ours, **common, scale=scale, ns_dtype="bf16")
    reference = torch.optim.Muon(theirs, **common, adjust_lr_fn=scale)
    for step in range(10):
        set_gradients(step, ours, theirs)
        muon.step()
        reference.step()
    assert {name: torch.equal(a, b) for name, a, b in zip(SHAPES, ours, theirs)} == dict.fromkeys(
        SHAPES, True
    )


def test_ten_steps_equal_five_saved_loaded_and_five_more_through_torchs_own_state_dict():
    params = parameters(*SHAPES.values())
    muon = Muon(params, momentum_warmup=8)  # which goes on where it was
    take(muon, params, range(5))
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    again = Muon(resumed, momentum_warmup=8)
    again.load_state_dict(copy.deepcopy(muon.state_dict()))
    take(muon, params, range(5, 10))
    take(again, resumed, range(5, 10))
    assert all(map(torch.equal, params, resumed))


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", math.inf),
        ("weight_decay", -1.0),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum_dtype", "bf16"),
        ("momentum_warmup", -1),
        ("scale", "rms"),
        ("split", "rows"),
        ("ns_dtype", "fp16"),
        ("ns_steps", 0),
        ("ns_steps", 100),
        ("ns_schedule", "quintic"),
        ("ns_schedule", []),
        ("ns_schedule", [[1.0, 2.0]]),
    ],
)
def test_values_out_of_range_are_refused_by_name(key, wrong):
    with pytest.raises(ValueError, match=f"^{key}="):
        Muon(parameters((4, 4)), **{key: wrong})


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4,\) \(give it to AdamW\)"):
        Muon(parameters((4, 4), (4,)))


def double_precision_muon(weight, gradients, lr, weight_decay, momentum, nesterov, scale=1.0):
    """The algorithm of the module docstring, in float64."""
    weight, buffer = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        buffer = momentum * buffer + (1 - momentum) * gradient.double()
        u = momentum * buffer + (1 - momentum) * gradient.double() if nesterov else buffer
        update = orthogonalise(u, coefficients_of("keller"), torch.float64)
        weight = (1 - lr * weight_decay) * weight - lr * scale * update
    return weight


@pytest.mark.parametrize("nesterov", [True, False])
def test_equals_the_formulas_in_float64(nesterov):
    (p,) = parameters((48, 32))
    gradients = [g.detach() for g in parameters(*[(48, 32)] * 5, seed=3)]
    expected = double_precision_muon(
        p.detach(), gradients, 0.1, 0.2, 0.9, nesterov, scale=math.sqrt(1.5)
    )
    muon = Muon([p], lr=0.1, weight_decay=0.2, momentum=0.9, nesterov=nesterov, ns_dtype="fp32")
    for gradient in gradients:
        p.grad = gradient
        muon.step()
    assert (p - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("momentum_dtype", ["gradient", "fp32"])
def test_bf16_parameters_without_nesterov_keep_their_momentum(momentum_dtype):
    """torch.optim.Muon 2.13 normalises its momentum in place here (0.158 instead of 0.300)."""
    (p,) = parameters((16, 16), dtype=torch.bfloat16)
    muon = Muon([p], momentum=0.7, nesterov=False, ns_dtype="bf16", momentum_dtype=momentum_dtype)
    p.grad = torch.ones_like(p)
    muon.step()
    buffer = muon.state[p]["momentum_buffer"]
    assert buffer.dtype == {"gradient": torch.bfloat16, "fp32": torch.float32}[momentum_dtype]
    assert (buffer - 0.3).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("original", {"tall": math.sqrt(3), "wide": 1.0, "square": 1.0}),
        ("spectral", {"tall": math.sqrt(3), "wide": math.sqrt(1 / 3), "square": 1.0}),
        (
            "match_rms_adamw",
            {"tall": 0.2 * math.sqrt(96), "wide": 0.2 * math.sqrt(96), "square": 0.2 * 8},
        ),
        ("none", {"tall": 1.0, "wide": 1.0, "square": 1.0}),
    ],
)
def test_scale_is_the_spectral_norm_of_an_update(scale, expected):
    params = parameters(*(SHAPES[name] for name in expected))
    before = [p.detach().clone() for p in params]
    exact = {"ns_schedule": "exact", "ns_steps": 30, "ns_dtype": "fp32"}
    take(Muon(params, lr=1.0, weight_decay=0.0, scale=scale, **exact), params, range(1))
    norms = {
        name: torch.linalg.matrix_norm(p - old, 2).item()
        for name, p, old in zip(expected, params, before)
    }
    assert norms == pytest.approx(expected, rel=1e-4)
    if scale == "match_rms_adamw":  # what it is for
        rms = [(p - old).square().mean().sqrt().item() for p, old in zip(params, before)]
        assert rms == pytest.approx([0.2] * 3)


def test_renormalise_gives_the_frobenius_norm_of_an_orthogonal_matrix():
    params = parameters(*SHAPES.values())
    before = [p.detach().clone() for p in params]
    options = {"scale": "none", "renormalise": True, "ns_dtype": "fp32"}
    take(Muon(params, lr=1.0, weight_decay=0.0, **options), params, range(1))
    norms = [(p - old).norm().item() for p, old in zip(params, before)]
    assert norms == pytest.approx([math.sqrt(min(shape)) for shape in SHAPES.values()], rel=1e-4)


def test_cautious_decay_acts_only_where_the_update_shrinks_the_entry():
    (p,), (plain,) = parameters((24, 16)), parameters((24, 16))
    before = p.detach().clone()
    take(Muon([plain], lr=0.1, weight_decay=0.0, ns_dtype="fp32"), [plain], range(1))
    update = before - plain.detach()
    take(Muon([p], lr=0.1, weight_decay=0.5, cautious=True, ns_dtype="fp32"), [p], range(1))
    decayed = (update * before >= 0).float()
    assert 0.2 < decayed.mean() < 0.8
    assert torch.allclose(p, before * (1 - 0.05 * decayed) - update, atol=1e-6)


def test_momentum_warmup_rises_linearly_from_085():
    (p,) = parameters((8, 8))
    muon = Muon([p], momentum=0.95, momentum_warmup=4)
    expected = torch.zeros(8, 8)
    for step, mu in enumerate([0.875, 0.9, 0.925, 0.95, 0.95]):
        take(muon, [p], [step])
        expected = mu * expected + (1 - mu) * p.grad
        assert torch.allclose(muon.state[p]["momentum_buffer"], expected, atol=1e-6)


ALL = slice(None)


@pytest.mark.parametrize(
    ("options", "group", "slices"),
    [
        # q: four heads of twelve rows; o: three heads of eight columns
        (
            {"split": "head"},
            {"kind": "q", "n_heads": 4},
            [(slice(i, i + 12), ALL) for i in (0, 12, 24, 36)],
        ),
        (
            {"split": "head"},
            {"kind": "o", "n_heads": 3},
            [(ALL, slice(i, i + 8)) for i in (0, 8, 16)],
        ),
        ({"split": "matrix"}, {"kind": "q", "n_heads": 4}, [(ALL, ALL)]),
        ({"split": "head"}, {"kind": "k", "n_heads": 1}, [(ALL, ALL)]),
    ],
)
@pytest.mark.parametrize("optimizer", [Muon, NorMuon])
def test_a_split_matrix_moves_like_separate_parameters(optimizer, options, group, slices):
    (p,) = parameters((48, 24))
    parts = [nn.Parameter(p.detach()[rows, columns].clone()) for rows, columns in slices]
    whole = optimizer([{"params": [p], **group}], ns_dtype="bf16", **options)
    separate = optimizer(parts, ns_dtype="bf16")
    for step in range(3):
        set_gradients(step, [p])
        for part, (rows, columns) in zip(parts, slices):
            part.grad = p.grad[rows, columns].clone()
        whole.step()
        separate.step()
    assert all(torch.equal(p[rows, columns], part) for part, (rows, columns) in zip(parts, slices))


def test_three_dimensions_are_a_stack_and_four_are_flattened():
    stack, conv = parameters((3, 16, 24), (16, 4, 3, 2))
    matrices = [nn.Parameter(matrix.detach().clone()) for matrix in stack]
    flat = nn.Parameter(conv.detach().clone().flatten(1))
    whole, separate = Muon([stack, conv], ns_dtype="bf16"), Muon([*matrices, flat], ns_dtype="bf16")
    for step in range(3):
        set_gradients(step, [stack, conv])
        for gradient, matrix in zip(stack.grad, matrices):
            matrix.grad = gradient.clone()
        flat.grad = conv.grad.flatten(1)
        whole.step()
        separate.step()
    assert all(map(torch.equal, stack, matrices))
    assert torch.equal(conv.flatten(1), flat)


def test_a_split_that_does_not_divide_is_refused():
    message = r"split=head: a matrix of shape \(8, 4\) is not 3 heads of equal size"
    with pytest.raises(ValueError, match=message):
        Muon([{"params": parameters((8, 4)), "kind": "q", "n_heads": 3}], split="head")


def test_a_sharded_parameter_is_refused():
    (p,) = parameters((8, 4))
    p.placements = ("Shard(0)",)  # what a DTensor has
    with pytest.raises(ValueError, match="sharded"):
        Muon([p])


@pytest.mark.parametrize("options", [{"weight_decay": 0.0}, {"lr": 0.0, "weight_decay": 0.1}])
@pytest.mark.parametrize("optimizer", [Muon, NorMuon])
def test_zero_gradient_without_decay_or_lr_is_no_step_at_all(optimizer, options):
    """torch.distributed.checkpoint makes optimizer state exist by one with lr 0."""
    params = parameters(*SHAPES.values())
    before = [p.detach().clone() for p in params]
    muon = optimizer(params, **options)
    for p in params:
        p.grad = torch.zeros_like(p)
    muon.step()
    assert all(map(torch.equal, params, before))
    assert all(not muon.state[p]["momentum_buffer"].any() for p in params)


def test_a_parameter_without_gradient_is_left_alone():
    with_gradient, without = parameters((8, 8), (8, 8))
    muon = Muon([with_gradient, without])
    before = without.detach().clone()
    with_gradient.grad = torch.ones_like(with_gradient)
    muon.step()
    assert torch.equal(without, before)  # no decay either
    assert without not in muon.state
    with_gradient.grad = None
    muon.step()


@pytest.mark.parametrize("optimizer", [Muon, NorMuon])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e20])
def test_a_poisoned_gradient_skips_the_step_and_leaves_weights_and_state(optimizer, dtype, poison):
    params = parameters(*SHAPES.values(), dtype=dtype)
    muon = optimizer(params)
    take(muon, params, range(2))
    weights, state = [p.detach().clone() for p in params], copy.deepcopy(list(muon.state.values()))
    set_gradients(2, params)
    params[1].grad[0, 0] = poison
    muon.step()
    assert muon.skipped_steps == 1
    assert all(map(torch.equal, params, weights))
    assert_equal_trees(to_tree(list(muon.state.values())), to_tree(state))
    assert muon.param_groups[0]["step"] == 2
    take(muon, params, range(3, 5))  # and it goes on
    assert all(p.isfinite().all() and not torch.equal(p, old) for p, old in zip(params, weights))


@pytest.mark.parametrize("size", [1e18, 1e-18])
def test_extreme_but_finite_gradients_move_weights_by_lr(size):
    (p,) = parameters((16, 16))
    before = p.detach().clone()
    muon = Muon([p], lr=0.1, weight_decay=0.0, ns_dtype="fp32")
    set_gradients(0, [p], scale=size)
    muon.step()
    moved = torch.linalg.matrix_norm(p - before, 2)
    # below the floor of the norm, 1e-7, it is no gradient
    assert 0.06 < moved < 0.12 if size > 1 else moved < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("optimizer", [Muon, NorMuon])
def test_gradients_are_only_read(optimizer, nesterov, dtype):
    params = parameters(*SHAPES.values(), dtype=dtype)
    muon = optimizer(params, nesterov=nesterov, cautious=True)
    set_gradients(0, params)
    kept = [p.grad.clone() for p in params]
    muon.step()
    assert all(torch.equal(p.grad, old) for p, old in zip(params, kept))


def test_normuon_evens_out_the_rows_and_keeps_the_norm_of_the_update():
    (p,), (plain,) = parameters((48, 24)), parameters((48, 24))
    before = p.detach().clone()
    options = {"lr": 1.0, "weight_decay": 0.0, "ns_dtype": "fp32"}
    # beta2 = 0: this update's own row norms
    take(NorMuon([p], beta2=0.0, **options), [p], range(1))
    take(Muon([plain], **options), [plain], range(1))
    update, orthogonal = p - before, plain - before
    rows = update.norm(dim=1)
    assert rows.std() / rows.mean() < 1e-5
    assert orthogonal.norm(dim=1).std() / orthogonal.norm(dim=1).mean() > 0.05
    assert update.norm().item() == pytest.approx(orthogonal.norm().item(), rel=1e-5)


def test_normuon_averages_the_row_moments_over_time():
    (p,) = parameters((6, 4))
    normuon = NorMuon([p], beta2=0.75, ns_dtype="fp32", weight_decay=0.0)
    reference = Muon(parameters((6, 4)), ns_dtype="fp32", weight_decay=0.0)
    expected = torch.zeros(6, 1)
    for step in range(3):
        old = reference.param_groups[0]["params"][0].detach().clone()
        take(normuon, [p], [step])
        take(reference, reference.param_groups[0]["params"], [step])
        orthogonal = (old - reference.param_groups[0]["params"][0]) / (0.02 * math.sqrt(1.5))
        expected = 0.75 * expected + 0.25 * orthogonal.square().mean(dim=1, keepdim=True)
    assert torch.allclose(normuon.state[p]["row_second_moments"][0], expected, rtol=1e-4)


def test_normuon_refuses_beta2_of_one():
    with pytest.raises(ValueError, match=r"beta2=1\.0"):
        NorMuon(parameters((4, 4)), beta2=1.0)


def test_flops_per_step_equal_the_measured_count_of_the_batched_path():
    params = parameters((48, 24), (24, 48), (48, 24), (32, 32), (64, 8))
    muon = Muon([{"params": params, "kind": "q", "n_heads": 4}], split="head", ns_dtype="fp32")
    set_gradients(0, params)
    with FlopCounterMode(display=False) as counter:
        muon.step()
    assert counter.get_total_flops() == muon.flops_per_step()
