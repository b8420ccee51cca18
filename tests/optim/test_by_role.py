"""Every parameter has exactly one optimizer, and its state is saved by name."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from toy import ADAMW, Toy, assert_equal_trees, assert_resumes, backward, by_role, saved, train

from minigpt.errors import CheckpointError, ConfigError
from minigpt.optim.by_role import ByRole
from minigpt.optim.lion import Lion
from minigpt.optim.muon import Muon
from minigpt.roles import Role

MUON = partial(Muon, lr=0.02)


def test_every_parameter_is_in_exactly_one_group_of_its_role():
    model = Toy()
    optimizer = by_role(model, MUON)
    owner = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(model.parameters())
    )
    for _, p, role in model.listed():
        group = owner[id(p)]
        found = group["role"], group["kind"], group["n_heads"]
        assert found == (role.name, role.kind, role.n_heads)
    kinds = {role: type(part) for role, part in optimizer.optimizers.items()}
    others = dict.fromkeys(("embed", "head", "scalar"), torch.optim.AdamW)
    assert kinds == {"hidden": Muon, **others}


def test_lr_is_the_configs_times_lr_scale():
    groups = by_role(Toy(), MUON, lr_scale=0.5).param_groups
    lrs = {"hidden": 0.01, "embed": 0.005, "head": 0.005, "scalar": 0.005}
    assert {g["role"]: g["lr"] for g in groups} == lrs
    assert {g["role"]: g["initial_lr"] for g in groups} == lrs


def test_tied_head_leaves_the_head_block_unused():
    model = Toy()
    listed = [entry for entry in model.listed() if entry[2].name != "head"]
    optimizer = ByRole(listed, hidden=MUON, embed=ADAMW, head=ADAMW, scalar=ADAMW)
    assert "head" not in optimizer.optimizers


def test_frozen_parameters_have_no_optimizer_and_do_not_change():
    model = Toy()
    # the role stays without an optimizer: no error, it exists but is frozen
    model.embed.weight.requires_grad_(False)
    model.q.weight.requires_grad_(False)
    before = model.embed.weight.clone(), model.q.weight.clone()
    optimizer = by_role(model, MUON)
    train(model, optimizer, range(2))
    assert "embed" not in optimizer.optimizers
    assert torch.equal(model.embed.weight, before[0])
    assert torch.equal(model.q.weight, before[1])
    assert "q.weight" not in optimizer.state_tree()["parameters"]


@pytest.mark.parametrize("hidden", [MUON, ADAMW])
def test_parameters_without_gradient_are_named_once(hidden, caplog):
    model = Toy()
    optimizer, before = by_role(model, hidden), model.k.weight.clone()
    for seed in range(2):
        backward(model, seed)
        model.k.weight.grad = None
        optimizer.step()
    (line,) = caplog.messages
    assert line.startswith("warning: no gradient in the first step: k.weight (")
    assert torch.equal(model.k.weight, before)


def test_a_block_that_matches_nothing_is_refused_and_null_is_the_way_out():
    listed = [entry for entry in Toy().listed() if entry[2].name != "scalar"]
    with pytest.raises(ValueError, match="scalar: matches no parameter"):
        ByRole(listed, hidden=MUON, embed=ADAMW, head=ADAMW, scalar=ADAMW)
    assert ByRole(listed, hidden=MUON, embed=ADAMW, head=ADAMW, scalar=None).param_groups


def test_a_role_without_optimizer_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"head: no optimizer for this role, which head\.weight has"
    ):
        ByRole(Toy().listed(), hidden=MUON, embed=ADAMW, head=None, scalar=ADAMW)


@pytest.mark.parametrize("twice", ["name", "parameter"])
def test_a_parameter_listed_twice_is_refused(twice):
    listed = Toy().listed()
    name, p, role = listed[0]
    again = (name, nn.Parameter(p.clone()), role) if twice == "name" else ("other", p, role)
    listed.append(again)
    with pytest.raises(ValueError, match="listed twice"):
        ByRole(listed, hidden=MUON, embed=ADAMW, head=ADAMW, scalar=ADAMW)


def test_an_optimizer_that_drops_a_parameter_is_found_out():
    def forgetful(groups):
        groups[0]["params"] = groups[0]["params"] + [nn.Parameter(torch.zeros(2, 2))]
        return MUON(groups)

    with pytest.raises(ValueError, match="own 8 parameters"):
        by_role(Toy(), forgetful)


def test_all_frozen_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        by_role(Toy().requires_grad_(False))


def test_unknown_role_is_refused():
    listed = Toy().listed()
    listed[0] = (*listed[0][:2], Role("expert", "up"))
    with pytest.raises(ValueError, match=r"unknown roles \['expert'\]"):
        ByRole(listed, hidden=MUON, embed=ADAMW, head=ADAMW, scalar=ADAMW)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (partial(torch.optim.AdamW, lr=math.inf), "hidden: lr=inf must be a finite"),
        (partial(torch.optim.AdamW, lr=math.nan), "hidden: Invalid learning rate: nan"),
        (partial(torch.optim.AdamW, lr=1e-3, weight_decay=math.inf), "hidden: weight_decay=inf"),
        (
            partial(torch.optim.AdamW, lr=1e-3, betas=[0.9, 1.5]),
            "hidden: Invalid beta parameter at index 1: 1.5",
        ),
        (partial(Muon, lr=-1.0), "hidden: lr=-1.0 must be"),
        (lambda groups: groups, "hidden: list has no param_groups"),
    ],
)
def test_values_out_of_range_are_refused_under_the_roles_name(hidden, message):
    with pytest.raises(ValueError, match=message):
        by_role(Toy(device="meta"), hidden)


@pytest.mark.parametrize("lr_scale", [0.0, -1.0, math.nan, math.inf])
def test_lr_scale_out_of_range_is_refused(lr_scale):
    with pytest.raises(ValueError, match="lr_scale"):
        by_role(Toy(), lr_scale=lr_scale)


@pytest.mark.parametrize("hidden", [torch.optim.NAdam, torch.optim.SGD])
def test_optimizers_without_a_preset_resume_bit_for_bit(hidden):
    assert_resumes(lambda model: by_role(model, partial(hidden, lr=1e-3)))


@pytest.mark.faults(26)
def test_state_is_found_by_name_when_parameters_come_in_another_order():
    model = Toy()
    optimizer = by_role(model, MUON)
    train(model, optimizer, range(3))
    tree = saved(optimizer.state_tree())
    reordered = ByRole(reversed(model.listed()), hidden=MUON, embed=ADAMW, head=ADAMW, scalar=ADAMW)
    reordered.load_state_tree(tree)
    for name, state in reordered.state_tree()["parameters"].items():
        assert_equal_trees(state, tree["parameters"][name])


@pytest.mark.faults(30)
def test_loading_keeps_the_configs_hyperparameters():
    model = Toy()
    optimizer = by_role(model, MUON)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * 0.1
    train(model, optimizer, range(2))
    again = by_role(model, partial(Muon, lr=0.7, momentum=0.5), lr_scale=2.0)
    again.load_state_tree(saved(optimizer.state_tree()))
    group = again.param_groups[0]
    assert (group["lr"], group["initial_lr"], group["momentum"]) == (1.4, 1.4, 0.5)


def test_loading_does_not_share_memory_with_the_tree():
    model = Toy()
    optimizer = by_role(model, MUON)
    train(model, optimizer, range(2))
    tree = saved(optimizer.state_tree())
    kept = saved(tree)
    optimizer.load_state_tree(tree)
    train(model, optimizer, range(2))
    assert_equal_trees(tree, kept)


class Counting(torch.optim.SGD):
    """Keeps what foreign optimizers keep: nested state, None, and changing numbers in the group."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group["weight_sum"] = group.get("weight_sum", 0.0) + group["lr"] ** 2
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("nested", [torch.zeros(2), [], None, {"seen": 0, "name": "x"}])
                state["nested"][0] += 1
                state["nested"][3]["seen"] += 1
        super().step(closure)


