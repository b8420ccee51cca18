"""The report on a terminal: verdicts first, tables as wide as they need to be."""

from minigpt.compare.document import (
    Bullets,
    Document,
    Figures,
    Heading,
    Paragraph,
    Table,
    VerdictLine,
)
from minigpt.terminal import escape_line, table

SIGNS = {"better": "+", "worse": "-", "equivalent": "=", "no difference": "=", "undecided": "?"}


def text(document: Document) -> str:
    """Plain text without details, links and figures."""
    lines = [document.title, "=" * len(document.title)]
    for block in document.blocks:
        if isinstance(block, Heading):
            lines += ["", block.text, "-" * len(block.text)]
        elif isinstance(block, VerdictLine):
            lines.append(f"[{SIGNS[block.kind]}] {block.text}")
        elif isinstance(block, Bullets):
            lines += ["", f"{block.title}:", *(f"  - {item}" for item in block.items)]
        elif isinstance(block, Paragraph):
            lines += ["", block.text]
        elif isinstance(block, Table) and not block.detail:
            rows = [block.columns, *([cell.text for cell in row] for row in block.rows)]
            lines += ["", f"{block.title}:", *table(rows, indent="  ")]
        else:
            assert isinstance(block, Table | Figures)
    return "\n".join(map(escape_line, lines)).strip() + "\n"
