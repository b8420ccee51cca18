"""Muon (Keller Jordan et al., kellerjordan.github.io/posts/muon): momentum, made orthogonal.

For each weight matrix W (R, C) = (out, in) with gradient G:

    B  <- mu B + (1 - mu) G                      momentum, as a moving average
    U  <- mu B + (1 - mu) G   or B               Nesterov's look-ahead or not
    O  <- NewtonSchulz(U)                        singular values ~ 1: all directions move equally
    W  <- (1 - lr * weight_decay) W              decoupled decay
    W  <- W - lr * s(R, C) * O                   lr * s is the spectral norm of the update
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from minigpt import ranks
from minigpt.optim import shares
from minigpt.optim.batching import batches, orthogonalise_batch
from minigpt.optim.checks import check_choice, check_decays, check_finite
from minigpt.optim.matrices import Matrix, direction, families, matrices_of
from minigpt.optim.newton_schulz import EPSILON, Schedule, coefficients_of, dtype_of, flops
from minigpt.optim.together import by_shape, orthogonalise_blocks, room_for

WARMUP_MOMENTUM = 0.85  # where momentum warm-up begins (modded-nanogpt)
SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "spectral": lambda rows, columns: math.sqrt(rows / columns),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "none": lambda rows, columns: 1.0,
}


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices inside blocks.

    With ns_dtype="bf16" bit-identical to torch.optim.Muon on the CPU. Not for embeddings, heads,
    gains or biases (give those to AdamW), nor for a shard of a matrix.

    params: parameters, named parameters or group dicts. A group may say `kind` and `n_heads` (see
        `minigpt.roles`) for the split by heads.
    lr: spectral norm of one update (of a square matrix, where `scale` depends on the shape).
    weight_decay: W shrinks by lr * weight_decay a step; with `cautious` only where the update
        shrinks the entry too (cautious weight decay, arXiv 2510.12402).
    momentum, nesterov: mu above; during the first `momentum_warmup` steps mu rises linearly from
        0.85.
    momentum_dtype: "gradient" as torch does, or "fp32" (matters with bf16 parameters).
    ns_schedule, ns_steps: polynomials of Newton-Schulz and how many (None for the schedule's own
        number), see `newton_schulz.coefficients_of`.
    ns_dtype: auto takes bf16 where the hardware has it, else fp32.
    scale: s(R, C). original: sqrt(max(1, R/C)). spectral: sqrt(R/C). match_rms_adamw:
        0.2 sqrt(max(R, C)), which gives AdamW's update RMS, so that its lr fits (Moonlight, arXiv
        2502.16982). none: 1.
    renormalise: make ||O||_F exactly sqrt(min(R, C)), whatever band the schedule leaves.
    split: "head" orthogonalises every attention head on its own (rows of q, k, v, columns of o),
        "matrix" does not.

    A 3-D parameter is a stack of matrices; one of more dimensions is flattened to (R, C).
    In a process group every rank orthogonalises a share of the matrices (shares.py); all ranks must
    have the same gradients. A step whose gradients are not finite (or overflow the fp32 norm) is
    skipped whole: weights and state stay, and `skipped_steps` counts. Parameters without gradient
    are left alone, and `p.grad` is never written. With `checks_gradients = False` the caller has
    made sure that they are finite, and a GPU is not waited for.

    Raises ValueError for values out of range, and for parameters that are below 2-D or do not
    divide into heads.
    """

    checks_gradients = True

    scratch = ("skipped_steps",)  # a count for whoever steps it alone; the loop skips by itself

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        nesterov: bool = True,
        momentum_warmup: int = 0,
        momentum_dtype: Literal["gradient", "fp32"] = "gradient",
        ns_schedule: Schedule | list[list[float]] = "keller",
        ns_steps: int | None = None,
        ns_dtype: Literal["auto", "fp32", "bf16"] = "auto",
        scale: Literal["original", "spectral", "match_rms_adamw", "none"] = "original",
        renormalise: bool = False,
        cautious: bool = False,
        split: Literal["matrix", "head"] = "matrix",
    ) -> None:
        check_finite(lr=lr, weight_decay=weight_decay, momentum_warmup=momentum_warmup)
        check_decays(momentum=momentum)
        check_choice("momentum_dtype", momentum_dtype, ("gradient", "fp32"))
        check_choice("scale", scale, tuple(SCALES))
        check_choice("split", split, ("matrix", "head"))
        dtype_of(ns_dtype, "cpu")  # refuses an unknown name
        self.coefficients = coefficients_of(ns_schedule, ns_steps)
        self.ns_dtype, self.momentum_dtype = ns_dtype, momentum_dtype
        self.skipped_steps = 0
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "momentum_warmup": momentum_warmup, "scale": scale, "renormalise": renormalise,
            "cautious": cautious, "split": split, "kind": "", "n_heads": 1, "step": 0,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            if p.ndim < 2:
                raise ValueError(
                    f"Muon needs matrices, got a parameter of shape {tuple(p.shape)} "
                    "(give it to AdamW)"
                )
            if hasattr(p, "placements"):
                raise ValueError(
                    "Muon got a sharded parameter: a shard of a matrix has other singular vectors"
                )
            matrices_of(p, group)  # refuses what does not divide

    @property
    def width_exponent(self) -> float:
        """The power of the width by which lr falls, so that outputs move equally far.

        0, as lr is a spectral norm. match_rms_adamw multiplies that by sqrt(max(R, C)), which 0.5
        undoes.
        """
        return 0.5 if self.defaults["scale"] == "match_rms_adamw" else 0.0

    def flops_per_step(self) -> int:
        """FLOPs of Newton-Schulz in one step, without the tricks of the fast path."""
        return sum(
            flops(matrix.size(0), matrix.size(1), len(self.coefficients))
            for group in self.param_groups
            for p in group["params"]
            for matrix in matrices_of(p, group)
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        gradients = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        if not gradients:
            return loss
        if self.checks_gradients and not torch.nn.utils.get_total_norm(gradients).isfinite():
            self.skipped_steps += 1
            return loss

        matrices = self._accumulate()
        dtype = dtype_of(self.ns_dtype, gradients[0].device.type)
        if self.moves_together(gradients[0].device) and all(
            m.weight.dtype == m.momentum.dtype == torch.float32 for m in matrices
        ):
            for family in families(matrices):
                self._update_together(family, dtype)
            return loss
        shapes = [matrix.weight.shape for matrix in matrices]
        world_size = ranks.world_size()
        work = batches([matrix.weight for matrix in matrices], dtype, world_size)

        def orthogonalised(batch: Sequence[int]) -> list[Tensor]:
            directions, wanted = (direction(matrices[i]) for i in batch), [shapes[i] for i in batch]
            return orthogonalise_batch(directions, wanted, self.coefficients, dtype)

        if world_size > 1:
            updates = iter(
                shares.gathered(work, shapes, orthogonalised, dtype, gradients[0].device)
            )
        else:
            updates = map(orthogonalised, work)
        for batch, updates_of_batch in zip(work, updates, strict=True):
            for i, update in zip(batch, updates_of_batch, strict=True):
                self._apply(matrices[i], update)
        return loss

    def moves_together(self, device: torch.device) -> bool:
        """Whether launches are spared, at an fp32 copy of all matrices."""
        return device.type != "cpu" and ranks.world_size() == 1

    def _accumulate(self) -> list[Matrix]:
        """Take this step's gradients into the momentum. Returns the matrices."""
        matrices: list[Matrix] = []
        taken: dict[float, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for group in self.param_groups:
            mu = self._momentum_of_next_step(group)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, gradient = self.state[p], p.grad
                if not state:
                    dtype = torch.float32 if self.momentum_dtype == "fp32" else gradient.dtype
                    state["momentum_buffer"] = torch.zeros_like(gradient, dtype=dtype)
                buffer = state["momentum_buffer"]
                taken[mu][0].append(buffer)
                taken[mu][1].append(gradient.to(buffer.dtype))
                parts = (matrices_of(tensor, group) for tensor in (p, gradient, buffer))
                for i, (w, g, b) in enumerate(zip(*parts, strict=True)):
                    matrices.append(Matrix(group, state, i, w, g, b, mu))
        for mu, (momenta, gradients) in taken.items():
            torch._foreach_lerp_(momenta, gradients, 1 - mu)
        return matrices

    def _momentum_of_next_step(self, group: dict[str, Any]) -> float:
        step, mu = group["step"] + 1, float(group["momentum"])
        group["step"] = step
        if step < group["momentum_warmup"]:
            start = min(WARMUP_MOMENTUM, mu)
            return start + (mu - start) * step / group["momentum_warmup"]
        return mu

    def _update_together(self, matrices: list[Matrix], dtype: torch.dtype) -> None:
        """Move matrices of equal settings in few launches, as `_apply` would one by one."""
        matrices = sorted(matrices, key=lambda matrix: by_shape(matrix.weight.shape))
        group, weights = matrices[0].group, [matrix.weight for matrix in matrices]
        blocks = room_for([weight.shape for weight in weights], weights[0].device)
        updates = [update for block in blocks for update in block.unbind()]
        momenta = [matrix.momentum for matrix in matrices]
        if group["nesterov"]:
            torch._foreach_copy_(updates, [matrix.gradient for matrix in matrices])
            torch._foreach_lerp_(updates, momenta, matrices[0].mu)
        else:
            torch._foreach_copy_(updates, momenta)
        if group["renormalise"] or group["cautious"] or type(self)._adjust is not Muon._adjust:
            orthogonalise_blocks(blocks, self.coefficients, dtype)
            for matrix, update in zip(matrices, updates, strict=True):
                self._apply(matrix, update)
            return
        lr, weight_decay, scale = group["lr"], group["weight_decay"], SCALES[group["scale"]]
        if not weight_decay:
            orthogonalise_blocks(blocks, self.coefficients, dtype, scale)
            torch._foreach_add_(weights, updates, alpha=-lr)
            return
        # (1 - lr wd) W - lr s O is W moved by the part lr wd of its way to -s O / wd: one launch
        to_target = lambda rows, columns: -scale(rows, columns) / weight_decay
        orthogonalise_blocks(blocks, self.coefficients, dtype, to_target)
        torch._foreach_lerp_(weights, updates, lr * weight_decay)

    def _apply(self, matrix: Matrix, update: Tensor) -> None:
        """Decay and move one matrix by its orthogonal `update`."""
        group, weight = matrix.group, matrix.weight
        update = self._adjust(matrix, update)
        decay = group["lr"] * group["weight_decay"]
        if group["cautious"]:
            weight.addcmul_(weight, update * weight >= 0, value=-decay)
        else:
            weight.mul_(1 - decay)
        # Adding a transposed bf16 matrix takes 6x the time of copying it first. To a bf16 weight it
        # is added as it is: torch rounds the two ways differently, and torch.optim.Muon does so.
        if weight.dtype == torch.float32:
            update = update.contiguous()
        weight.add_(update, alpha=-group["lr"] * SCALES[group["scale"]](*weight.shape))

    def _adjust(self, matrix: Matrix, update: Tensor) -> Tensor:
        """Change the orthogonal matrix before it is scaled and applied; variants override this."""
        if not matrix.group["renormalise"]:
            return update
        return update * (math.sqrt(min(update.shape)) / update.float().norm().clamp(min=EPSILON))
