"""Rotary position embedding for training on a CPU: the bits of `rope.rotate_reference`.

tests/model/test_cpu_kernels.py compares the two.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class RotateByRows(torch.autograd.Function):
    """Twice as fast as the reference, with passes over rows of H K values instead of K / 2.

    The gradient has the same bits too, except in bf16. There autograd adds two rounded halves, and
    this rounds once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, T, H, K), cos and sin (T, 1, K/2) -> (B, T, H, K)."""
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
