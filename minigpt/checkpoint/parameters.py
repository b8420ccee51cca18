"""Parameters by name: whether saved ones fit a module, and how they get into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MAX_NAMED = 20  # problems of one checkpoint
USUAL = "use the configuration of the run"


def check_parameters(
    module: "torch.nn.Module",
    saved: Mapping[str, "torch.Tensor"],
    where: Path,
    way_out: str = USUAL,
) -> None:
    """Raise CheckpointError unless `saved` holds each parameter of a module, in floating point."""
    own = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    problems = [
        f"checkpoint does not fit the model: {where}: "
        f"{name} {shapes.get(name, 'missing')} -> {own.get(name, 'missing')} "
        f"(saved -> given; {way_out})"
        for name in sorted(own.keys() | shapes.keys())
        if own.get(name) != shapes.get(name)
    ]
    for name in sorted(own.keys() & saved.keys()):
        if not saved[name].is_floating_point():
            dtype = str(saved[name].dtype).removeprefix("torch.")
            problems.append(f"not a weight: {where}: {name} is {dtype} (floating point is)")
    if len(problems) > MAX_NAMED:
        more = f"{len(problems) - MAX_NAMED:,} more that do not fit: {where}"
        problems = [*problems[:MAX_NAMED], more]
    if problems:
        raise CheckpointError(*problems)


def restore_parameters(
    module: "torch.nn.Module",
    saved: Mapping[str, "torch.Tensor"],
    where: Path,
    way_out: str = USUAL,
) -> None:
    """Copy saved parameters into a module by name.

    Raises CheckpointError, with nothing copied, if any does not fit.
    """
    import torch

    check_parameters(module, saved, where, way_out)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(saved[name])
