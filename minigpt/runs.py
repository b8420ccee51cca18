"""A list of runs.

python -m minigpt.runs outputs
"""

import argparse
import json
import sys

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.study.listing import SHOWN, cells, list_runs
from minigpt.study.values import csv_bytes
from minigpt.terminal import escape_line, table

HELP = """\
List runs: what differs between them, study, step, status, validation loss, bits per byte,
tokens/s, age and folder; the oldest first.

  python -m minigpt.runs outputs
  python -m minigpt.runs outputs --where model=tiny status=finished --sort val_loss
  python -m minigpt.runs outputs --sort=-tokens_per_s --csv > runs.csv

A folder that cannot be read has a row that says why. --where and --sort take a column of --csv
(status, val_loss, step, ...), a group (optim) or a key (optim.hidden.lr, seed).
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.runs", HELP)
    parser.select_runs()
    add = parser.add_argument
    add("--sort", metavar="KEY", help="ascending by a column or key (--sort=-KEY: descending)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="comma-separated values")
    form.add_argument("--json", action="store_true", help="a JSON object a line")
    return exit_code_of(lambda: show(parser.parse_args(arguments)))


def show(asked: argparse.Namespace) -> None:
    """Print the list. Raises ConfigError if there is nothing to list."""
    rows = list_runs([path.expanduser() for path in asked.paths], asked.where, asked.sort)
    if asked.csv:
        print(csv_bytes(rows).decode(), end="")
    elif asked.json:
        for row in rows:
            print(json.dumps(row))
    else:
        header = (*(name.replace("_per_", "/").replace("_", " ") for name in SHOWN), "run")
        for line in table([header, *map(cells, rows)]):
            print(escape_line(line))


if __name__ == "__main__":
    sys.exit(main())
