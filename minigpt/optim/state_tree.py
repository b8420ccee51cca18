"""Optimizer state as plain trees, and those as JSON beside a table of tensors: no pickle.

A tree is made of dicts with string keys, lists, tensors, numbers, strings, booleans and None. That
covers the optimizers of other packages too (SOAP nests lists of tensors and None).

Tensors keep their dtype: torch's `Optimizer.load_state_dict` would round an fp32 momentum to a bf16
parameter's dtype. They also keep their order in memory (a column-major eigenbasis, say). Files do
not record it, but the bits of later products depend on it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# {PERMUTED: order, "tensor": contiguous view}: in a file, a tensor that is not in C order
PERMUTED = "permuted dimensions"


def to_tree(value: Any) -> Any:
    """`value` as a tree; tensors are the live ones, not copies (tuples become lists).

    Raises TypeError for anything a checkpoint cannot hold.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_tree(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: to_tree(item) for key, item in value.items()}
    what = "dict with other keys than text" if isinstance(value, dict) else type(value).__name__
    raise TypeError(f"a {what} cannot be saved")


def from_tree(tree: Any, device: torch.device, scalars_on: torch.device | None = None) -> Any:
    """A deep copy of a tree with its tensors on `device`, dtypes kept.

    scalars_on: where an entry named `step` goes instead. (torch's optimizers count steps in a CPU
        tensor unless fused.)
    """
    if isinstance(tree, Tensor):
        return tree.detach().to(device, copy=True, memory_format=torch.preserve_format)
    if isinstance(tree, list):
        return [from_tree(item, device, scalars_on) for item in tree]
    if isinstance(tree, dict):
        of_steps = scalars_on or device
        return {
            key: from_tree(item, of_steps if key == "step" else device, scalars_on)
            for key, item in tree.items()
        }
    return tree


def bytes_of(tree: Any) -> int:
    """Bytes of all tensors of a tree, or of state that is not yet one."""
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, dict):
        tree = list(tree.values())
    return sum(bytes_of(item) for item in tree) if isinstance(tree, list | tuple) else 0


def encode(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """A tree as JSON. Its tensors go into `tensors`, keyed by their path."""
    if isinstance(tree, Tensor):
        order = sorted(range(tree.ndim), key=tree.stride, reverse=True)
        if not tree.is_contiguous() and tree.permute(order).is_contiguous():
            return encode({PERMUTED: order, "tensor": tree.permute(order)}, tensors, path)
        tensors[path] = tree
        return {"@tensor": path}
    if isinstance(tree, dict):
        pairs = [[key, encode(item, tensors, f"{path}/{key}")] for key, item in tree.items()]
        return {"@dict": pairs}
    if isinstance(tree, list):
        return [encode(item, tensors, f"{path}/{index}") for index, item in enumerate(tree)]
    if tree in (float("inf"), float("-inf")):
        return {"@float": str(tree)}
    return tree


def decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `encode`, of untrusted JSON: an error says that it was written otherwise."""
    if isinstance(node, list):
        return [decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "@tensor":
        return tensors[value]
    if kind == "@float":
        return float(value)
    tree = {key: decode(item, tensors) for key, item in value}
    if PERMUTED not in tree:
        return tree
    order = tree[PERMUTED]
    return tree["tensor"].permute([order.index(i) for i in range(len(order))])
