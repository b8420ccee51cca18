"""Muon (Keller Jordan et al., kellerjordan.github.io/posts/muon): momentum, then the nearest orthogonal matrix.

For each weight matrix W (R, C) = (out, in) with gradient G:

    B  <- mu B + (1 - mu) G                      momentum, as a moving average
    U  <- mu B + (1 - mu) G   or B               Nesterov's look-ahead or not
    O  <- NewtonSchulz(U)                        all singular values ~ 1: every direction moves equally far
    W  <- (1 - lr * weight_decay) W              decoupled decay
    W  <- W - lr * s(R, C) * O                   lr is in units of spectral norm per update (times s)
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from minigpt.optim.batching import orthogonalise_all
from minigpt.optim.newton_schulz import Schedule, coefficients_of, dtype_of

Scale = Literal["original", "spectral", "match_rms_adamw", "none"]


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices inside blocks; with ns_dtype="bf16" bit-identical to torch.optim.Muon on the CPU.

    Not for embeddings, heads, gains or biases (give those to AdamW), nor for a local shard of a matrix.

    params: parameters, named parameters or group dicts.
    lr: spectral norm of one update of a square matrix (scale original, spectral, none).
    weight_decay: W shrinks by lr * weight_decay a step.
    ns_schedule, ns_steps: polynomials of Newton-Schulz, see `newton_schulz.coefficients_of`; None = its own count.
    ns_dtype: auto takes bf16 where the hardware has it, else fp32.
    scale: s(R, C) = original sqrt(max(1, R/C)), spectral sqrt(R/C), match_rms_adamw 0.2 sqrt(max(R, C)) (the update's
        RMS is AdamW's, so AdamW's lr fits: Moonlight, arXiv 2502.16982), none 1.

    A step whose gradients are not finite (or overflow the fp32 norm) is skipped whole: weights and state stay, and
    `skipped_steps` counts. Parameters without gradient are left alone, `p.grad` is never written.
    Raises ValueError for values out of range and for parameters below 2-D.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_schedule: Schedule | list[list[float]] = "keller",
        ns_steps: int | None = None,
        ns_dtype: Literal["auto", "fp32", "bf16"] = "auto",
        scale: Scale = "original",
    ) -> None:
        for key, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{key}={value} must be a finite number >= 0")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum={momentum} must be in [0, 1)")
        if scale not in _SCALES:
            raise ValueError(f"scale={scale!r} is none of {', '.join(_SCALES)}")
        dtype_of(ns_dtype, "cpu")  # refuses an unknown name
        self.coefficients = coefficients_of(ns_schedule, ns_steps)
        self.ns_dtype = ns_dtype
        self.skipped_steps = 0
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "scale": scale}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.ndim < 2:
                raise ValueError(f"Muon needs matrices, got a parameter of shape {tuple(p.shape)} (give it to AdamW)")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        jobs = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not jobs:
            return loss
        if not torch.nn.utils.get_total_norm([p.grad for _, p in jobs]).isfinite():
            self.skipped_steps += 1
            return loss
        directions = [self._direction(group, p) for group, p in jobs]
        updates = orthogonalise_all(directions, self.coefficients, dtype_of(self.ns_dtype, directions[0].device.type))
        for (group, p), update in zip(jobs, updates, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"] * _SCALES[group["scale"]](*p.shape))
        return loss

    def _direction(self, group: dict[str, Any], p: Tensor) -> Tensor:
        """Update the momentum of `p` and return what is to be orthogonalised."""
        gradient, momentum = p.grad, group["momentum"]
        assert gradient is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum) if group["nesterov"] else buffer


_SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "spectral": lambda rows, columns: math.sqrt(rows / columns),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "none": lambda rows, columns: 1.0,
}