def test_nested_state_and_numbers_in_the_group_survive():
    model = Toy()
    hidden = partial(Counting, lr=0.1)
    optimizer = by_role(model, hidden)
    train(model, optimizer, range(3))
    tree = saved(optimizer.state_tree())
    assert tree["groups"]["hidden/q/2"]["k"] == 3

    again = by_role(model, hidden)
    train(model, again, range(1))  # what it did before loading must not show
    again.load_state_tree(tree)
    assert_equal_trees(again.state_tree(), tree)
    assert again.state_tree()["parameters"]["q.weight"]["nested"][3] == {"seen": 3, "name": "x"}

    fresh = by_role(model, hidden)
    again.load_state_tree(fresh.state_tree())  # back to the start: k is gone again
    assert "k" not in again.param_groups[0]


def test_state_that_cannot_be_saved_names_the_role_and_the_optimizer():
    class Opaque(torch.optim.SGD):
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                self.state[p]["callable"] = print

    model = Toy()
    with pytest.raises(  # at the first step, not hours later at the first checkpoint
        ConfigError, match=r"optim.hidden: .*Opaque: a builtin_function_or_method cannot be saved"
    ):
        train(model, by_role(model, partial(Opaque, lr=0.1)), range(1))


def test_state_where_no_checkpoint_sees_it_is_refused():
    class Counting(torch.optim.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr)
            self.k, self.generator = 0, torch.Generator()
            self.kept = [p for group in self.param_groups for p in group["params"]]
            self.slow = [torch.zeros(3, dtype=torch.bfloat16)]

        def step(self, closure=None):
            super().step(closure)
            self.k += 1
            if self.k == 2:
                self.slow[0][1] = 1
                torch.rand(1, generator=self.generator)

    class Scratch(Counting):
        scratch = ("k",)

    with pytest.raises(ConfigError, match=r"optim\.hidden: .*Counting changes self\.k, which no"):
        train(model := Toy(), by_role(model, partial(Counting, lr=0.1)), range(1))
    model = Toy()
    train(model, optimizer := by_role(model, partial(Scratch, lr=0.1)), range(1))
    train(model, optimizer, range(1, 2))
    with pytest.raises(ConfigError, match=r"Scratch changes self\.generator, self\.slow, which"):
        optimizer.state_tree()


