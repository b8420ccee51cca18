"""Newton-Schulz: replace the singular values of a matrix by ones, by matrix products alone.

M = U S V^T becomes (nearly) U V^T, its polar factor. One iteration is

    X <- a X + (b A + c A A) X    with A = X X^T

It leaves U and V alone and applies s <- a s + b s^3 + c s^5 to every singular value. Dividing by
the Frobenius norm first puts all s into [0, 1], where the polynomials below push them towards 1.

This is the plain version; `batching.py` does many matrices at once.

Shapes: a matrix is (R, C) = (out, in); m = min(R, C), n = max(R, C). The iteration runs on the wide
orientation (m, n), where A is the small (m, m).
"""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from minigpt import formats
from minigpt.optim.checks import check_choice

Coefficients = Sequence[tuple[float, float, float]]
Schedule = Literal["keller", "polar_express", "exact"]
EPSILON = 1e-7  # floor of the norm: a zero matrix stays zero

# Keller Jordan's quintic (kellerjordan.github.io/posts/muon): steepest at 0, so tiny singular
# values rise fastest. It never converges, but after five steps every s >= 5e-3 is in 0.68-1.15.
KELLER = (3.4445, -4.7750, 2.0315)

# Polar Express (Amsel et al., arXiv 2505.16932), for s in [1e-3, 1]: each step has the minimax
# polynomial for the interval that the step before left. Beyond 1 the composition explodes, and bf16
# does round above 1. So each polynomial but the last, convergent one sees s / 1.01 (their safety
# factor).
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
POLAR_EXPRESS = (
    *((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _POLAR_EXPRESS),
    (1.875, -1.25, 0.375),
)

# Fixed point at s = 1 with zero slope: converges to exactly 1, at more cost.
EXACT = (2.0, -1.5, 0.5)

SCHEDULES = {"keller": ((KELLER,), 5), "polar_express": (POLAR_EXPRESS, 5), "exact": ((EXACT,), 12)}


def coefficients_of(
    schedule: Schedule | list[list[float]], steps: int | None = None
) -> Coefficients:
    """The (a, b, c) of every iteration; past its end a schedule repeats its last polynomial.

    schedule: keller (5 unless `steps` says otherwise), polar_express (5), exact (12), or your own
        [[a, b, c], ...].

    Raises ValueError for an unknown name, a polynomial that is not three numbers, steps outside
    1..99, or polynomials that let a singular value explode (they would write NaN into the weights).
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            names = ", ".join(SCHEDULES)
            raise ValueError(
                f"ns_schedule={schedule!r} is none of {names} (or give a list of [a, b, c])"
            )
        polynomials, default_steps = SCHEDULES[schedule]
    else:
        if not schedule or any(len(polynomial) != 3 for polynomial in schedule):
            raise ValueError(f"ns_schedule={schedule} must be a non-empty list of [a, b, c]")
        polynomials = tuple((float(a), float(b), float(c)) for a, b, c in schedule)
        default_steps = len(polynomials)
    steps = default_steps if steps is None else steps
    if not 1 <= steps <= 99:
        raise ValueError(f"ns_steps={steps} is outside 1..99")
    coefficients = tuple(polynomials[min(i, len(polynomials) - 1)] for i in range(steps))
    for s in (i / 1000 for i in range(1011)):  # a little beyond 1, where bf16 can round to
        image = s
        for a, b, c in coefficients:
            image = a * image + b * image**3 + c * image**5
            if not abs(image) < 10:
                raise ValueError(
                    f"ns_schedule={schedule} with ns_steps={steps} diverges: "
                    f"singular value {s} explodes"
                )
    return coefficients


@cache
def dtype_of(ns_dtype: Literal["auto", "fp32", "bf16"], device_type: str) -> torch.dtype:
    """The dtype to iterate in. auto: bf16 where the hardware multiplies it itself, else fp32.

    bf16 costs 1-2 % of accuracy on a well-conditioned matrix (Muon does not notice). In hardware it
    is 2-3x as fast as fp32; where it is emulated it is slower.
    """
    check_choice("ns_dtype", ns_dtype, ("auto", "fp32", "bf16"))
    if ns_dtype == "auto":
        return torch.bfloat16 if formats.native_bf16(device_type) else torch.float32
    return formats.torch_dtype(ns_dtype)


def orthogonalise(
    matrix: Tensor, coefficients: Coefficients = (KELLER,) * 5, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The polar factor of one (R, C) matrix, in `dtype`; the input is not changed.

    In bf16 it is bit for bit what torch.optim.Muon computes. A norm that overflows fp32 gives
    zeros, NaN gives NaN: check before (Muon does).
    """
    x = wide(normalised(matrix, dtype))
    for a, b, c in coefficients:
        gram = x @ x.T  # (m, m)
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)  # b A + c A A
        x = torch.addmm(x, polynomial, x, beta=a)  # a X + (b A + c A A) X
    return turned(x, matrix.shape)


def normalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A fresh copy in `dtype` with Frobenius norm 1, hence all singular values within [0, 1]."""
    x = matrix.to(dtype, copy=True)
    return x.div_(x.norm().clamp(min=EPSILON))


def wide(matrix: Tensor) -> Tensor:
    """(R, C) -> (m, n), a view."""
    return matrix.T if matrix.size(0) > matrix.size(1) else matrix


def turned(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """A wide matrix (m, n) -> `shape` (R, C), a view."""
    rows, columns = shape
    return matrix.T if rows > columns else matrix


def flops(rows: int, columns: int, steps: int) -> int:
    """FLOPs (two per multiply-add) to orthogonalise one (R, C) matrix.

    Per step A = X X^T takes 2 m^2 n, A A takes 2 m^3, and the update of X 2 m^2 n.
    """
    m, n = sorted((rows, columns))
    return steps * (4 * m * m * n + 2 * m**3)
