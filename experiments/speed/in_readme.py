"""The README of this folder, whose tables the scripts write."""

from pathlib import Path

README = Path(__file__).with_name("README.md")


def put(name: str, table: str) -> None:
    """Write a table between the markers of that name, where the README has them."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    before, _, rest = README.read_text().partition(begin)
    if rest:
        README.write_text(f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}")
