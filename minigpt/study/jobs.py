"""The jobs of a sweep before any of them runs: their overrides and plans, and which start."""

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt import interrupt
from minigpt.config.budget import BUDGET_KEYS
from minigpt.config.build import build, check_built, vocabulary
from minigpt.config.composed import Composed, take_apart
from minigpt.config.plan import Plan, plan_composed
from minigpt.errors import CheckpointError, ConfigError, MinigptError
from minigpt.files.records import METRICS, summary_of
from minigpt.run.changes import changes_of
from minigpt.run.source_digest import CODE, in_short

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

Compose = Callable[[list[str]], DictConfig]


def jobs_of(cfg: DictConfig, overrides: list[str]) -> list[list[str]]:
    """The overrides of each job, in Hydra's order; [] where only the sweeper knows them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not cfg.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    params = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.get("params") or {}).items()]
    try:
        parsed = OverridesParser.create().parse_overrides([*params, *overrides])
        (jobs,) = BasicSweeper.split_arguments(
            [o for o in parsed if not o.is_hydra_override()], None
        )
    except HydraException:  # glob() needs the configuration to be listed
        return []
    return jobs


class Planner:
    """Plans jobs that share some overrides.

    Hydra takes 0.1 s to compose a job. Jobs that differ only in single values are composed once
    and get their values set, which takes a tenth of that. What was composed is remembered.

    first: the configuration of one of them.
    """

    def __init__(self, first: DictConfig, compose: Compose, shared: Collection[str]) -> None:
        self.first, self.compose, self.shared = first, compose, shared
        self.bases: dict[tuple[str, ...], Composed] = {}
        self.copies: dict[tuple[tuple[str, ...], tuple[str, ...]], Composed] = {}

    def plans(self, jobs: list[list[str]]) -> Iterator[Plan | None]:
        """The plan of each job, in their order; None for one that cannot work and will say why."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        parser, groups = OverridesParser.create(), set(self.first.hydra.runtime.choices)
        own = {text for job in jobs for text in job} - set(self.shared)
        parsed = {text: parser.parse_override(text) for text in own}
        for job in jobs:
            interrupt.stop_if_requested("before all jobs were planned (nothing was trained)")
            values = [
                parsed[text] for text in job if text in parsed and _is_value(parsed[text], groups)
            ]
            apart = {value.input_line for value in values}
            shared = tuple(text for text in job if text not in apart)
            try:
                base = self._base(shared, tuple(value.key_or_group for value in values))
                for value in values:
                    key, new = value.key_or_group, value.value()
                    OmegaConf.update(base.own, key, new, merge=True, force_add=True)
                yield plan_composed(dataclasses.replace(base, overrides=job))
            except (MinigptError, HydraException, OmegaConfBaseException, TypeError, ValueError):
                yield None

    def all(self, jobs: list[list[str]]) -> list[Plan]:
        """Their plans. Raises ConfigError for the first that cannot work."""
        found = []
        for job, plan in zip(jobs, self.plans(jobs), strict=True):
            if plan is None:  # once more, for the reason
                own = " ".join(override for override in job if override not in self.shared)
                try:
                    plan = plan_composed(take_apart(self.compose(job)))
                except ConfigError as error:
                    raise ConfigError(*(f"{line} [{own}]" for line in error.problems)) from None
            found.append(plan)
        return found

    def check(self, plan: Plan, *, metric: str = "val_loss") -> None:
        """Build it without memory. Raises ConfigError, also where its summary lacks the metric."""
        model, _ = check_built(plan)
        if metric not in METRICS and not hasattr(model, "metrics"):
            raise ConfigError(
                f"no such metric: verdict.metric={metric}: the model has no method metrics "
                f"(conf/model/_base.yaml; or one of {', '.join(METRICS)})"
            )

    def flops_per_token(self, plan: Plan) -> float:
        """Of its model."""
        import torch

        vocab_size, _ = vocabulary(plan)
        with torch.device("meta"):
            return float(build(plan.config["model"], vocab_size).flops_per_token(plan.seq_len))

    def close(self) -> None:
        """Nothing is open."""

    def _base(self, shared: tuple[str, ...], keys: tuple[str, ...]) -> Composed:
        """What these overrides come to, for jobs that set all of these keys, each its own way."""
        if shared not in self.bases:
            hydras = self.first.hydra.overrides.hydra
            self.bases[shared] = take_apart(self.compose([*shared, *hydras]))
        if (shared, keys) not in self.copies:
            base = self.bases[shared]
            self.copies[shared, keys] = dataclasses.replace(base, own=copy.deepcopy(base.own))
        return self.copies[shared, keys]


