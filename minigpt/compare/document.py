"""A report as blocks, the same for the terminal, Markdown and HTML; every number knows the runs
behind it.
"""

from dataclasses import dataclass, field

from minigpt.compare.figures import Figure
from minigpt.study.run import Run


@dataclass(frozen=True)
class Cell:
    text: str
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Heading:
    text: str
    level: int


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class VerdictLine:
    kind: str  # better, worse, equivalent, no difference, undecided
    text: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Bullets:
    title: str
    items: list[str]


@dataclass(frozen=True)
class Table:
    """detail: for the files, not for the terminal.  note: below the table."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    detail: bool = False


@dataclass(frozen=True)
class Figures:
    figures: list[Figure]
    runs: tuple[Run, ...]  # that are drawn


Block = Heading | Paragraph | VerdictLine | Bullets | Table | Figures


@dataclass
class Document:
    title: str
    blocks: list[Block] = field(default_factory=list)

    def run_sets(self) -> dict[tuple[Run, ...], int]:
        """Every set of runs that a number rests on, numbered in order of appearance."""
        sets: dict[tuple[Run, ...], int] = {}
        for block in self.blocks:
            if isinstance(block, VerdictLine | Figures) and block.runs:
                sets.setdefault(block.runs, len(sets) + 1)
            for row in block.rows if isinstance(block, Table) else []:
                for cell in row:
                    if cell.runs and cell.text:
                        sets.setdefault(cell.runs, len(sets) + 1)
        return sets
