"""The report as text: for a terminal, and as Markdown."""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from minigpt.compare import document as doc
from minigpt.study.run import Run
from minigpt.terminal import escape_line, table

SIGNS = {
    "better": "+",
    "worse": "-",
    "equivalent": "=",
    "no difference": "=",
    "undecided": "?",
    "lower": "<",
    "higher": ">",
    "alike": "=",  # without a declaration: no claims
}


def terminal_text(document: doc.Document) -> str:
    """Plain text without details, links and figures. Tables are as wide as they need to be."""
    lines = [document.title, "=" * len(document.title)]
    for block in document.blocks:
        match block:
            case doc.Heading(title):
                lines += ["", title, "-" * len(title)]
            case doc.VerdictLine(kind, sentence):
                lines.append(f"[{SIGNS[kind]}] {sentence}")
            case doc.Bullets(title, items):
                lines += ["", f"{title}:", *(f"  - {item}" for item in items)]
            case doc.Paragraph(words):
                lines += ["", words]
            case doc.Table(title, rows, detail=False):
                texts = [list(rows[0]), *([cell.text for cell in row.values()] for row in rows)]
                lines += ["", f"{title}:", *table(texts, indent="  ")]
    return "\n".join(map(escape_line, lines)).strip() + "\n"


def markdown(document: doc.Document, out: Path) -> str:
    """The text of report.md. out: its folder, for relative links."""
    numbers = document.numbered_runs()

    def link(cell: doc.Cell) -> str:
        text = escape_signs(cell.text)
        return f"[{text}](#runs-{numbers[cell.runs]})" if cell.runs and text else text

    lines = [f"# {escape_signs(document.title)}"]
    for block in document.blocks:
        match block:
            case doc.Heading(title):
                lines += ["", f"## {escape_signs(title)}"]
            case doc.VerdictLine(kind, sentence, runs):
                lines += ["", f"**{link(doc.Cell(kind, runs))}** {escape_signs(sentence)}"]
            case doc.Bullets(title, items):
                lines += ["", f"**{title}**", "", *(f"- {escape_signs(item)}" for item in items)]
            case doc.Paragraph(words):
                lines += ["", escape_signs(words)]
            case doc.Table(title, rows, note):
                lines += ["", f"### {escape_signs(title)}", ""]
                lines += [_row(map(escape_signs, rows[0])), _row(["---"] * len(rows[0]))]
                lines += [_row(map(link, row.values())) for row in rows]
                lines += ["", escape_signs(note)] if note else []
            case doc.Figures(figures, drawn):
                for figure in figures:
                    caption = escape_signs(figure.caption)
                    lines += ["", f"![{caption}]({figure.name}.png)", "", f"*{caption}*"]
                lines += ["", f"Drawn from {link(drawn)}."]
    lines += ["", "## Runs behind the numbers", ""]
    for runs, number in numbers.items():
        folders = ", ".join(f"[{escape_signs(run.name)}](<{address(run, out)}>)" for run in runs)
        lines.append(f'- <a id="runs-{number}"></a>{number}: {folders}')
    return "\n".join(map(escape_line, lines)) + "\n"


def escape_signs(text: str) -> str:
    """Text without Markdown's own signs."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def address(run: Run, out: Path) -> str:
    """The way from a report to a run's folder, as a relative URL."""
    relative = os.path.relpath(run.folder.resolve(), out.resolve())
    return quote(os.fsencode(Path(relative).as_posix()))
