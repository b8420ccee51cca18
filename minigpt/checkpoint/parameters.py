"""Parameters by name: whether saved ones fit a module, and how they get into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MAX_NAMED = 20  # problems of one checkpoint


def check_parameters(
    module: "torch.nn.Module", saved: Mapping[str, "torch.Tensor"], where: Path
) -> None:
    """Raise CheckpointError unless `saved` holds every parameter of a module: names, shapes,
    floating point.
    """
    parameters = dict(module.named_parameters())
    problems = [
        f"checkpoint does not fit the model: {where}: "
        f"{name} {_shape(saved.get(name))} -> {_shape(parameters.get(name))} "
        "(saved -> given; use the configuration of the run)"
        for name in sorted(parameters.keys() | saved.keys())
        if name not in parameters
        or name not in saved
        or parameters[name].shape != saved[name].shape
    ]
    problems += [
        f"not a weight: {where}: {name} is {str(saved[name].dtype).removeprefix('torch.')} (floating point is)"
        for name in sorted(parameters.keys() & saved.keys())
        if not saved[name].is_floating_point()
    ]
    if problems:
        more = (
            [f"{len(problems) - MAX_NAMED:,} more that do not fit: {where}"]
            if problems[MAX_NAMED:]
            else []
        )
        raise CheckpointError(*problems[:MAX_NAMED], *more)


def restore_parameters(
    module: "torch.nn.Module", saved: Mapping[str, "torch.Tensor"], where: Path
) -> None:
    """Copy saved parameters into a module by name. Raises CheckpointError, with nothing copied, if
    any does not fit.
    """
    import torch

    check_parameters(module, saved, where)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(saved[name])


def _shape(tensor: "torch.Tensor | None") -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))