def test_momentum_keeps_its_dtype_and_bf16_parameters_resume_exactly():
    model = Toy().bfloat16()
    optimizer = by_role(model, partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    train(model, optimizer, range(2))
    tree = saved(optimizer.state_tree())
    # fp32; bf16 would round it
    tree["parameters"]["q.weight"]["momentum_buffer"] = torch.full((8, 8), 1 / 3)
    optimizer.load_state_tree(tree)
    assert (
        optimizer.state_tree()["parameters"]["q.weight"]["momentum_buffer"].dtype == torch.float32
    )
    assert torch.equal(
        optimizer.optimizers["hidden"].state[model.q.weight]["momentum_buffer"],
        torch.full((8, 8), 1 / 3),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tree: tree["like"].pop("q.weight"),
            r"parameters: q.weight absent -> float32 \(8, 8\)",
        ),
        (
            lambda tree: tree["like"].update({"q.weight": "float32 (8, 4)"}),
            r"q.weight float32 \(8, 4\) -> float32 ",
        ),
        (lambda tree: tree["like"].update(extra="float32 (2,)"), r"extra float32 \(2,\) -> absent"),
        (
            lambda tree: tree["optimizers"].update(hidden="torch.SGD"),
            "hidden torch.SGD -> minigpt.Muon",
        ),
        (lambda tree: tree["groups"].pop("hidden/q/2"), "groups: hidden/q/2 absent"),
        (lambda tree: tree["groups"].update({"hidden/q/2": None}), "does not fit: TypeError"),
    ],
)
@pytest.mark.faults(26)
def test_state_that_does_not_fit_is_refused_and_nothing_is_loaded(change, message):
    model = Toy()
    optimizer = by_role(model, MUON)
    train(model, optimizer, range(2))
    tree = saved(optimizer.state_tree())
    change(tree)
    again = by_role(model, MUON)
    with pytest.raises(CheckpointError, match=message):
        again.load_state_tree(tree)
    assert all(not state for state in again.state_tree()["parameters"].values())


