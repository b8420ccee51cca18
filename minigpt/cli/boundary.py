"""Which exceptions come from composing: they become one line. Those of any other code keep their
traceback.
"""

import sys
from types import TracebackType

COMPOSERS = {"hydra", "omegaconf", "yaml", "antlr4"}


def is_composition_error(error: BaseException) -> bool:
    """Whether composing raised this, whatever its type: RecursionError and AttributeError of
    Hydra's own code too.

    True if, from the first frame of Hydra or its parsers on, every frame is theirs or the standard
    library's. What
    they wrap counts as well: a resolver of ours that fails is a bug, whoever reports it.
    """
    below = _modules(error.__traceback__)
    if isinstance(error, RecursionError):  # strikes wherever it happens to: whose calls are they?
        return max(below, key=below.count) in COMPOSERS
    while below and below[0] not in COMPOSERS:
        below.pop(0)
    inside = all(module in COMPOSERS or module in sys.stdlib_module_names for module in below)
    wrapped = error.__cause__
    return (
        bool(below)
        and inside
        and (wrapped is None or not wrapped.__traceback__ or is_composition_error(wrapped))
    )


def _modules(trace: TracebackType | None) -> list[str]:
    """The top-level package of each frame, outermost first."""
    modules = []
    while trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        trace = trace.tb_next
    return modules


def words(error: BaseException) -> str:
    """The message on one line: the cause's where there is one, which Hydra's own wording often
    hides.
    """
    text = " ".join(str(error.__cause__ or error).partition("\n    full_key:")[0].split())
    if isinstance(error, RecursionError) or "recursion depth" in text:
        return "nested too deeply, or a cycle"
    return text or type(error).__name__
