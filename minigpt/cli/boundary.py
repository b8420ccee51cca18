"""Which exceptions come from composing: they become one line. All others keep their traceback."""

import sys
from types import TracebackType

from minigpt.errors import ConfigError, MinigptError

COMPOSERS = {
    "hydra",
    "omegaconf",
    "yaml",
    "antlr4",
    "minigpt.cli.yaml_files",
    "minigpt.cli.constructor_keys",
}


def is_composition_error(error: BaseException) -> bool:
    """Whether composing raised this, whatever its type.

    True if every frame from the first one of Hydra or its parsers on is theirs or the standard
    library's. The exception that they wrap is looked at too: a resolver of ours that fails is a
    bug, whoever reports it.
    """
    if isinstance(error, MinigptError):
        return False
    below = _modules(error.__traceback__)
    if isinstance(error, RecursionError):  # raised wherever the stack ends: whose calls fill it?
        return max(below, key=below.count) in COMPOSERS
    while below and below[0] not in COMPOSERS:
        below.pop(0)
    theirs = COMPOSERS | sys.stdlib_module_names
    if not below or not theirs.issuperset(below):
        return False
    wrapped = error.__cause__
    return wrapped is None or not wrapped.__traceback__ or is_composition_error(wrapped)


def _modules(trace: TracebackType | None) -> list[str]:
    """The top-level package of each frame, outermost first; a module that composes by its name."""
    modules = []
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        modules.append(name if name in COMPOSERS else name.partition(".")[0])
        trace = trace.tb_next
    return modules


def not_composed(error: Exception) -> ConfigError:
    """What is told where nothing says more of it."""
    return ConfigError(f"configuration: {words(error)} (see --help)")


def words(error: BaseException) -> str:
    """The message on one line; that of the cause, if there is one, which says more."""
    text = " ".join(str(error.__cause__ or error).partition("\n    full_key:")[0].split())
    if isinstance(error, RecursionError) or "recursion depth" in text:
        return "nested too deeply, or a cycle"
    return text or type(error).__name__
