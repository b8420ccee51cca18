"""SwiGLU for training on a CPU: the bits of the plain layer with half its memory.

tests/model/test_cpu_kernels.py compares the two.

N rows (batch times sequence), D model, F feed-forward.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class RecomputingSwiGLU(torch.autograd.Function):
    """The backward pass computes what `down` reads again, in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """x (N, D) in `dtype`; gate, up (F, D) and down (D, F) in any -> (N, D) in `dtype`."""
        gated, lifted = x @ gate.to(dtype).T, x @ up.to(dtype).T  # (N, F)
        ctx.save_for_backward(x, gate, up, down, gated, lifted)
        return F.silu(gated).mul_(lifted) @ down.to(dtype).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        """With s = silu(x gate), h = x up, y = s h and dy = g down: dh = dy s, ds = dy h."""
        x, *weights, gated, lifted = ctx.saved_tensors
        # cast again: kept, the copies take half of the weights' bytes
        gate, up, down = (weight.to(x.dtype) for weight in weights)
        s = F.silu(gated)
        d_down = gradient.T @ (s * lifted)
        dy = gradient @ down
        d_gated = torch.ops.aten.silu_backward(dy * lifted, gated)
        d_lifted = dy.mul_(s)
        dx = (d_gated @ gate).add_(d_lifted @ up)
        d_weights = (d_gated.T @ x, d_lifted.T @ x, d_down)
        return dx, *(d.to(weight.dtype) for d, weight in zip(d_weights, weights)), None
