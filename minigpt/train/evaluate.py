"""Validation loss: the same windows in the same order every time, and no randomness at all.

Ranks take batches in turn and add up what they found.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn

from minigpt import ranks
from minigpt.config.precision import Precision
from minigpt.data.tokens import Split
from minigpt.data.windows import validation_batches
from minigpt.train.batches import to_device


@dataclass(frozen=True)
class Evaluation:
    loss: float  # nats per token
    bits_per_byte: float | None  # comparable across tokenizers; None without byte counts
    tokens: int  # scored
    own: dict[str, float] = field(default_factory=dict)  # by the model's own `metrics`, per token


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    seq_len: int,
    batch_size: int,
    precision: Precision,
    forward: Callable[..., torch.Tensor] | None = None,
    end_of_text: int | None = None,
    max_tokens: int | None = None,
    stop: Callable[[], object] = lambda: None,
) -> Evaluation | None:
    """Score the first `max_tokens` tokens of a split (None: all of it, tail window included).

    A model may have `metrics(inputs, targets, documents)`, which gives sums over the targets of a
    batch that are not -100, by name.
    forward: the model, compiled.
    end_of_text: given when attention stays inside documents.
    stop: asked before each batch; once it answers a rank with other than None, the result is None.
    """
    forward, was_training = model if forward is None else forward, model.training
    model.eval()
    nats: list[torch.Tensor] = []  # of each batch; read at the end, so that no batch is waited for
    own: dict[str, list[Any]] = defaultdict(list)
    metrics: Callable[..., dict[str, Any]] = getattr(model, "metrics", lambda *batch: {})
    tokens, stopped = 0, False
    batches = validation_batches(split, seq_len, batch_size, max_tokens, filled=precision.compile)
    batches = islice(batches, ranks.rank(), None, ranks.world_size())
    try:
        for batch in batches:
            if stopped := stop() is not None:
                break
            inputs, targets = (
                to_device(torch.from_numpy(array), precision.device) for array in batch
            )
            documents = documents_of(inputs, end_of_text)
            with precision.autocast():
                nats.append(forward(inputs, targets, documents))
                for name, value in metrics(inputs, targets, documents).items():
                    own[name].append(value)
            tokens += int((batch[1] != -100).sum())
    finally:
        model.train(was_training)
    part: dict[str, Any] = {
        "nats": sum(torch.stack(nats).tolist()) if nats else 0.0,
        "tokens": tokens,
        "stopped": stopped,
        "own": {name: sum(map(float, values)) for name, values in own.items()},
    }
    parts = ranks.values(part)
    if any(part["stopped"] for part in parts):
        return None
    tokens = sum(part["tokens"] for part in parts)
    loss = sum(part["nats"] for part in parts) / tokens
    predictable = split.n_tokens - 1
    bits_per_byte = loss * predictable / split.n_bytes / math.log(2) if split.n_bytes else None
    names = dict.fromkeys(name for part in parts for name in part["own"])
    means = {name: sum(part["own"].get(name, 0.0) for part in parts) / tokens for name in names}
    return Evaluation(loss, bits_per_byte, tokens, means)


def documents_of(tokens: torch.Tensor, end_of_text: int | None) -> torch.Tensor | None:
    """(B, T) number of each token's document, from the window's start; None: no mask."""
    return None if end_of_text is None else (tokens == end_of_text).cumsum(dim=1)
