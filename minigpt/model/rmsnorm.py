"""Root-mean-square normalisation with a learned gain (Zhang and Sennrich 2019, eq. 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last dimension; any leading shape, same shape and dtype out."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.gain.shape, self.gain, self.eps)

    def extra_repr(self) -> str:
        return f"{self.gain.numel()}, eps={self.eps}"
