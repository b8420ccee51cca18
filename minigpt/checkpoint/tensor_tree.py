"""Trees of tensors and plain values, such as optimizer state, as JSON beside a table of tensors."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def encode_tree(tree: Any, tensors: dict[str, "torch.Tensor"], path: str = "") -> Any:
    """A tree of tensors, numbers, text, None, lists and dicts as JSON.

    Tensors move to `tensors`, keyed by their path. Raises TypeError for anything else.
    """
    import torch

    if isinstance(tree, torch.Tensor):
        tensors[path] = tree.detach().cpu().contiguous()
        return {"@tensor": path}
    if isinstance(tree, Mapping):
        # Pairs, since state may have keys that JSON would turn into text.
        return {
            "@dict": [
                [key, encode_tree(value, tensors, f"{path}/{key}")] for key, value in tree.items()
            ]
        }
    if isinstance(tree, list | tuple):
        items = [encode_tree(value, tensors, f"{path}/{index}") for index, value in enumerate(tree)]
        return {"@tuple": items} if isinstance(tree, tuple) else items
    if isinstance(tree, float) and tree in (float("inf"), float("-inf")):
        return {"@float": str(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(
        f"optimizer state at {path} holds a {type(tree).__name__}, which checkpoints cannot express"
    )


def decode_tree(node: Any, tensors: Mapping[str, "torch.Tensor"]) -> Any:
    """The inverse of `encode_tree`."""
    if isinstance(node, list):
        return [decode_tree(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "@tensor":
        return tensors[value]
    if kind == "@dict":
        return {key: decode_tree(item, tensors) for key, item in value}
    if kind == "@tuple":
        return tuple(decode_tree(item, tensors) for item in value)
    return float(value)
