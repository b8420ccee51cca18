"""NorMuon (Li et al., arXiv 2510.05491): Muon whose update has rows of equal size over time.

An orthogonal matrix still has rows (neurons) of unequal norm. Per row, with O the orthogonal
update:

    v  <- beta2 v + (1 - beta2) mean over columns of O^2
    O' <- O / sqrt(v), rescaled to the Frobenius norm of O

This is Adam's second moment, one number a neuron. As the norm is kept, Muon's lr and scales keep
their meaning.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from minigpt.optim.checks import check_decays
from minigpt.optim.matrices import Matrix
from minigpt.optim.muon import Muon


class NorMuon(Muon):
    """Muon with one second moment per row.

    beta2: decay of the second moment, in [0, 1).
    muon: arguments of `minigpt.optim.muon.Muon`.
    """

    def __init__(self, params: Iterable[Any], *, beta2: float = 0.95, **muon: Any) -> None:
        check_decays(beta2=beta2)
        self.beta2 = beta2
        super().__init__(params, **muon)

    def _adjust(self, matrix: Matrix, update: Tensor) -> Tensor:
        update = super()._adjust(matrix, update).float()
        mean_square = update.square().mean(dim=1, keepdim=True)  # (R, 1)
        # one entry for each part of the parameter
        moments = matrix.state.setdefault("row_second_moments", [])
        if matrix.part == len(moments):
            moments.append(mean_square * (1 - self.beta2))
        else:
            moments[matrix.part].lerp_(mean_square, 1 - self.beta2)
        even = update / moments[matrix.part].sqrt().add_(1e-10)
        return even.mul_(update.norm() / even.norm().add_(1e-10))
