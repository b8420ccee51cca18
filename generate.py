"""Text from a trained run. The text, prompt included, goes to stdout; everything else to stderr.

python generate.py prompt="To be, or not to be"
python generate.py run=outputs/<name>-<id> temperature=0 max_new_tokens=100
"""

import sys
from typing import TYPE_CHECKING

from minigpt.cli import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minigpt.cli.command import Inside


def checked(cfg: "DictConfig") -> "DictConfig":
    """The configuration. Raises ConfigError with every problem that shows without a model."""
    from minigpt.config.lazy_torch import load_torch

    load_torch()
    from minigpt.generate import command

    command.settings_of(cfg)
    return cfg


def generate(cfg: "DictConfig", _inside: "Inside") -> None:
    """Continue the prompt with the newest finished run, or with the one that was asked for."""
    from minigpt.generate import command

    command.generate(cfg)


def main() -> int:
    """The command; returns its exit code."""
    return entry.main(generate, "generate", checked, answers=True)


if __name__ == "__main__":
    sys.exit(main())
