"""One role's optimizer: its parameters in groups, its lr and decay checked and scaled."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from torch import nn
from torch.optim import Optimizer

from minigpt.optim.checks import check_finite
from minigpt.roles import ROLES, Role, scaled_lr

# From group dicts to an optimizer: a class with its arguments bound, e.g.
# partial(torch.optim.AdamW, lr=1e-3).
BuildOptimizer = Callable[[list[dict[str, Any]]], Optimizer]
Listed = list[tuple[str, nn.Parameter, Role]]


def check_roles(listed: Listed, builders: dict[str, BuildOptimizer | None]) -> None:
    """Raises ValueError if roles and optimizers do not cover each other."""
    if not len({n for n, _, _ in listed}) == len({p for _, p, _ in listed}) == len(listed):
        raise ValueError(
            "a parameter is listed twice: list named_parameters(), where a tied weight appears once"
        )
    examples = {role.name: name for name, _, role in reversed(listed)}  # the first of each role
    if unknown := examples.keys() - set(ROLES):
        raise ValueError(f"unknown roles {sorted(unknown)}; roles are {', '.join(ROLES)}")
    for role_name, builder in builders.items():
        if builder is None and role_name in examples:
            raise ValueError(
                f"{role_name}: no optimizer for this role, which {examples[role_name]} has"
            )
        # no head at all: it is tied
        if builder is not None and role_name not in examples and role_name != "head":
            raise ValueError(
                f"{role_name}: matches no parameter of the model (set it to null if that is meant)"
            )
    if not any(p.requires_grad for _, p, _ in listed):
        raise ValueError("every parameter is frozen: nothing to train")


def check_step(optimizer: Any) -> None:
    """Raises ValueError for a class whose `step` cannot do without arguments, as LBFGS's."""
    step = signature(getattr(optimizer, "step", lambda self: None))
    needed = [
        p.name
        for p in list(step.parameters.values())[1:]
        if p.default is p.empty and p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(
            f"{optimizer.__name__}.step needs {', '.join(needed)}: the loop computes gradients "
            "once and calls step() (choose an optimizer that needs no closure)"
        )


def build_optimizer(
    role_name: str,
    builder: BuildOptimizer,
    groups: dict[Role, list[nn.Parameter]],
    lr_scale: float,
    width_exponent: float | None,
) -> Optimizer:
    """One role's optimizer, its groups checked and labelled; arguments as in `ByRole`."""
    labelled = [
        {"params": parameters, "role": role.name, "kind": role.kind, "n_heads": role.n_heads}
        for role, parameters in groups.items()
    ]
    kind = getattr(builder, "func", builder)
    # torch says with a RuntimeError what does not go together, as foreach and fused
    of_torch = str(getattr(kind, "__module__", "")).startswith("torch.optim")
    refusals = (ValueError, RuntimeError) if of_torch else (ValueError,)
    try:
        check_step(kind)
        optimizer = builder(labelled)
        if not hasattr(optimizer, "param_groups"):
            name = type(optimizer).__name__
            raise ValueError(f"{name} has no param_groups (derive it from torch.optim.Optimizer)")
        for group in optimizer.param_groups:
            check_finite(lr=group.get("lr"), weight_decay=group.get("weight_decay", 0.0))
    except refusals as error:
        raise ValueError(f"{role_name}: {error}") from error
    if width_exponent is None:
        width_exponent = getattr(optimizer, "width_exponent", 1.0)
    for group, role in zip(optimizer.param_groups, groups, strict=True):
        factor = role.width_multiplier**width_exponent
        group["lr"] = group["initial_lr"] = scaled_lr(group["lr"], lr_scale) / factor
        if group.get("weight_decay"):
            group["weight_decay"] *= factor
    return optimizer
