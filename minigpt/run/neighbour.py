"""The run beside a new one that differs from it in a single key."""

from minigpt.checkpoint.layout import steps_on_disk
from minigpt.config import identity
from minigpt.config.plan import Plan
from minigpt.errors import CheckpointError
from minigpt.files.records import read_record


def describe_neighbour(plan: Plan) -> str | None:
    """A sentence about an existing run that differs in a single key but the seed, if any does."""
    for folder in sorted(plan.folder.parent.glob("*-????????")):
        try:
            record = read_record(folder)
            different = identity.differences(record["identity"], plan.identity) if record else {}
        except (CheckpointError, KeyError):  # a damaged neighbour
            continue
        if len(different) == 1 and "seed" not in different:
            ((key, (before, after)),) = different.items()
            reuse = f"; init_from={folder} would reuse its weights"
            return (
                f"differs from {folder.name} only in {key.replace('budget.', 'train.')} "
                f"{before} -> {after}" + (reuse if steps_on_disk(folder / "checkpoints") else "")
            )
    return None
