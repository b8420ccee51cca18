"""The same weights in our model and in transformers'."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

V = 96


@pytest.fixture
def make_model() -> Callable[..., Transformer]:
    """A small model with drawn weights, gains too; arguments as in Transformer."""

    def make(**arguments: Any) -> Transformer:
        model = Transformer(
            V, **{"n_layers": 2, "d_model": 32, "n_heads": 4, "max_seq_len": 32, **arguments}
        )
        draw = generator(7, "init")
        with torch.no_grad():
            # far from the nearly uniform distribution of a fresh model, and a forgotten gain shows
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=draw)
                parameter.copy_(
                    1 + 0.3 * noise if parameter.ndim == 1 else noise * parameter.shape[1] ** -0.5
                )
        return model

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(V, (3, 17), generator=generator(1, "data"))
