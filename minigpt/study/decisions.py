"""A declared study seen from outside: its phase, and what it has decided so far."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt.errors import CheckpointError, StorageError
from minigpt.study.conduct import is_judged
from minigpt.study.declaration import Declaration
from minigpt.study.declaration_file import DECLARATION, read_declaration
from minigpt.study.journal import read_decisions
from minigpt.study.planned import cell_name, label
from minigpt.study.values import typed
from minigpt.terminal import few


def declared_studies(
    paths: Sequence[Path], study: str | None
) -> list[tuple[Path, Declaration, list[str]]]:
    """Every declared study in these folders of runs, or the one of this name, with its folder of
    runs and its lines.
    """
    found = []
    for output in dict.fromkeys(path.resolve() for path in paths):
        for file in sorted(output.glob(f"studies/*/{DECLARATION}")):
            try:
                known = read_declaration(file.parent)
                decisions = list(read_decisions(file.parent).values())
            except (CheckpointError, StorageError):
                continue  # who goes on with it is told
            if known is not None and study in (None, known[0].study):
                found.append((output, known[0], lines(*known, decisions)))
    return found


def asked_elsewhere(output: Path, declaration: Declaration) -> list[str]:
    """A sentence about other studies of this folder that compare the same arms; none if none."""
    values = {declaration.value(arm) for arm in declaration.arms}
    others = [
        other.study
        for _, other, _ in declared_studies([output], None)
        if other.study != declaration.study
        and (other.by, {other.value(arm) for arm in other.arms}) == (declaration.by, values)
    ]
    return [f"other studies here compare the same arms: {few(others)}"] if others else []


def phase(declaration: Declaration, entries: Sequence[Mapping[str, Any]]) -> str:
    """`tune`, `confirm 16 pairs` or `ended`, as far as the journal tells."""
    chosen = {(e["cell"], e["arm"]): e.get("setting") for e in entries if e["what"] == "choose"}
    searches = len(declaration.cells) * len(declaration.arms)
    if len(chosen) < searches:
        return f"tune, {len(chosen)} of {searches} settings chosen"
    looks = {e["cell"]: e for e in entries if e["what"] == "look"}  # the last of each cell
    following = []
    for cell in map(cell_name, declaration.cells):
        arms = [arm for arm in declaration.arms if chosen.get((cell, arm)) is not None]
        if not is_judged(declaration, arms):
            continue
        if cell not in looks:
            following.append(declaration.looks[0])
        elif any(found["word"] == "undecided" for found in looks[cell]["verdicts"].values()):
            following += [n for n in declaration.looks if n > looks[cell]["pairs"]][:1]
    return f"confirm {min(following)} pairs" if following else "ended"


def lines(
    declaration: Declaration, content: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> list[str]:
    """For a terminal. content: of the file that holds the declaration."""
    shown = [f"{declaration.study}: {declaration.question}"]
    shown.append(f"  phase        {phase(declaration, entries)}")
    for amendment in content["amendments"]:
        shown.append(f"  amended      {amendment['why']}")
        shown += [f"  before it    {line}" for line in looks_before(amendment)]
    for entry in entries:
        where = f"{entry['cell']}: " if entry.get("cell") else ""
        if entry["what"] == "extend":
            value = f"{entry['key']}={typed(entry['value'])}"
            shown.append(f"  extended     {where}{entry['arm']}: {value}")
        elif entry["what"] == "edge":
            value = f"{entry['key']}={typed(entry['value'])}"
            shown.append(f"  not tried    {where}{entry['arm']}: {value}: {entry['why']}")
        elif entry["what"] == "choose":
            shown.append(f"  chosen       {where}{entry['arm']}: {_choice(entry)}")
        elif entry["what"] == "look":
            for arm, found in entry["verdicts"].items():
                verdict = f"{arm} {_verdict(found)}"
                shown.append(f"  {entry['pairs']:>2} pairs     {where}{verdict}")
    return shown


def looks_before(amendment: Mapping[str, Any]) -> list[str]:
    """`8 pairs: muon undecided -0.0123 (-0.0311 to +0.0065)` for each look that it came after."""
    found = []
    for look in amendment.get("looks", ()):
        where = f"{look['cell']}: " if look["cell"] else ""
        verdicts = ", ".join(f"{arm} {_verdict(one)}" for arm, one in look["verdicts"].items())
        found.append(f"{look['pairs']} pairs: {where}{verdicts}")
    return found


def _choice(entry: Mapping[str, Any]) -> str:
    if entry["setting"] is None:
        return f"none of {entry['trials']}: all diverged on all tuning seeds"
    setting = label(tuple(entry["setting"].items()))
    loss = entry.get("loss")
    return f"{setting}  (loss {loss})" if loss is not None else setting


def _verdict(found: Mapping[str, Any]) -> str:
    parts = [str(found["word"])]
    if "difference" in found:
        parts.append(f"{found['difference']:+.4f}")
    if "interval" in found:
        parts.append("({:+.4f} to {:+.4f})".format(*found["interval"]))
    return " ".join(parts)