def refuse_changes(planned: list[Plan]) -> None:
    """Raise CheckpointError if a job began with other code, tokens or torch than those of now.

    Another torch counts if it would train what is left.
    """
    left = any(summary_of(plan.folder) is None for plan in planned)
    changes: dict[str, None] = {}
    changed = 0
    for plan in planned:
        found = [] if plan.config["accept_changes"] else changes_of(plan, torch_too=left)
        changed += bool(found)
        changes |= dict.fromkeys(found)
    if changes:
        code = any(change.startswith(CODE) for change in changes)
        raise CheckpointError(
            f"changed since {changed} of {len(planned)} jobs began: "
            f"{'; '.join(in_short(list(changes)))}: nothing was trained "
            "(accept_changes=true keeps what is finished and marks what goes on; attempt=2 under "
            "a new study= trains all anew"
            f"{'; a study by: code compares the two' * code})"
        )


def _is_value(override: "Override", groups: set[str]) -> bool:
    """Whether an override sets one plain value, and chooses, adds or deletes nothing."""
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or override.is_delete() or override.package:
        return False
    single = isinstance(override.value(), str | int | float | None)
    return single and key not in groups and "/" not in key


@contextmanager
def only(jobs: list[list[str]] | None, planned: list[list[str]]) -> Iterator[None]:
    """Hydra's sweeper launches these jobs and no others; None: all that it finds.

    planned: jobs that need no further look; Hydra composes all others before it launches any.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    every, look = BasicSweeper.split_arguments, BasicSweeper.validate_batch_is_legal

    def validate(self: BasicSweeper, batch: list[list[str]]) -> None:
        try:
            look(self, [job for job in batch if job not in planned])
        except HydraException as error:
            said = [str(one).partition("\n")[0] for one in (error, error.__cause__) if one]
            raise ConfigError(f"configuration: {': '.join(said)} (see --help)") from None

    def split(overrides: "list[Override]", max_batch_size: int | None) -> list[list[list[str]]]:
        try:
            (found,) = every(overrides, None)
        except HydraException as error:
            raise ConfigError(f"no grid: {error} (hydra/sweeper=optuna searches)") from None
        left = [job for job in found if jobs is None or job in jobs]
        return [
            list(chunk) for chunk in BasicSweeper.split_overrides_to_chunks(left, max_batch_size)
        ]

    BasicSweeper.split_arguments = staticmethod(split)  # type: ignore[method-assign, assignment]
    BasicSweeper.validate_batch_is_legal = validate  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        BasicSweeper.split_arguments = staticmethod(every)  # type: ignore[method-assign, assignment]
        BasicSweeper.validate_batch_is_legal = look  # type: ignore[method-assign]


def shortest_first(overrides: list[str]) -> list[str]:
    """The same sweep with its budgets in ascending order, as its slowest axis.

    So all jobs of the shortest budget come first: results come early, and a longer run finds what
    a shorter one has trained already (train/branch.py).
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    result = list(overrides)
    for name in BUDGET_KEYS:
        same = [override for override in overrides if override.partition("=")[0] == f"train.{name}"]
        with suppress(HydraException, ValueError):
            # the last one counts
            parsed = OverridesParser.create().parse_override(same[-1] if same else "")
            if parsed.is_sweep_override() and parsed.is_discrete_sweep():
                values = sorted(parsed.sweep_string_iterator(), key=float)
                rest = [override for override in result if override not in same]
                result = [f"train.{name}={','.join(values)}", *rest]
    return result
