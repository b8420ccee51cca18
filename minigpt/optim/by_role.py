"""One optimizer per role, driven as one. Roles come from the model; shapes decide nothing.

Two arms of a comparison differ in one YAML block (`hidden:`). When the object is built it proves
that every parameter has exactly one optimizer.
"""

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minigpt.errors import CheckpointError, ConfigError
from minigpt.optim.attributes import changed, fingerprints
from minigpt.optim.role_groups import BuildOptimizer, build_optimizer, check_roles
from minigpt.optim.state_tree import bytes_of, from_tree, to_tree
from minigpt.roles import ROLES, Role
from minigpt.terminal import few

log = logging.getLogger(__name__)

# Those of torch that have no matrix product, and cannot say so.
ELEMENTWISE = {
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.Adamax, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta,
}  # fmt: skip
# never saved with a group, never taken from a checkpoint
FROM_CONFIG = ("params", "lr", "initial_lr")


class ByRole:
    """Gives each role's parameters to that role's optimizer.

    parameters: (name, parameter, role) of the whole model. Frozen ones (requires_grad False) get no
        optimizer.
    hidden, embed, head, scalar: what builds the role's optimizer; None where the model has no such
        role. A head block is ignored if the head is tied to the embedding, since a tied weight has
        the role embed.
    lr_scale: multiplies every lr.
    hidden_width_exponent: with w = `Role.width_multiplier`, the lr of hidden is divided by w to
        this power, and its weight decay multiplied, so that lr * decay stays. The head's exponent
        is 1. None asks the optimizer (`width_exponent`, which Muon has), else takes 1, which is
        right for Adam and its kin (muP, arXiv 2203.03466, table 3; decay: arXiv 2405.13698).

    `param_groups` are the live groups of all optimizers: one for each (role, kind, n_heads), with
    those keys, `lr` (what the loop sets: initial_lr * schedule) and `initial_lr` (lr of the config
    times lr_scale).

    Raises ValueError when a role lacks an optimizer, a block matches no parameter, a parameter
    would have two owners or none, or an lr or weight decay is not a finite number >= 0.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter, Role]],
        hidden: BuildOptimizer | None,
        embed: BuildOptimizer | None,
        head: BuildOptimizer | None,
        scalar: BuildOptimizer | None,
        lr_scale: float = 1.0,
        hidden_width_exponent: float | None = None,
    ) -> None:
        if not 0.0 < lr_scale < math.inf:
            raise ValueError(f"lr_scale={lr_scale} must be a finite number > 0")
        listed = list(parameters)
        builders: dict[str, BuildOptimizer | None] = dict(
            zip(ROLES, (hidden, embed, head, scalar), strict=True)
        )
        check_roles(listed, builders)

        self.names: dict[nn.Parameter, str] = {p: name for name, p, _ in listed if p.requires_grad}
        self.optimizers: dict[str, Optimizer] = {}
        for role_name, builder in builders.items():
            groups: dict[Role, list[nn.Parameter]] = defaultdict(list)
            for _, p, role in listed:
                if role.name == role_name and p.requires_grad:
                    groups[role].append(p)
            if groups and builder is not None:
                exponent = hidden_width_exponent if role_name == "hidden" else None
                optimizer = build_optimizer(role_name, builder, groups, lr_scale, exponent)
                if hasattr(optimizer, "checks_gradients"):
                    optimizer.checks_gradients = False  # the caller of `step` does
                self.optimizers[role_name] = optimizer

        owned = [p for group in self.param_groups for p in group["params"]]
        if len(owned) != len(set(owned)) or set(owned) != set(self.names):
            raise ValueError(
                f"the optimizers own {len(owned)} parameters ({len(set(owned))} different), "
                f"not {len(self.names)}"
            )

        self._training_weights: dict[Tensor, Tensor] = {}  # while eval() is on
        self._stepped = False
        for switchable in self._switchable():
            switchable.train()
        self._configured = {
            key: _settings(group) for key, (_, group) in self._keyed_groups().items()
        }
        self._attributes = {r: fingerprints(o, self.names) for r, o in self.optimizers.items()}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def step(self) -> None:
        """Step every optimizer. The caller has made sure that the gradients are finite.

        The first step proves that the state can be saved: ConfigError if not. It warns of
        parameters without a gradient, which no step moves.
        """
        for optimizer in self.optimizers.values():
            optimizer.step()
        if not self._stepped:
            self._stepped = True
            self.state_tree()
            if idle := [name for p, name in self.names.items() if p.grad is None]:
                log.warning(
                    "warning: no gradient in the first step: %s "
                    "(not used by the loss? requires_grad_(False) says that it is meant)",
                    few(idle),
                )

    def zero_grad(self) -> None:
        for p in self.names:
            p.grad = None

    def eval(self) -> None:
        """Put the weights to evaluate in place, for optimizers that average (schedule-free).

        `train` brings back the training weights bit for bit, so evaluating changes no run. (The
        optimizers' own way back from the average rounds.)
        """
        if self._training_weights:
            return
        for optimizer in self._switchable():
            for group in optimizer.param_groups:
                self._training_weights.update({p: p.detach().clone() for p in group["params"]})
            optimizer.eval()

    def train(self) -> None:
        """Undo `eval`."""
        for optimizer in self._switchable():
            optimizer.train()
        with torch.no_grad():
            for p, weights in self._training_weights.items():
                p.copy_(weights)
        self._training_weights = {}

    def _switchable(self) -> list[Any]:
        return [x for x in self.optimizers.values() if callable(getattr(x, "eval", None))]

    def state_bytes(self) -> int:
        """Memory of all optimizer state so far (it is made in the first step)."""
        return bytes_of([list(x.state.values()) for x in self.optimizers.values()])

    def flops_per_step(self) -> int | None:
        """FLOPs of the matrix products in one step; None if an optimizer does not tell.

        An optimizer tells by a method `flops_per_step() -> int`, 0 for one without matrix products.
        What is done to each entry is left out, as it is for the model: AdamW's 14 FLOPs a parameter
        and step are 2.3 / tokens per step of the model's 6 a parameter and token.
        """
        total = 0
        for optimizer in self.optimizers.values():
            if type(optimizer) not in ELEMENTWISE:
                if not callable(tell := getattr(optimizer, "flops_per_step", None)):
                    return None
                total += tell()
        return total

    def state_tree(self) -> dict[str, Any]:
        """Everything a resumed run needs; tensors are live, so encode before the next step.

        parameters: {name: the optimizer's state of it}
        like: {name: "float32 (64, 32)"}
        groups: {role/kind/n_heads: what the optimizer has changed in the group since it was built}
        optimizers: {role: class}

        Call it in training mode (after `train`). Raises ConfigError if an optimizer keeps what
        cannot be saved, or keeps it where it is not saved.
        """
        assert not self._training_weights, "call train() first: these are weights for evaluation"
        self._refuse_lost_state()
        parameters: dict[str, Any] = {}
        changed: dict[str, Any] = {}
        for key, (optimizer, group) in self._keyed_groups().items():
            try:
                for p in group["params"]:
                    parameters[self.names[p]] = to_tree(dict(optimizer.state.get(p, {})))
            except TypeError as error:
                raise ConfigError(
                    f"optimizer state: optim.{group['role']}: {_class_name(optimizer)}: {error} "
                    "(state is tensors, numbers, text, lists, and dicts with keys of text)"
                ) from None
            changed[key] = {
                setting: to_tree(value)
                for setting, value in _settings(group).items()
                if not _same(value, self._configured[key].get(setting))
            }
        return {"parameters": parameters, "groups": changed, **self._form()}

    def load_state_tree(self, tree: dict[str, Any]) -> None:
        """Take over a state tree by name; hyperparameters, lr above all, stay those of the config.

        Raises CheckpointError, and changes nothing, if names, shapes, dtypes, roles or optimizers
        differ.
        """
        cpu, loaded = torch.device("cpu"), []
        try:
            self._check_fit(tree)
            for key, (optimizer, group) in self._keyed_groups().items():
                on_device = group.get("fused") or group.get("capturable")
                states = {
                    p: from_tree(
                        tree["parameters"][self.names[p]], p.device, p.device if on_device else cpu
                    )
                    for p in group["params"]
                }
                settings = copy.deepcopy(self._configured[key])
                settings.update(from_tree(tree["groups"][key], cpu))
                loaded.append((optimizer, group, states, settings))
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"optimizer state does not fit: {type(error).__name__} {error} "
                "(it is not as minigpt writes it)"
            ) from None
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        for optimizer, group, states, settings in loaded:
            optimizer.state.update({p: state for p, state in states.items() if state})
            for setting in _settings(group).keys() - settings.keys():
                del group[setting]
            group.update(settings)

    def _check_fit(self, tree: dict[str, Any]) -> None:
        ours, present = self._form(), lambda groups: dict.fromkeys(groups, "present")
        for what, saved, own in (
            ("optimizers", tree["optimizers"], ours["optimizers"]),
            ("parameters", tree["like"], ours["like"]),
            ("groups", present(tree["groups"]), present(self._configured)),
        ):
            if saved != own:
                raise CheckpointError(
                    f"optimizer state does not fit: {what}: {_difference(saved, own)} "
                    "(saved -> this run; start a new run, or take only the weights with init_from=)"
                )

    def _refuse_lost_state(self) -> None:
        for role, optimizer in self.optimizers.items():
            before, after = self._attributes[role], fingerprints(optimizer, self.names)
            if lost := changed(before, after):
                raise ConfigError(
                    f"optimizer state: optim.{role}: {_class_name(optimizer)} changes "
                    f"{', '.join(f'self.{name}' for name in lost)}, which no checkpoint holds "
                    "(keep it in self.state[p] or in a param group; if it need not survive, say so "
                    f"in the class: scratch = {tuple(lost)})"
                )

    def _keyed_groups(self) -> dict[str, tuple[Optimizer, dict[str, Any]]]:
        return {
            f"{group['role']}/{group['kind']}/{group['n_heads']}": (optimizer, group)
            for optimizer in self.optimizers.values()
            for group in optimizer.param_groups
        }

    def _form(self) -> dict[str, dict[str, str]]:
        """What a state tree and this must have in common."""
        classes = {role: _class_name(optimizer) for role, optimizer in self.optimizers.items()}
        dtype = lambda p: str(p.dtype).removeprefix("torch.")
        like = {name: f"{dtype(p)} {tuple(p.shape)}" for p, name in self.names.items()}
        return {"optimizers": classes, "like": like}


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in group.items() if key not in FROM_CONFIG}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b


def _class_name(optimizer: Optimizer) -> str:
    # not the module: packages move their classes around
    package = type(optimizer).__module__.partition(".")[0]
    return f"{package}.{type(optimizer).__qualname__}"


def _difference(saved: dict[str, str], ours: dict[str, str]) -> str:
    """The first few entries that differ, saved -> ours."""
    keys = [key for key in {**saved, **ours} if saved.get(key) != ours.get(key)]
    shown = [f"{key} {saved.get(key, 'absent')} -> {ours.get(key, 'absent')}" for key in keys[:3]]
    return "; ".join(shown) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")
