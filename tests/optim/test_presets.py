"""Every file of conf/optim, found by itself: it composes, trains, and differs as it says."""

import pytest
import torch
from torch import nn
from toy import CONF, Toy, assert_resumes, backward, build, preset, presets, train

from minigpt.optim.lion import Lion


@pytest.mark.parametrize("name", presets())
def test_preset_takes_two_steps_and_changes_every_parameter(name):
    model = Toy()
    before = [p.clone() for p in model.parameters()]
    losses = train(model, build(name, model), range(2))
    assert losses[0] == backward(Toy(), 0), "every arm starts from the same weights"
    assert all(
        p.isfinite().all() and not torch.equal(p, old) for p, old in zip(model.parameters(), before)
    )


@pytest.mark.parametrize("name", sorted({*presets()} - {"adamw"}))  # there one lr serves all roles
def test_preset_differs_from_adamw_by_role_only_in_the_hidden_block(name):
    """And in the learning rate of the other roles, which each has tuned."""
    ours, adamw = (preset(arm, "optim.adamw_lr=0.01") for arm in (name, "adamw_by_role"))
    assert ours.keys() == adamw.keys()
    shared = [key for key in adamw if key not in ("hidden", "hidden_width_exponent", "lr")]
    # resolved, adamw_lr included
    assert {key: ours[key] for key in shared} == {key: adamw[key] for key in shared}


@pytest.mark.parametrize("name", presets())
def test_header_says_what_it_is_and_how_to_run_it(name):
    lines = (CONF / "optim" / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert any(
        line.startswith("#   python train.py") and f"optim={name}" in line for line in lines[:4]
    )


def test_one_lr_serves_all_roles_of_adamw():
    groups = build("adamw", Toy(), "optim.lr=0.25").param_groups
    assert {group["lr"] for group in groups} == {0.25}


def test_muon_has_its_own_lr():
    groups = build("muon", Toy(), "optim.lr=0.25", "optim.lr_scale=2").param_groups
    assert {(group["role"], group["lr"]) for group in groups} == {
        ("hidden", 0.5), ("embed", 0.028), ("head", 0.028), ("scalar", 0.028),
    }  # fmt: skip


def test_adamw_preset_is_torch_adamw():
    model, reference = Toy(), Toy()
    node = preset("adamw")
    groups = []
    for name in ("hidden", "embed", "head", "scalar"):
        members = [p for _, p, role in reference.listed() if role.name == name]
        groups.append({"params": members, "weight_decay": node[name]["weight_decay"]})
    oracle = torch.optim.AdamW(groups, lr=node["lr"], betas=(0.9, 0.95), eps=1e-10, fused=True)
    assert train(model, build("adamw", model), range(20)) == train(reference, oracle, range(20))
    assert all(map(torch.equal, model.parameters(), reference.parameters()))


def test_an_optimizer_of_another_package_needs_yaml_only(tmp_path):
    """torch.optim.NAdam, which no line of minigpt names."""
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "nadam.yaml").write_text(
        "defaults: [_base, _self_]\nlr: 0.002\nadamw_lr: 0.01\n"
        "hidden: {_target_: torch.optim.NAdam, _partial_: true, lr: '${optim.lr}',\n"
        "  betas: [0.9, 0.95]}\n"
    )
    model, reference = Toy(), Toy()
    for toy in (model, reference):  # train the hidden matrices alone, so that NAdam alone decides
        for _, p, role in toy.listed():
            p.requires_grad_(role.name == "hidden")
    optimizer = build("nadam", model, f"hydra.searchpath=[file://{tmp_path}]")
    nadam = torch.optim.NAdam(
        [p for p in reference.parameters() if p.requires_grad], lr=0.002, betas=(0.9, 0.95)
    )
    assert train(model, optimizer, range(5)) == train(reference, nadam, range(5))
    assert all(map(torch.equal, model.parameters(), reference.parameters()))


def test_an_optimizer_that_draws_from_the_global_generator_is_told_so():
    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad += torch.randn_like(p)
            return super().step(closure)

    with pytest.raises(
        AssertionError, match=r"draws from torch's global generator.*torch\.Generator of"
    ):
        train(model := Toy(), Noisy(model.parameters(), lr=0.1), range(1))


@pytest.mark.parametrize("name", presets())
def test_preset_builds_on_meta(name):
    assert isinstance(build(name, Toy(device="meta")).param_groups[0]["params"][0], nn.Parameter)


@pytest.mark.parametrize("name", presets())
def test_preset_resumes_bit_for_bit(name):
    """15 steps == 5 + save + load + 10; the saved tensors come back contiguous, as from a file."""
    assert_resumes(lambda model: build(name, model))


@pytest.mark.parametrize("name", presets())
def test_evaluating_in_between_changes_no_weight(name):
    model, evaluated = Toy(), Toy()
    optimizer, interrupted = build(name, model), build(name, evaluated)
    train(model, optimizer, range(6))
    for seed in range(6):
        train(evaluated, interrupted, range(seed, seed + 1))
        interrupted.eval()
        interrupted.train()
    assert all(map(torch.equal, model.parameters(), evaluated.parameters()))


def test_schedule_free_evaluates_other_weights_than_it_trains():
    model = Toy()
    optimizer = build("schedule_free", model)
    train(model, optimizer, range(3))
    training = model.q.weight.clone()
    optimizer.eval()
    assert not torch.equal(model.q.weight, training)


def test_muon_with_bf16_newton_schulz_is_the_muon_torch_preset():
    ours, theirs = Toy(), Toy()
    assert train(ours, build("muon", ours, "optim.hidden.ns_dtype=bf16"), range(10)) == train(
        theirs, build("muon_torch", theirs), range(10)
    )
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_lion_is_the_lion_of_pytorch_optimizer():
    from pytorch_optimizer import Lion as Reference

    ours, theirs = Toy(), Toy()
    lion = Lion(ours.parameters(), lr=0.01, betas=[0.9, 0.98], weight_decay=0.3)
    reference = Reference(theirs.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.3)
    assert train(ours, lion, range(10)) == pytest.approx(
        train(theirs, reference, range(10)), rel=1e-6
    )
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(a, b, atol=1e-6)
