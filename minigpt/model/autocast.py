"""What autocast would do, for the places that cast by hand."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products of x: autocast's where it is on, else that of x."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):  # autocast does not know meta
        return torch.get_autocast_dtype(kind)
    return x.dtype


def autocast_off(x: Tensor) -> AbstractContextManager[None]:
    """Switches autocast off on x's device."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
