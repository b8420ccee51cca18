"""Rotary position embedding (Su et al. 2021) in the "rotate half" layout of Llama.

B batch, H heads, T sequence, K head size.

The tables are made anew in each forward pass: T * K / 2 cosines cost nothing beside one block. So
there is no buffer that a cast to bf16 could round or a `meta` construction could leave empty.
"""

import torch
from torch import Tensor

from minigpt.model.cpu.rope import RotateByRows

RopeTable = tuple[Tensor, Tensor]


def rope_table(
    start: int, length: int, head_size: int, theta: float, device: torch.device
) -> RopeTable:
    """cos and sin of the angles of positions start .. start + length - 1, each (T, 1, K/2) in fp32.

    Pair i of a head turns by position / theta^(2i/K) radians (eq. 15). Always in fp32: bf16 cannot
    even hold position 257.
    """
    pairs = torch.arange(0, head_size, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / theta ** (pairs / head_size)
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = positions[:, None, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: RopeTable) -> Tensor:
    """Turn queries or keys (B, T, H, K) by the angles of their positions.

    Computes in fp32 and returns x.dtype. Training on a CPU takes the kernel.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled():
        y: Tensor = RotateByRows.apply(x, *table)
        return y
    return rotate_reference(x, table)


def rotate_reference(x: Tensor, table: RopeTable) -> Tensor:
    """`rotate` in plain operations."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)  # pair i is (x[i], x[i + K/2])
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
