"""The microscope sees what a float64 decomposition sees, and changes nothing."""

import math
from functools import partial

import pytest
import torch
from toy import Toy, assert_equal_trees, backward, build, by_role, presets, saved, train

from minigpt.optim.microscope import Microscope
from minigpt.optim.muon import Muon


def look(model, optimizer, seed=0, **options):
    microscope = Microscope(optimizer, **options)
    backward(model, seed)
    microscope.before()
    optimizer.step()
    return microscope.after()


@pytest.mark.parametrize("name", presets())
def test_training_is_bit_identical_with_and_without_it(name):
    model, watched = Toy(), Toy()
    optimizer, under_glass = build(name, model), build(name, watched)
    random_state = torch.get_rng_state()
    for seed in range(4):
        train(model, optimizer, range(seed, seed + 1))
        look(watched, under_glass, seed)
    assert all(map(torch.equal, model.parameters(), watched.parameters()))
    assert_equal_trees(saved(optimizer.state_tree()), saved(under_glass.state_tree()))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_norms_and_update_rms_by_hand():
    model = Toy()
    optimizer = by_role(model, partial(torch.optim.SGD, lr=0.5))
    row = look(model, optimizer)
    hidden = [p for _, p, role in model.listed() if role.name == "hidden"]

    def norm(tensors):
        return math.sqrt(sum(t.square().sum().item() for t in tensors))

    assert row["probe/hidden/gradient_norm"] == pytest.approx(norm([p.grad for p in hidden]))
    assert row["probe/hidden/parameter_norm"] == pytest.approx(norm(hidden))
    n = sum(p.numel() for p in hidden)
    assert row["probe/hidden/update_rms"] == pytest.approx(
        0.5 * norm([p.grad for p in hidden]) / math.sqrt(n), rel=1e-4
    )
    assert row["probe/hidden/q/gradient_norm"] == pytest.approx(norm([model.q.weight.grad]))
    assert row["probe/scalar/gain/parameter_norm"] == pytest.approx(norm([model.gain]))
    # a vector has no singular values
    assert not any(key.startswith("probe/scalar/gain/stable") for key in row)


@pytest.mark.parametrize("cautious", [False, True])
def test_spectra_against_svd_with_the_decay_taken_out(cautious):
    model = Toy()
    optimizer = by_role(
        model, partial(Muon, lr=0.1, weight_decay=2.0, cautious=cautious, ns_dtype="fp32")
    )
    train(model, optimizer, range(2))
    weight = model.up.weight.detach().clone()
    row = look(model, optimizer, seed=2)
    undecayed = Toy()
    undecayed.load_state_dict(model.state_dict())
    momentum = optimizer.optimizers["hidden"].state[model.up.weight]["momentum_buffer"]
    change = model.up.weight.detach() - weight
    update = change + 0.2 * weight * ((change * weight <= 0) if cautious else 1.0)
    s, s_weight, s_momentum = (
        torch.linalg.svdvals(x.double()) for x in (update, model.up.weight, momentum)
    )
    expected = {
        "relative_update": s[0] / s_weight[0],
        "orthogonality_error": (s.square() / s.square().mean() - 1).square().mean().sqrt(),
        "singular_value_spread": (s.quantile(0.95) - s.quantile(0.05)) / s.median(),
        "stable_rank_weight": s_weight.square().sum() / s_weight[0] ** 2,
        "stable_rank_momentum": s_momentum.square().sum() / s_momentum[0] ** 2,
    }
    seen = {what: row[f"probe/hidden/up/{what}"] for what in expected}
    assert seen == pytest.approx({what: value.item() for what, value in expected.items()}, rel=1e-4)


def test_an_orthogonal_update_has_no_orthogonality_error():
    rows = {}
    for schedule in ("exact", "keller"):
        model = Toy()
        optimizer = by_role(
            model,
            partial(Muon, weight_decay=0.3, ns_schedule=schedule, ns_steps=30, ns_dtype="fp32"),
        )
        rows[schedule] = look(model, optimizer)
    for kind in ("q", "k", "up", "down"):
        assert rows["exact"][f"probe/hidden/{kind}/orthogonality_error"] < 1e-3
        assert rows["exact"][f"probe/hidden/{kind}/singular_value_spread"] < 1e-3
    adamw = Toy()
    assert look(adamw, by_role(adamw))["probe/hidden/up/orthogonality_error"] > 0.3


def test_clipped_fraction_is_what_the_clipping_took():
    model = Toy()
    optimizer = by_role(model)
    microscope = Microscope(optimizer)
    backward(model, 0)
    microscope.before(clip_factor=0.25)
    optimizer.step()
    row = microscope.after()
    assert row["probe/clipped_fraction"] == 0.75
    assert row["probe/time_s"] > 0


def test_all_values_are_finite_numbers_even_without_an_update():
    model = Toy()
    optimizer = by_role(model, partial(Muon, lr=0.0))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    microscope = Microscope(optimizer)
    microscope.before()
    optimizer.step()
    row = microscope.after()
    assert all(math.isfinite(value) for value in row.values())
    assert "probe/hidden/q/orthogonality_error" not in row  # undefined, so left out


@pytest.mark.parametrize(
    ("count", "looked_at"), [(1, [2]), (2, [0, 4]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_the_matrices_looked_at_are_spread_over_the_layers(count, looked_at):
    from minigpt.optim.microscope import _spread

    layers = [torch.nn.Parameter(torch.zeros(i + 1, 2)) for i in range(5)]
    assert [p.size(0) - 1 for p in _spread(layers, count)] == looked_at


def test_none_to_look_at_is_refused():
    with pytest.raises(ValueError, match="matrices_per_kind=0"):
        Microscope(by_role(Toy()), matrices_per_kind=0)


def test_singular_values_on_a_device_without_float64_are_taken_on_the_cpu():
    from minigpt.optim.microscope import _singular_values

    class OnMps(torch.Tensor):
        device = torch.device("mps")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

        def double(self):
            raise TypeError("the MPS framework doesn't support float64")

    matrix = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = _singular_values(torch.nn.Parameter(matrix).as_subclass(OnMps))
    torch.testing.assert_close(found, torch.linalg.svdvals(matrix.double()).flip(0))