class Averaging(torch.optim.SGD):
    """Swaps the weights for evaluation and loses bits on the way back, as schedule-free does."""

    def eval(self):
        for p in self.param_groups[0]["params"]:
            p.data.mul_(0.1)

    def train(self):
        for p in self.param_groups[0]["params"]:
            p.data.div_(0.1)


def test_evaluation_weights_are_swapped_in_and_the_training_weights_come_back_exactly():
    model = Toy()
    optimizer = by_role(model, partial(Averaging, lr=0.1))
    before = [p.clone() for p in model.parameters()]
    optimizer.eval()
    optimizer.eval()
    assert torch.equal(model.q.weight, before[2] * 0.1)
    optimizer.train()
    assert all(map(torch.equal, model.parameters(), before))


def test_zero_grad_and_state_bytes():
    model = Toy()
    optimizer = by_role(model, MUON)
    assert optimizer.state_bytes() == 0
    backward(model, 0)
    optimizer.step()
    n_hidden = sum(p.numel() for _, p, role in model.listed() if role.name == "hidden")
    n_rest, n_rest_tensors = sum(p.numel() for p in model.parameters()) - n_hidden, 3
    # AdamW: two moments, and a step count for each tensor
    assert optimizer.state_bytes() == 4 * (n_hidden + 2 * n_rest + n_rest_tensors)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.faults(47)
def test_a_grad_scaler_unscales_all_roles_at_once():
    model = Toy()
    optimizer = by_role(model, MUON)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    backward(model, 0)
    expected = [p.grad.clone() for p in model.parameters()]
    scaler.scale(torch.zeros(()))  # makes the scale exist
    for p in model.parameters():
        p.grad *= 8
    scaler.unscale_(optimizer)
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected))


@pytest.mark.parametrize(
    ("hidden", "exponent", "expected"),
    [
        (ADAMW, None, 1.0),
        (partial(Muon, lr=1e-2, weight_decay=0.1), None, 0.0),
        (partial(Muon, lr=1e-2, weight_decay=0.1, scale="match_rms_adamw"), None, 0.5),
        (ADAMW, 0.25, 0.25),
    ],
)
def test_a_wider_model_gets_the_lr_of_its_optimizer_and_the_same_lr_times_decay(
    hidden, exponent, expected
):
    model = Toy()
    listed = [
        (n, p, replace(role, width_multiplier=4.0 if role.name in ("hidden", "head") else 1.0))
        for n, p, role in model.listed()
    ]
    groups = ByRole(
        listed, hidden, ADAMW, ADAMW, ADAMW, hidden_width_exponent=exponent
    ).param_groups
    factors = {group["role"]: 1e-2 / group["initial_lr"] for group in groups}
    assert factors == pytest.approx(
        {"hidden": 4.0**expected, "embed": 1.0, "head": 4.0, "scalar": 1.0}
    )
    assert all(
        group["initial_lr"] * group["weight_decay"] == pytest.approx(1e-3) for group in groups
    )


class Silent(torch.optim.AdamW):
    """An optimizer of someone else's: what it adds to its base may be a matrix product."""


class Telling(Silent):
    def flops_per_step(self):
        return 123


@pytest.mark.parametrize(
    ("hidden", "flops"),
    [
        (ADAMW, 0),
        (partial(torch.optim.SGD, lr=0.1), 0),
        (partial(Lion, lr=0.1), 0),
        (partial(Silent, lr=0.1), None),
        (partial(torch.optim.Muon, lr=0.1), None),
        (partial(Telling, lr=0.1), 123),
    ],
)
def test_the_flops_of_an_optimizer_are_known_where_it_tells_or_is_elementwise(hidden, flops):
    assert by_role(Toy(device="meta"), hidden).flops_per_step() == flops
