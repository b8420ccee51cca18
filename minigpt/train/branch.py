"""Branching: a run begins with what another run has trained, where both train the same steps.

Before its cool-down a warmup-stable-decay run does not know how long it is: two runs that differ
in budget or cool-down alone take the same steps until the earlier of them anneals. So a run keeps
a checkpoint at the start of its cool-down (`trunk_steps` of its schedule), and a longer one begins
there. Its weights, optimizer state and logged losses are bit for bit those of training it straight.
Nothing of this enters a run's identity; run.json says `branched_from`. Budgets of n, 2n and 4n
steps that cool down for a fifth cost 4.6n steps instead of 7n.

Neighbours are found by their names alone, so anybody may have put them there: what they say is
checked, and nothing that they name is looked up.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.checkpoint.layout import step_of, steps_on_disk
from minigpt.checkpoint.load import Checkpoint, check_state, load_checkpoint
from minigpt.checkpoint.parameters import check_parameters
from minigpt.config import identity, signature
from minigpt.errors import CheckpointError
from minigpt.files import durable, reading, records
from minigpt.run.changes import changes_since, path_changes, world_size
from minigpt.run.folder import RunFolder
from minigpt.train.optimizer_form import check_optimizer_state

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)
Schedule = Callable[[int, int], float]
# What reading another's run.json may raise, whatever it holds.
REFUSED_VALUES = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Trunk:
    """A checkpoint of another run whose steps are this run's steps too."""

    folder: Path
    run: str  # its id
    step: int


def trunk_steps(schedule: Schedule, steps: int) -> int | None:
    """The step at which runs of other lengths could leave this one, or None."""
    found = getattr(schedule, "trunk_steps", None)
    return None if found is None else found(steps)


def adopt(run: RunFolder, schedule: Schedule, steps: int, model: "nn.Module") -> Checkpoint | None:
    """The furthest checkpoint of another run that this new run would have come to itself.

    model: of this run; the checkpoint's weights fit it.
    Its logged rows become this run's first ones. None if there is nothing to share, or with
    branch=off. Raises CheckpointError if `branch` names a run that shares no step with this one.
    """
    asked = run.plan.config["branch"]
    if asked == "off" or (asked == "auto" and trunk_steps(schedule, steps) is None):
        run.note_branch(None)
        return None
    named = None if asked == "auto" else Path(asked).expanduser()
    refused: list[str] = []
    for trunk in trunks(run, schedule, steps, [named] if named else None, refused):
        try:
            found = take(run, trunk, model)
        except CheckpointError as error:  # it may be pruned while we look
            refused.append(str(error))
            log.debug("not taken: %s", error)
            continue
        log.info(
            "going on from step %d of %s, which trained the same steps",
            trunk.step,
            trunk.folder.name,
        )
        return found
    if named is not None:
        why = "; ".join(refused) or "no checkpoint at a step that both share"
        raise CheckpointError(
            f"cannot branch: branch={named}: {why} "
            "(branch=auto takes what fits, branch=off trains every step)"
        )
    run.note_branch(None)
    return None


def trunks(
    run: RunFolder, schedule: Schedule, steps: int, folders: list[Path] | None, refused: list[str]
) -> list[Trunk]:
    """Checkpoints that this run could begin from, the furthest first.

    folders: where to look; None: at the runs beside this one.
    refused: why a run was left out is appended to it.
    """
    own = run.saved or {}
    found = []
    for folder in folders or sorted(run.folder.parent.glob("*-????????")):
        if folder == run.folder:
            continue
        try:
            on_disk = [step_of(path) for path in steps_on_disk(folder / "checkpoints")]
            record = records.read_record(folder) if on_disk else None
            if record is None or "steps" not in record:
                continue
            if identity.short_hash(record["identity"]) != record["id"]:
                refused.append(f"damaged run: {folder}: its id is not that of its identity")
                continue
            if different := differences(record, own):
                refused += different
                continue
            other = schedule_of(
                record["identity"]["schedule"], schedule, own["identity"]["schedule"]
            )
            shared = shared_steps(other, record["steps"], schedule, steps)
        except CheckpointError as error:
            refused.append(str(error))
        except REFUSED_VALUES as error:
            refused.append(f"damaged run: {folder}: {type(error).__name__} {error}")
        else:
            found += [Trunk(folder, record["id"], step) for step in on_disk if 0 < step <= shared]
    return sorted(found, key=lambda trunk: (trunk.step, trunk.folder), reverse=True)


