"""The run beside a new one that differs from it in the fewest keys."""

from minigpt.checkpoint.layout import steps_on_disk
from minigpt.config import identity
from minigpt.config.plan import Plan
from minigpt.errors import CheckpointError
from minigpt.files.records import read_record

MOST = 6  # keys; runs that differ in more are no neighbours
SHOWN = 3


def describe_neighbour(plan: Plan) -> str | None:
    """A sentence about the existing run that is nearest, of the same seed; None if none is near."""
    nearest: dict[str, tuple[object, object]] = {}
    for folder in sorted(plan.folder.parent.glob("*-????????")):
        try:
            record = read_record(folder)
            different = identity.differences(record["identity"], plan.identity) if record else {}
        except (CheckpointError, KeyError):  # a damaged neighbour
            continue
        near = 0 < len(different) < (len(nearest) or MOST + 1)
        if near and "seed" not in different:
            nearest, neighbour = different, folder
        if len(nearest) == 1:
            break
    if not nearest:
        return None
    shown = [
        f"{key.replace('budget.', 'train.')} {before} -> {after}"
        for key, (before, after) in list(nearest.items())[:SHOWN]
    ]
    more = f" and {len(nearest) - SHOWN} more" if len(nearest) > SHOWN else ""
    reuse = f"; init_from={neighbour} would reuse its weights"
    return f"differs from {neighbour.name} only in {', '.join(shown)}{more}" + (
        reuse if steps_on_disk(neighbour / "checkpoints") else ""
    )
