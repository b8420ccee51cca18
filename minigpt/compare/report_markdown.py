"""The report as Markdown: tables, links from every number to its runs, figures beside the file."""

import os
from pathlib import Path
from urllib.parse import quote

from minigpt.compare.document import (
    Bullets,
    Cell,
    Document,
    Figures,
    Heading,
    Paragraph,
    Table,
    VerdictLine,
)
from minigpt.study.run import Run
from minigpt.terminal import escape_line


def markdown(document: Document, out: Path) -> str:
    """The text of report.md. out: its folder, for relative links."""
    sets = document.run_sets()
    lines = [f"# {escape(document.title)}"]
    for block in document.blocks:
        if isinstance(block, Heading):
            lines += ["", f"{'#' * block.level} {escape(block.text)}"]
        elif isinstance(block, VerdictLine):
            link = _link(Cell(block.kind, block.runs), sets)
            lines += ["", f"**{link}** {escape(block.text)}"]
        elif isinstance(block, Bullets):
            lines += ["", f"**{block.title}**", "", *(f"- {escape(item)}" for item in block.items)]
        elif isinstance(block, Paragraph):
            lines += ["", escape(block.text)]
        elif isinstance(block, Table):
            lines += [
                "",
                f"### {escape(block.title)}",
                "",
                _row(list(map(escape, block.columns))),
                _row(["---"] * len(block.columns)),
            ]
            lines += [_row([_link(cell, sets) for cell in row]) for row in block.rows]
            lines += ["", escape(block.note)] if block.note else []
        elif isinstance(block, Figures):
            for figure in block.figures:
                lines += [
                    "",
                    f"![{escape(figure.caption)}]({figure.name}.png)",
                    "",
                    f"*{escape(figure.caption)}*",
                ]
            lines += ["", f"Drawn from {_link(Cell(f'{len(block.runs)} runs', block.runs), sets)}."]
    lines += ["", "## Runs behind the numbers", ""]
    for runs, number in sets.items():
        lines.append(
            f'- <a id="runs-{number}"></a>{number}: ' + ", ".join(_folder(run, out) for run in runs)
        )
    return "\n".join(map(escape_line, lines)) + "\n"


def escape(text: str) -> str:
    """Text without Markdown's own signs."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _link(cell: Cell, sets: dict[tuple[Run, ...], int]) -> str:
    return (
        f"[{escape(cell.text)}](#runs-{sets[cell.runs]})"
        if cell.runs and cell.text
        else escape(cell.text)
    )


def _folder(run: Run, out: Path) -> str:
    return f"[{escape(run.name)}](<{quote(os.fsencode(relative(run, out)))}>)"


def relative(run: Run, out: Path) -> str:
    """The way from the report to a run's folder."""
    return Path(os.path.relpath(run.folder.resolve(), out.resolve())).as_posix()
