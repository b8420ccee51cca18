"""Less to wait for before the first step and after the last one.

Times are processor time of one Zen 5 core with torch 2.13 (`experiments/speed/startup.py`).
"""

import gc
import sys
from types import FunctionType
from typing import Any


def load_torch() -> None:
    """Import torch without what a run does not need: 1.1 s, exit included, instead of 1.8 s.

    Training then imports no compiler, which would take 1.6 s more. Later calls cost nothing.
    """
    if "torch" in sys.modules:
        return
    gc.disable()  # nothing that an import makes is garbage
    import torch

    _optimizers_without_compiler(torch.optim)
    gc.freeze()  # no later collection looks at torch's half million objects, nor the one at exit
    gc.enable()


def _optimizers_without_compiler(optim: object) -> None:
    """Take off the decorators with which torch tells a compiler of steps what to leave alone.

    We compile models, never steps, and each decorator imports torch._dynamo on its first call.
    """
    import torch

    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None:
            setattr(torch.optim.Optimizer, name, plain)
    for kind in vars(optim).values():
        step: Any = vars(kind).get("step") if isinstance(kind, type) else None
        if isinstance(step, FunctionType) and step.__code__.co_name == "_use_grad":
            kind.step = torch.no_grad()(step.__wrapped__)  # type: ignore[attr-defined]
