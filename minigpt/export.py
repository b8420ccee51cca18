"""Export a run to a Hugging Face folder.

python -m minigpt.export RUN DIR
"""

import argparse
import sys
from pathlib import Path

import torch

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.generate.card import model_card
from minigpt.generate.hugging_face import to_hugging_face
from minigpt.generate.load import load_run


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.export", "Export a run to a Hugging Face folder.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run (outputs/<name>-<id>)")
    parser.add_argument("folder", metavar="DIR", type=Path, help="new folder to write")
    return exit_code_of(lambda: export(parser.parse_args(arguments)))


def export(wanted: argparse.Namespace) -> None:
    """The run to the folder. Raises CheckpointError, ConfigError or StorageError."""
    run = load_run(wanted.run.expanduser())
    with torch.no_grad():
        folder = wanted.folder.expanduser()
        to_hugging_face(run.model, run.tokenizer, folder, model_card(run))
    print(f"exported {run.folder} (step {run.step}) to {wanted.folder}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
