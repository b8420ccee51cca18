"""Rebuild the model that a checkpoint or an exported folder describes.

A file is data. It chooses among the classes of minigpt/model/ and of packages that the user named,
and gives them plain values. It never reaches anything else, and it never makes us build more than
the tensors that lie beside it.
"""

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from minigpt.checkpoint.parameters import check_parameters, restore_parameters
from minigpt.config import annotations, signature
from minigpt.errors import CheckpointError, ConfigError
from minigpt.interrupt import stop_if_requested
from minigpt.model.transformer import Transformer

OWN = "minigpt.model"
SPECIAL = ("_target_", "_partial_", "_convert_")  # keys of a node that are no arguments
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
# What values that no model can have make of it, and of our code.
REFUSED_VALUES = (ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError)


def trusted_packages(names: Any) -> tuple[str, ...]:
    """The packages of `trust=mylab` or `trust=[mylab,other]`. ConfigError for what is none."""
    if isinstance(names, str | int | float):
        names = [names]
    packages = tuple(str(name) for name in names or ())
    if bad := [name for name in packages if not DOTTED.fullmatch(name)]:
        raise ConfigError(f"no name of a package: trust={bad[0]} (as in trust=mylab)")
    return packages


def rebuild(
    node: Any,
    vocab_size: Any,
    weights: Mapping[str, Tensor],
    where: Path,
    trust: Collection[str] = (),
) -> Transformer:
    """The model of a configuration node found in a file, with its weights, in evaluation mode.

    node: `_target_` and keyword arguments, as a checkpoint's state has them.
    where: the folder, for messages.
    trust: packages whose classes may be built beside our own.
    Raises CheckpointError, before memory is taken, for other classes and for what does not fit the
    weights.
    """
    parts = Parts(where, (OWN, *trust))
    model = outline(parts, node, vocab_size, weights)
    if trust:  # such a class may keep tensors of its own, which `meta` leaves without values
        model = parts.build(node, "model", vocab_size=vocab_size)
        restore_parameters(model, weights, where)
    else:
        model.load_state_dict(weights, assign=True)
    return model.eval()


def outline(
    parts: "Parts", node: Any, vocab_size: Any, weights: Mapping[str, Tensor]
) -> Transformer:
    """The same model without memory, on `meta`. weights: whose shapes it has, themselves unread."""
    with torch.device("meta"), at_most(2 * len(weights) + 16, parts.where):
        model = parts.build(node, "model", vocab_size=vocab_size)
    if not isinstance(model, Transformer):
        what = type(model).__name__
        raise CheckpointError(f"not a language model: {parts.where}: {what} (restore it)")
    check_parameters(model, weights, parts.where, "restore the folder")
    return model


@contextmanager
def at_most(n_parameters: int, where: Path) -> Iterator[None]:
    """Modules built inside may have n_parameters. Stop signals are heard at each of them."""
    count = 0

    def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        stop_if_requested(f"loading {where}")
        count += 1
        if count > n_parameters:
            raise CheckpointError(
                f"checkpoint does not fit the model: {where}: its configuration has more "
                "parameters than there are tensors (restore the folder)"
            )

    hook = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()


class Parts:
    """Builds nodes of one file.  packages: the only ones whose classes it may name."""

    def __init__(self, where: Path, packages: Collection[str]) -> None:
        self.where, self.packages = where, packages

    def build(self, value: Any, key: str, **supplied: Any) -> Any:
        """A plain value as it is, a node with `_target_` as an object of its class."""
        if isinstance(value, list):
            return [self.build(item, key) for item in value]
        if not isinstance(value, dict):
            return value
        if "_target_" not in value:
            return {name: self.build(item, f"{key}.{name}") for name, item in value.items()}
        found = self.find(value["_target_"], key)
        known = signature.read_signature(value["_target_"])
        arguments = {k: v for k, v in value.items() if k not in SPECIAL} | supplied
        for name, item in arguments.items():
            if name not in known.parameters and not known.open:
                raise self.error("unknown argument", f"{key}.{name} of {found.__name__}")
            parameter = known.parameters.get(name)
            if isinstance(item, dict) or parameter is None:
                continue
            if (expected := annotations.type_problem(item, parameter.annotation)) is not None:
                raise self.error("wrong type", f"{key}.{name}={item!r:.80} (expects {expected})")
        arguments = {name: self.build(item, f"{key}.{name}") for name, item in arguments.items()}
        if value.get("_partial_"):
            return partial(found, **arguments)
        try:
            return found(**arguments)
        except REFUSED_VALUES as error:  # nothing was built before the file said what
            raise self.error("invalid value", f"{key}: {error}") from None

    def find(self, target: Any, key: str) -> type[nn.Module]:
        """The class of that exact name in a module of one of the packages."""
        module, _, name = str(target).rpartition(".")
        if not (DOTTED.fullmatch(str(target)) and self.allows(module)):
            raise CheckpointError(
                f"foreign class: {self.where}: {key} is {target} "
                f"(generate.py trust={module.partition('.')[0]} builds it, where you trust that "
                "package; export and others know the classes of minigpt alone)"
            )
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            raise self.error("missing module", f"{key} is {target}: {error}") from None
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise self.error("no such class", f"{key} is {target} (removed or renamed since?)")
        if not self.allows(found.__module__):
            raise self.error("no such class", f"{key} is {target} (imported there, not its own)")
        return found

    def allows(self, module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in self.packages)

    def error(self, what: str, how: str) -> CheckpointError:
        return CheckpointError(f"{what}: {self.where}: {how}")
