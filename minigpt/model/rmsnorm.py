"""Root-mean-square normalisation with a learned gain (Zhang and Sennrich 2019, eq. 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.model.autocast import product_dtype
from minigpt.model.cpu.rmsnorm import FusedRMSNorm


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain over the last dimension, in fp32; (..., D) -> (..., D).

    Under autocast the result has autocast's dtype: one cast here instead of one in each matrix
    product that reads it. Training on a CPU takes the kernel.
    """

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled():
            y: Tensor = FusedRMSNorm.apply(x, self.gain, self.eps, product_dtype(x))
            return y
        y = F.rms_norm(x.to(self.gain.dtype), self.gain.shape, self.gain, self.eps)
        return y.to(product_dtype(x))
