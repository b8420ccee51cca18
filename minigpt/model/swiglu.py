"""The gated feed-forward layer of Llama (Shazeer 2020, "GLU variants improve Transformer", eq. 6).

N rows (batch times sequence), D model, F feed-forward.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minigpt.model.autocast import autocast_off, product_dtype


class SwiGLU(nn.Module):
    """(silu(x gate) * x up) down, no biases; (B, T, D) -> (B, T, D). Another feed-forward is a
    class like this.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled():
            dtype = product_dtype(x)
            weights = (self.gate.weight, self.up.weight, self.down.weight)
            with autocast_off(x):  # the casts are made by hand
                y: Tensor = _SwiGLU.apply(x.to(dtype).flatten(0, -2), *weights, dtype)
            return y.view(x.shape)
        return self.down(F.silu(self.gate(x)) * self.up(x))


class _SwiGLU(torch.autograd.Function):
    """The same numbers with half the memory: what `down` reads is computed again in the backward
    pass, in place.
    """

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
        # again: kept, they take half of the weights' bytes
        gate, up, down = (weight.to(x.dtype) for weight in weights)
        s = F.silu(gated)
        d_down = gradient.T @ (s * lifted)
        dy = gradient @ down
        d_gated = torch.ops.aten.silu_backward(dy * lifted, gated)
        d_lifted = dy.mul_(s)
        dx = (d_gated @ gate).add_(d_lifted @ up)
        d_weights = (d_gated.T @ x, d_lifted.T @ x, d_down)
        return dx, *(d.to(weight.dtype) for d, weight in zip(d_weights, weights)), None
