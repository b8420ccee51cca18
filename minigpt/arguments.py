"""What command lines have in common: one-line errors with their exit codes, also for the tools beside the scripts."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from minigpt.errors import ConfigError, MinigptError
from minigpt.terminal import escape_controls


class Parser(argparse.ArgumentParser):
    """argparse with our errors: a ConfigError, so one line and exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"arguments: {message} (see {self.prog} --help)")


def exit_code_of(tool: Callable[[], int | None]) -> int:
    """Run a tool: its exit code (None is 0), or that of the error that ended it, which is printed."""
    try:
        return tool() or 0
    except MinigptError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        reader_has_gone()
        return 0


def report(error: MinigptError) -> None:
    """One line a problem on stderr."""
    for problem in error.problems:
        print(f"error: {escape_controls(' '.join(str(problem).split()))}", file=sys.stderr)


def reader_has_gone() -> None:
    """After a BrokenPipeError: let Python's own flush at the end go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
