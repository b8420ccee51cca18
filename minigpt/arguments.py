"""Command lines of the tools beside the three scripts."""

import argparse
import os
import sys
from typing import NoReturn

from minigpt.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse with our errors: a ConfigError, so one line and exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"arguments: {message} (see {self.prog} --help)")


def reader_has_gone() -> None:
    """After a BrokenPipeError: let Python's own flush at the end go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
