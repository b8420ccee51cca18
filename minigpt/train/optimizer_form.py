"""What an optimizer keeps, learnt from a step on stand-ins for the parameters."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.config import identity
from minigpt.config.build import build
from minigpt.errors import CheckpointError
from minigpt.optim.by_role import FROM_CONFIG, ByRole
from minigpt.optim.state_tree import to_tree
from minigpt.roles import Role

Form = tuple[tuple[int, ...], Role, bool]  # of a parameter: shape, role, whether it is trained


def stepped(optim: dict[str, Any], forms: Iterable[tuple[str, Form]]) -> ByRole:
    """The optimizer of a checked `optim` node on parameters of ones, after one step.

    forms: name and form of each parameter.
    """
    stand_ins = [
        (name, nn.Parameter(torch.ones(shape, device="cpu"), trained), role)
        for name, (shape, role, trained) in forms
    ]
    optimizer: ByRole = build(optim, stand_ins, drop=identity.shared_scalars("optim", optim))
    for _, stand_in, _ in stand_ins:
        stand_in.grad = torch.ones_like(stand_in)
    optimizer.step()
    return optimizer


def check_optimizer_state(
    tree: dict[str, Any], optim: dict[str, Any], model: nn.Module, where: Path
) -> None:
    """Raise CheckpointError unless a state tree has the form that training this model gives it.

    tree: as `ByRole.state_tree()` gives it, but of another run, which may say anything.
    One parameter of each role and shape stands in for all of them, so this takes little time.
    """
    roles = model.roles()  # type: ignore[operator]
    every = {
        name: (tuple(p.shape), roles[name], p.requires_grad) for name, p in model.named_parameters()
    }
    examples = {kind: name for name, kind in every.items()}
    with torch.random.fork_rng(devices=[]):
        optimizer = stepped(optim, [(name, kind) for kind, name in examples.items()])
    kinds = {name: kind for name, kind in every.items() if kind[2]}
    ours = optimizer.state_tree()
    like = {name: ours["like"][examples[kind]] for name, kind in kinds.items()}
    try:
        saved_parts = (tree["optimizers"], tree["like"], tree["groups"].keys())
        if saved_parts != (ours["optimizers"], like, ours["groups"].keys()):
            raise _misfit(where, "other optimizers, parameters or groups")
        for name, kind in kinds.items():
            saved = form_of(tree["parameters"][name])
            own = form_of(ours["parameters"][examples[kind]])
            if saved != own:
                raise _misfit(where, f"{name}: {saved} -> {own}")
        own_groups = {f"{g['role']}/{g['kind']}/{g['n_heads']}": g for g in optimizer.param_groups}
        for key, changed in tree["groups"].items():
            for setting, value in changed.items():
                fits = form_of(value) == form_of(to_tree(own_groups[key][setting]))
                if setting in FROM_CONFIG or not fits:
                    raise _misfit(where, f"{setting} of {key}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _misfit(where, f"{type(error).__name__} {error}") from None


def form_of(tree: Any) -> Any:
    """A state tree with dtype and shape in the place of tensors, and types of other values."""
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} {tuple(tree.shape)}"
    if isinstance(tree, dict):
        return {key: form_of(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [form_of(value) for value in tree]
    return type(tree).__name__


def _misfit(where: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"optimizer state does not fit: {where}: {why} "
        "(saved -> this run; branch=off looks at no other run)"
    )
