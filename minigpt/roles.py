"""What a parameter is for. Optimizers choose by role and never by shape."""

from dataclasses import dataclass
from typing import Literal

RoleName = Literal["hidden", "embed", "head", "scalar"]
ROLES: tuple[RoleName, ...] = ("hidden", "embed", "head", "scalar")


def scaled_lr(lr: float, scale: float) -> float:
    """lr * scale to 12 digits: 0.02 x 0.35 is the 0.007 that one would type, also in a run's id."""
    return float(f"{lr * scale:.12g}")


@dataclass(frozen=True)
class Role:
    """The role of one parameter, with what an optimizer needs to split it."""

    # hidden: matrices inside blocks; embed: also a tied head; scalar: gains, anything below 2-D
    name: RoleName
    kind: str  # which matrix it is: q, k, v, o, gate, up, down, embed, head, gain, ...
    n_heads: int = 1  # attention heads in its rows (q, k, v) or columns (o)
    # how many times wider its input is than the width at which learning rates were chosen;
    # 1 where the parametrization of the model does not scale with width
    width_multiplier: float = 1.0