def schedule_of(node: dict[str, Any], own: Schedule, own_node: dict[str, Any]) -> Schedule:
    """The schedule that another run's identity describes: an object of our own schedule's class.

    Only its numbers may differ from ours. Raises ValueError for anything else.
    """
    if node == own_node:
        return own
    parameters = signature.read_signature(own_node["_target_"]).parameters
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    for key, value in arguments.items():
        number = isinstance(value, int | float) and key in parameters
        if not (number or (isinstance(value, str | None) and value == own_node.get(key))):
            raise ValueError(f"schedule.{key} is not a number, and not ours")
    make: Any = type(own)
    same_class: Schedule = make(**arguments)
    return same_class


def differences(other: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Why two runs, by their run.json, train other steps even with equal multipliers of the lr."""
    before, now = other["identity"], own["identity"]
    keys = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    keys -= {"budget", "schedule"}
    if before["schedule"]["_target_"] != now["schedule"]["_target_"]:
        keys.add("schedule")
    if keys:
        return [f"{key} differs" for key in sorted(keys)]
    mixed = ["it is mixed"] if other["mixed"] else []
    mixed += ["other ranks"] if world_size(other) != world_size(own) else []
    return changes_since(other, own) + path_changes(other, own) + mixed


def shared_steps(one: Schedule, steps_of_one: int, other: Schedule, steps_of_other: int) -> int:
    """How many first steps of two runs have exactly the same multiplier of the lr."""
    both = range(min(steps_of_one, steps_of_other))
    different = (step for step in both if one(step, steps_of_one) != other(step, steps_of_other))
    return next(different, len(both))


def take(run: RunFolder, trunk: Trunk, model: "nn.Module") -> Checkpoint:
    """Load a trunk's checkpoint and copy the rows logged before it.

    Raises CheckpointError, with nothing copied, if it cannot serve.
    """
    config = run.plan.config
    found = load_checkpoint(trunk.folder / "checkpoints" / f"step_{trunk.step:08d}")
    check_state(found)
    check_parameters(model, found.model, found.folder)
    rows = reading.read_bytes(trunk.folder / "metrics.jsonl")[: found.state["metrics_bytes"]]
    seq_len = identity.argument(config["model"], "max_seq_len")
    tokens = trunk.step * config["train"]["batch_size"] * seq_len
    if found.optimizer is None or not is_trunk(found, trunk, tokens) or not are_its(rows, found):
        raise CheckpointError(f"not a step on the way: {found.folder}")
    check_optimizer_state(found.optimizer, config["optim"], model, found.folder)
    run.note_branch({"run": trunk.folder.name, "step": trunk.step})
    try:
        run.metrics.begin_with(rows)
    except OSError as error:
        raise durable.storage_error(run.metrics.path, error) from None
    return found


def is_trunk(found: Checkpoint, trunk: Trunk, tokens: int) -> bool:
    """Whether a checkpoint is that run's at that step, with finite weights and training to do."""
    state = found.state
    return (state["run"], state["step"], state["tokens"], state["final"]) == (
        trunk.run, trunk.step, tokens, None,
    ) and all(bool(tensor.isfinite().all()) for tensor in found.model.values())  # fmt: skip


def are_its(rows: bytes, found: Checkpoint) -> bool:
    """Whether these are the rows that were logged before a checkpoint, all whole."""
    digest = durable.sha256_bytes(rows)
    return (
        len(rows) == found.state["metrics_bytes"]
        and found.state.get("metrics_sha256", digest) == digest
        and all(
            line.endswith(b"\n") and records.row_of(line) is not None
            for line in rows.splitlines(keepends=True)
        )
    )
