"""Rotary position embedding (Su et al. 2021) in the "rotate half" layout of Llama.

B batch, H heads, T sequence, K head size.

The tables are a pure function of the positions, made anew in each forward pass (T * K / 2 cosines,
nothing beside one block). So there is no buffer that a cast to bf16 could round or a `meta`
construction could leave empty.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

RopeTable = tuple[Tensor, Tensor]


def rope_table(
    start: int, length: int, head_size: int, theta: float, device: torch.device
) -> RopeTable:
    """cos and sin of the angles of positions start .. start + length - 1, each (T, 1, K/2) in fp32.

    Pair i of a head turns by position / theta^(2i/K) radians (eq. 15). fp32 always: bf16 cannot
    even hold position 257.
    """
    pairs = torch.arange(0, head_size, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / theta ** (pairs / head_size)
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = positions[:, None, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: RopeTable) -> Tensor:
    """Turn queries or keys (B, T, H, K) by the angles of their positions: computed in fp32,
    returned as x.dtype.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled():
        y: Tensor = _Rotate.apply(x, *table)
        return y
    return rotate_reference(x, table)


def rotate_reference(x: Tensor, table: RopeTable) -> Tensor:
    """The plain way, and the one beside training on a CPU."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)  # pair i is (x[i], x[i + K/2])
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class _Rotate(torch.autograd.Function):
    """The same bits for training on a CPU in half the time: passes over rows of H K values instead
    of K/2.

    The gradient too, but for bf16, where autograd would add two rounded halves and this rounds
    once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None  # a rotation's inverse is its transpose


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    b, t, h, k = x.shape
    cosines = torch.cat((cos, cos), -1).expand(t, h, k).reshape(t, h * k)
    sines = torch.cat((-sin, sin), -1).expand(t, h, k).reshape(t, h * k)
    wide = x.reshape(b, t, h * k).to(torch.promote_types(x.dtype, cos.dtype))
    swapped = wide.view(b, t, h, k).roll(k // 2, -1).view(b, t, h * k)
    return (wide * cosines).add_(swapped.mul_(sines)).to(x.dtype).view(b, t, h, k)
