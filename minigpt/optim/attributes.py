"""What an optimizer keeps as attributes of its own, where no checkpoint sees it."""

import hashlib
from collections import deque
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# of every optimizer of torch; `state` and `param_groups` are among them
COMMON = frozenset(vars(torch.optim.SGD([torch.zeros(1)], lr=0.0)))


def fingerprints(optimizer: Optimizer, parameters: Collection[Tensor]) -> dict[str, Any]:
    """Attribute -> what it holds, in numbers, text, tensors, generators and collections of them.

    The model's parameters are left out, and what the class names in `scratch`: attributes that need
    not survive.
    """
    known = {id(p) for p in parameters}
    left_out = COMMON.union(getattr(optimizer, "scratch", ()))
    own = {name: value for name, value in vars(optimizer).items() if name not in left_out}
    return {name: seen for name, value in own.items() if (seen := _print(value, known))}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of the attributes that differ."""
    return sorted(name for name in {**before, **after} if before.get(name) != after.get(name))


def _print(value: Any, parameters: set[int]) -> Any:
    """None for what is not looked into."""
    if isinstance(value, torch.Generator):
        value = value.get_state()
    if isinstance(value, Tensor):
        if id(value) in parameters or value.is_meta:
            return None
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [str(value.dtype), list(value.shape), hashlib.sha256(content.tobytes()).hexdigest()]
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, dict):
        return {repr(key): _print(item, parameters) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_print(item, parameters) for item in value]
    return None
