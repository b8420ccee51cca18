"""By what arms are compared without a declaration: what the command line says, and habits."""

from dataclasses import dataclass

FIRST_CONFIRMATION_SEED = 100
ALPHA = 0.05


@dataclass(frozen=True)
class Rules:
    """Seeds from FIRST_CONFIRMATION_SEED on judge, those below choose.

    baseline: None: the arm that was typed first.
    """

    baseline: str | None = None
    margin: float = 0.0  # in the unit of the loss
    alpha: float = ALPHA

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    def confirms(self, seed: int) -> bool:
        """Whether a seed judges."""
        return seed >= FIRST_CONFIRMATION_SEED

    def tunes(self, seed: int) -> bool:
        """Whether a seed chooses."""
        return not self.confirms(seed)
