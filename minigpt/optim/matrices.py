"""The matrices of a step of Muon: which parts of the parameters are made orthogonal one by one."""

from collections import defaultdict
from typing import Any, NamedTuple

from torch import Tensor


class Matrix(NamedTuple):
    """One matrix to orthogonalise: a parameter or a part of it; tensors are 2-D views (R, C)."""

    group: dict[str, Any]
    state: dict[str, Any]  # of the whole parameter
    part: int  # which part of it
    weight: Tensor
    gradient: Tensor
    momentum: Tensor
    mu: float


def families(matrices: list[Matrix]) -> list[list[Matrix]]:
    """The matrices by equal settings; usually all in one list."""
    keys = ("lr", "weight_decay", "nesterov", "scale", "renormalise", "cautious")
    found: dict[Any, list[Matrix]] = defaultdict(list)
    for matrix in matrices:
        found[matrix.mu, *(matrix.group[key] for key in keys)].append(matrix)
    return list(found.values())


def direction(matrix: Matrix) -> Tensor:
    """What is to be orthogonalised: U of muon.py's docstring."""
    if not matrix.group["nesterov"]:
        return matrix.momentum
    return matrix.gradient.to(matrix.momentum.dtype).lerp(matrix.momentum, matrix.mu)


def matrices_of(tensor: Tensor, group: dict[str, Any]) -> tuple[Tensor, ...]:
    """The 2-D views of a parameter, gradient or momentum that are orthogonalised one by one."""
    if tensor.ndim == 3:
        return tensor.unbind()
    if tensor.ndim > 3:
        tensor = tensor.view(tensor.size(0), -1)
    n_heads, axis = group["n_heads"], 1 if group["kind"] == "o" else 0
    if group["split"] == "head" and n_heads > 1:
        if tensor.size(axis) % n_heads:
            raise ValueError(
                f"split=head: a matrix of shape {tuple(tensor.shape)} is not {n_heads} heads of "
                "equal size"
            )
        return tensor.chunk(n_heads, axis)
    return (tensor,)
