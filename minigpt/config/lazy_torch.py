"""Less to wait for before the first step and after the last one.

Seconds below: processor time of one Zen 5 core, torch 2.13; `experiments/speed/startup.py` measures
    the whole.
"""

import gc
import sys
from types import FunctionType
from typing import Any


def load_torch() -> None:
    """Import torch without what a run does not need: 1.1 s with its share of the exit instead of
    1.8.

    Later calls cost nothing. Training then imports no compiler, which would take 1.6 s more.
    """
    if "torch" in sys.modules:
        return
    gc.disable()  # nothing that an import makes is garbage
    import torch

    _optimizers_without_compiler(torch.optim)
    # no later collection, nor the one at exit, looks at the half million objects that torch is made
    # of
    gc.freeze()
    gc.enable()


def _optimizers_without_compiler(optim: object) -> None:
    """Take torch's decorators off its optimizers, which tell a compiler of steps what to leave
    alone.

    We compile models, never steps, and each decorator imports torch._dynamo when it is first
    called.
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
