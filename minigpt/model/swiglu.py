"""The gated feed-forward layer of Llama (Shazeer 2020, "GLU variants improve Transformer", eq. 6).

B batch, T sequence, D model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.model.autocast import autocast_off, product_dtype
from minigpt.model.cpu.swiglu import RecomputingSwiGLU


class SwiGLU(nn.Module):
    """(silu(x gate) * x up) down, no biases; (B, T, D) -> (B, T, D).

    Training on a CPU takes the kernel. Another feed-forward layer is a class like this.
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
            with autocast_off(x):  # the kernel casts by hand
                y: Tensor = RecomputingSwiGLU.apply(x.to(dtype).flatten(0, -2), *weights, dtype)
            return y.view(x.shape)
        return self.down(F.silu(self.gate(x)) * self.up(x))
