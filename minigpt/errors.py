"""Errors for people: one line a problem, no traceback, an exit code per cause.

Every other exception is a bug and keeps its traceback. A message reads
`<what>: <which key or file> (<what to do>)` and is printed behind `error: `.
"""


class MinigptError(Exception):
    """Base of the errors that users can mend. `problems` holds one line each."""

    exit_code = 1
    told = False  # whether rank 0 of a run says it, for all of them

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ConfigError(MinigptError):
    """A key, value or combination of values that cannot work."""

    exit_code = 2


class DataError(MinigptError):
    """Text, tokens or tokenizer are missing, damaged or do not fit."""

    exit_code = 3


class CheckpointError(MinigptError):
    """A run or checkpoint is damaged, foreign or not the one that was asked for."""

    exit_code = 4


class NumericsError(MinigptError):
    """Training produced too many non-finite steps to go on."""

    exit_code = 5


class StorageError(MinigptError):
    """A file or folder cannot be written or read."""

    exit_code = 6


class BusyError(MinigptError):
    """Another process holds the folder."""

    exit_code = 7


class LostRank(MinigptError):
    """Another of the processes that train a run is gone, or does not answer."""


class JobFailed(MinigptError):
    """A job of a sweep failed. Its process has reported why."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(MinigptError):
    """A signal asked to stop; what was computed is saved. Exit code 128 + signal number."""

    def __init__(self, signal_number: int, *problems: str) -> None:
        super().__init__(*problems)
        # Ctrl-C is 130; every other stop signal (TERM, HUP, USR1) counts as "terminated": 143.
        self.exit_code = 130 if signal_number == 2 else 143


def error_of(exit_code: int, *problems: str) -> MinigptError:
    """The error that ends another process of ours with this exit code."""
    if exit_code in (130, 143):
        return Stopped(2 if exit_code == 130 else 15, *problems)
    kinds = (ConfigError, DataError, CheckpointError, NumericsError, StorageError, BusyError)
    kind = next((kind for kind in kinds if kind.exit_code == exit_code), MinigptError)
    return kind(*problems)
