"""Root-mean-square normalisation with a learned gain (Zhang and Sennrich 2019, eq. 4)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minigpt.model.autocast import product_dtype


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain over the last dimension, computed in fp32; any leading
    shape, same shape out.

    Under autocast the result has autocast's dtype, since matrix products read it: one cast here,
    not one in each.
    """

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled():
            y: Tensor = _RMSNorm.apply(x, self.gain, self.eps, product_dtype(x))
            return y
        y = F.rms_norm(x.to(self.gain.dtype), self.gain.shape, self.gain, self.eps)
        return y.to(product_dtype(x))

    def extra_repr(self) -> str:
        return f"{self.gain.numel()}, eps={self.eps}"


class _RMSNorm(torch.autograd.Function):
    """F.rms_norm for training on a CPU, where autograd would go through eight operations; twice as
    fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        mean_square = (
            torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
            / x.shape[-1]
        )
        scale = (mean_square + eps).rsqrt()
        ctx.save_for_backward(x, gain, scale)
        return torch.mul(x * scale, gain, out=torch.empty_like(x, dtype=dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """With n = x scale: dx = scale (g gain - n mean(g gain n)), dgain = sum of g n over all
        rows.

        n is never made: its scale, one number a row, goes to the small factor of each product.
        """
        x, gain, scale = ctx.saved_tensors
        gradient, size = gradient.float(), x.shape[-1]
        product = (gradient * x).view(-1, size)
        d_gain = scale.view(-1) @ product
        slope = (product @ gain.float()).view(scale.shape) * scale.pow(3) / size
        dx = (gradient * gain).mul_(scale).addcmul_(x, slope, value=-1)
        return dx.to(x.dtype), d_gain.to(gain.dtype), None, None
