"""Every test runs without a network, without a wandb key, and with few threads on tiny models."""

import os
from pathlib import Path

import pytest

os.environ.update(WANDB_MODE="offline", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_SILENT="true")
os.environ.pop("WANDB_API_KEY", None)

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_signal_left() -> None:
    from minigpt import interrupt

    interrupt.clear()
