"""What all command lines share: errors of one line, and their exit codes."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from minigpt import streams
from minigpt.config.places import as_typed_here
from minigpt.errors import ConfigError, MinigptError
from minigpt.terminal import escape_controls


class Parser(argparse.ArgumentParser):
    """argparse with our errors: a ConfigError, so one line and exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog,
            description=as_typed_here(description),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def select_runs(self) -> None:
        """Add PATH... and --where, by which commands choose the runs that they read."""
        what = "run folders, or folders that hold them"
        self.add_argument("paths", metavar="PATH", nargs="+", type=Path, help=what)
        how: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
        self.add_argument("--where", metavar="KEY=VALUE", help="only such runs", **how)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"arguments: {message} (see {self.prog} --help)")


def exit_code_of(tool: Callable[[], int | None]) -> int:
    """Run a tool that answers on stdout and return its exit code; None is 0.

    An error that ends it is printed and gives its own exit code.
    """
    with streams.standard(must_arrive=True):
        try:
            return tool() or 0
        except MinigptError as error:
            report(error)
            return error.exit_code
        except KeyboardInterrupt:
            return 130


def report(error: MinigptError) -> None:
    """One line a problem on stderr."""
    for problem in error.problems:
        line = as_typed_here(" ".join(str(problem).split()))
        print(f"error: {escape_controls(line)}", file=sys.stderr)
