"""The probe of the optimizer: what one step does to the matrices, per role and per kind.

It reads gradients before the step, weights and momentum after it. It writes to none of them and
draws no random number, so a run is bit-identical with and without it.
"""

import math
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minigpt.optim.by_role import ByRole
from minigpt.optim.newton_schulz import wide

MOMENTA = ("momentum_buffer", "exp_avg")  # Muon, SGD, Lion; the Adam family


class Microscope:
    """Probes single steps of a ByRole: `before()`, then the step, then `after()`.

    matrices_per_kind: of how many matrices of a kind (q, k, ...) the singular values are taken,
        evenly spread over the layers. That is what costs. Norms cover all matrices.
    """

    def __init__(self, optimizer: ByRole, matrices_per_kind: int = 3) -> None:
        if matrices_per_kind < 1:
            raise ValueError(f"matrices_per_kind={matrices_per_kind} must be >= 1")
        self.optimizer, self.matrices_per_kind = optimizer, matrices_per_kind
        self._row: dict[str, float] = {}
        self._weights: dict[nn.Parameter, Tensor] = {}
        self._seconds = 0.0

    @torch.no_grad()
    def before(self, clip_factor: float = 1.0) -> None:
        """Call it between clipping and the step.

        clip_factor: what the gradients were multiplied by (1: not clipped).
        """
        start = time.perf_counter()
        squares: dict[str, float] = defaultdict(float)
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                self._weights[p] = p.clone()
                square = 0.0 if p.grad is None else _sum_of_squares(p.grad)
                for prefix in _prefixes(group):
                    squares[f"{prefix}/gradient_norm"] += square
        self._row = {"probe/clipped_fraction": 1.0 - clip_factor}
        self._row |= {key: math.sqrt(square) for key, square in squares.items()}
        self._seconds = time.perf_counter() - start

    @torch.no_grad()
    def after(self) -> dict[str, float]:
        """The row to log, keys `probe/<role>[/<kind>]/<what>`. Call it before lr changes.

        For roles and kinds:
            gradient_norm   after clipping
            parameter_norm
            update_rms      of the change's entries, decay included
        For kinds of matrices, as means over those probed. U is the update without the decay, s are
        its singular values:
            relative_update         ||U||_2 / ||W||_2
            orthogonality_error     RMS of s^2 / mean(s^2) - 1; 0 if U is orthogonal
            singular_value_spread   (95 % quantile - 5 % quantile) / median of s
            stable_rank_momentum, stable_rank_weight   ||.||_F^2 / ||.||_2^2
        For the step:
            probe/clipped_fraction  share of the gradient's norm that clipping removed
            probe/time_s            what probing cost
        What is undefined (no momentum, a zero update) is left out.
        """
        assert self._weights, "call before() in front of the step"
        start = time.perf_counter()
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        spectra: dict[str, list[float]] = defaultdict(list)
        for optimizer in self.optimizer.optimizers.values():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    change = _sum_of_squares(p.float() - self._weights[p].float())
                    for prefix in _prefixes(group):
                        sums[f"{prefix}/parameter_norm"] += _sum_of_squares(p)
                        sums[f"{prefix}/update_rms"] += change
                        counts[f"{prefix}/update_rms"] += p.numel()
                matrices = [p for p in group["params"] if p.ndim >= 2]
                for p in _spread(matrices, self.matrices_per_kind):
                    for what, value in self._spectrum(optimizer, group, p).items():
                        spectra[f"{_prefixes(group)[-1]}/{what}"].append(value)
        self._row |= {key: math.sqrt(total / counts.get(key, 1)) for key, total in sums.items()}
        self._row |= {key: sum(values) / len(values) for key, values in spectra.items()}
        self._weights = {}
        return self._row | {"probe/time_s": self._seconds + time.perf_counter() - start}

    def _spectrum(
        self, optimizer: Optimizer, group: dict[str, Any], p: nn.Parameter
    ) -> dict[str, float]:
        weight = self._weights[p].float()
        update = p.float() - weight
        shrunk = weight * _decay(optimizer, group)
        # Cautious decay leaves an entry alone if the update grows it: if both have the same sign.
        update += shrunk * (update * weight <= 0) if group.get("cautious") else shrunk
        state = optimizer.state.get(p, {})
        momentum = next((state[key] for key in MOMENTA if key in state), None)

        s, of_weight = _singular_values(update), _singular_values(p)
        row: dict[str, float] = {}
        if of_weight[-1] > 0:
            row["relative_update"] = (s[-1] / of_weight[-1]).item()
            row["stable_rank_weight"] = _stable_rank(of_weight)
        if s.median() > 0:
            error = s.square() / s.square().mean() - 1
            row["orthogonality_error"] = error.square().mean().sqrt().item()
            spread = s.quantile(0.95) - s.quantile(0.05)
            row["singular_value_spread"] = (spread / s.median()).item()
        if momentum is not None and (of_momentum := _singular_values(momentum))[-1] > 0:
            row["stable_rank_momentum"] = _stable_rank(of_momentum)
        return row


def _prefixes(group: dict[str, Any]) -> tuple[str, str]:
    return f"probe/{group['role']}", f"probe/{group['role']}/{group['kind']}"


def _spread(parameters: list[nn.Parameter], count: int) -> list[nn.Parameter]:
    """`count` of them: the first, the last and evenly between; of one, that in the middle."""
    last = len(parameters) - 1
    if count > last:
        return parameters
    if count == 1:
        return [parameters[len(parameters) // 2]]
    return [parameters[round(i * last / (count - 1))] for i in range(count)]


def _decay(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """Share of the weight that decoupled decay took in this step; 0 if the gradient carries it."""
    decoupled = group.get("decoupled_weight_decay", group.get("weight_decouple", True))
    if not decoupled or isinstance(optimizer, torch.optim.SGD):
        return 0.0
    return group["lr"] * group.get("weight_decay", 0.0)


def _sum_of_squares(x: Tensor) -> float:
    return x.float().square().sum().item()


def _singular_values(matrix: Tensor) -> Tensor:
    """Ascending, by the eigenvalues of the small Gram matrix in float64.

    Much faster than an SVD, and good to 1e-8 of the largest.
    """
    x = matrix.detach().flatten(1)
    x = wide((x.cpu() if x.device.type == "mps" else x).double())  # MPS has no float64
    return torch.linalg.eigvalsh(x @ x.T).clamp(min=0).sqrt()


def _stable_rank(singular_values: Tensor) -> float:
    return (singular_values.square().sum() / singular_values[-1].square()).item()
