"""A report as blocks, the same for every writer. Each number knows the runs behind it."""

from dataclasses import dataclass

from minigpt.compare.figures import Figure
from minigpt.study.run import Run


@dataclass(frozen=True)
class Cell:
    text: str
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class VerdictLine:
    kind: str  # better, worse, equivalent, no difference, undecided
    text: str
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Bullets:
    title: str
    items: list[str]


@dataclass(frozen=True)
class Table:
    title: str
    rows: list[dict[str, Cell]]  # by column, the same columns in each
    note: str = ""  # below the table, in files
    detail: bool = False  # for files, not for the terminal


@dataclass(frozen=True)
class Figures:
    figures: list[Figure]
    drawn: Cell  # the runs in them


Block = Heading | Paragraph | VerdictLine | Bullets | Table | Figures


@dataclass
class Document:
    title: str
    blocks: list[Block]

    def numbered_runs(self) -> dict[tuple[Run, ...], int]:
        """Every set of runs that a number rests on, numbered in order of appearance."""
        cited: list[tuple[Run, ...]] = []
        for block in self.blocks:
            if isinstance(block, VerdictLine):
                cited.append(block.runs)
            elif isinstance(block, Figures):
                cited.append(block.drawn.runs)
            elif isinstance(block, Table):
                cited += [cell.runs for row in block.rows for cell in row.values() if cell.text]
        return {runs: number for number, runs in enumerate(dict.fromkeys(filter(None, cited)), 1)}
