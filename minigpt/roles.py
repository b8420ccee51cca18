"""What a parameter is for. Optimizers choose by role and never by shape."""

from dataclasses import dataclass
from typing import Literal

RoleName = Literal["hidden", "embed", "head", "scalar"]
ROLES: tuple[RoleName, ...] = ("hidden", "embed", "head", "scalar")


def scaled_lr(lr: float, scale: float) -> float:
    """lr * scale to 12 digits, so that 0.02 x 0.35 is the 0.007 that one would type, in a run's id
    and its steps.
    """
    return float(f"{lr * scale:.12g}")


@dataclass(frozen=True)
class Role:
    """The role of one parameter, with what an optimizer needs to split it.

    name: hidden (matrices inside blocks), embed (a tied head included), head, or scalar (gains,
        anything below 2-D).
    kind: which matrix it is: q, k, v, o, gate, up, down, embed, head, gain, ...
    n_heads: how many attention heads its rows (q, k, v) or columns (o) hold; 1 elsewhere.
    width_multiplier: how many times wider its input is than the width at which learning rates were
        chosen; 1 where the parametrization of the model does not scale with width.
    """

    name: RoleName
    kind: str
    n_heads: int = 1
    width_multiplier: float = 1.0
