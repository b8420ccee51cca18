"""Optimizer state as plain trees, which a checkpoint can hold without pickle.

A tree is made of dicts with string keys, lists, tensors, numbers, strings, booleans and None. That
covers the optimizers of other packages too (SOAP nests lists of tensors and None).

Tensors keep their dtype: torch's `Optimizer.load_state_dict` would round an fp32 momentum to a bf16
parameter's dtype. They also keep their order in memory (a column-major eigenbasis, say), which
files do not record but the bits of later products depend on.
"""

from typing import Any

import torch
from torch import Tensor

# {PERMUTED: order, "tensor": contiguous view}: a tensor that is not in C order
PERMUTED = "permuted dimensions"


def to_tree(value: Any) -> Any:
    """`value` as a tree; tensors are the live ones, not copies (tuples become lists).

    Raises TypeError for anything a checkpoint cannot hold.
    """
    if isinstance(value, Tensor):
        value = value.detach()
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        if value.is_contiguous() or not value.permute(order).is_contiguous():
            return value
        return {PERMUTED: order, "tensor": value.permute(order)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_tree(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: to_tree(item) for key, item in value.items()}
    raise TypeError(f"a {type(value).__name__} cannot be saved")


def from_tree(tree: Any, device: torch.device, scalars_on: torch.device | None = None) -> Any:
    """A deep copy of a tree with its tensors on `device`, dtypes kept.

    scalars_on: where an entry named `step` goes instead. (torch's optimizers count steps in a CPU
        tensor unless fused.)
    """
    if isinstance(tree, Tensor):
        return tree.detach().to(device, copy=True, memory_format=torch.preserve_format)
    if isinstance(tree, list):
        return [from_tree(item, device, scalars_on) for item in tree]
    if isinstance(tree, dict) and PERMUTED in tree:
        order = tree[PERMUTED]
        inverse = [order.index(i) for i in range(len(order))]
        return from_tree(tree["tensor"], device).permute(inverse)
    if isinstance(tree, dict):
        of_steps = scalars_on or device
        return {
            key: from_tree(item, of_steps if key == "step" else device, scalars_on)
            for key, item in tree.items()
        }
    return tree


def bytes_of(tree: Any) -> int:
    """Bytes of all tensors of a tree."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        tree = list(tree.values())
    return sum(bytes_of(item) for item in tree) if isinstance(tree, list) else 0
