"""Lion (Chen et al., arXiv 2302.06675): the sign of an interpolation between momentum and gradient.

W  <- (1 - lr * weight_decay) W - lr * sign(beta1 B + (1 - beta1) G)
B  <- beta2 B + (1 - beta2) G
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from minigpt.optim.checks import check_finite


class Lion(torch.optim.Optimizer):
    """Every entry moves by exactly lr a step.

    So lr is 3-10x below AdamW's, and weight_decay as much above it.

    params: parameters, named parameters or group dicts.
    betas: beta1 and beta2 above, in [0, 1); None for 0.9 and 0.99.
    Raises ValueError for values out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: list[float] | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        betas = [0.9, 0.99] if betas is None else list(betas)
        check_finite(lr=lr, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas={betas} must be two numbers in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def flops_per_step(self) -> int:
        """FLOPs of matrix products: there are none."""
        return 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                buffer = state["momentum_buffer"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(buffer.lerp(p.grad, 1 - beta1).sign_(), alpha=-group["lr"])
                buffer.lerp_(p.grad, 1 - beta2)
        return loss
