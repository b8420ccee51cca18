"""Text from a trained run. The text, prompt included, goes to stdout; everything else to stderr.

python generate.py prompt="To be, or not to be"
python generate.py run=outputs/<name>-<id> temperature=0 max_new_tokens=100
"""

import sys
from typing import TYPE_CHECKING

from minigpt.cli import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


def generate(cfg: "DictConfig") -> None:
    """Continue the prompt with the newest finished run, or with the one that was asked for."""
    from minigpt.config.lazy_torch import load_torch

    load_torch()
    from minigpt.generate import command

    command.generate(cfg)


def check(cfg: "DictConfig") -> None:
    """Every problem that shows without a model."""
    from minigpt.config.lazy_torch import load_torch

    load_torch()
    from minigpt.generate import command

    command.settings_of(cfg)


def before(cfg: "DictConfig", sweeping: bool) -> bool:
    """A single one has no folder of its own for Hydra to make: do it at once."""
    if not sweeping:
        generate(cfg)
    return not sweeping


def main() -> int:
    """The command; returns its exit code."""
    return entry.main(generate, "generate", check, before, answers=True)


if __name__ == "__main__":
    sys.exit(main())
