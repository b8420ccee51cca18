"""A feed-forward layer without a gate: a squared ReLU (So et al. 2021, "Primer")."""

import torch.nn.functional as F
from torch import Tensor, nn


class ReLUSquared(nn.Module):
    """relu(x up)^2 down, no biases; (B, T, D) -> (B, T, D).

    At equal d_ff it has two thirds of SwiGLU's parameters. To compare at equal size, set model.d_ff
    to 4 d_model.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())
