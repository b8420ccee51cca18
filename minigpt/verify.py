"""Whether runs can be trusted.

python -m minigpt.verify RUN [RUN ...]
"""

import sys
from pathlib import Path

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.errors import CheckpointError
from minigpt.run.verify import line_about
from minigpt.streams import OutputLostError
from minigpt.terminal import escape_line

EXIT_BAD = CheckpointError.exit_code
HELP = """\
Say of each run in one line whether it can be trusted:

  checkpoints     every byte is the one that was written (SHA-256), all weights are finite,
                  all are of this run
  run.json        its id is the hash of what it says it is; config.yaml hashes to the same id
  tokens          where they are still present: the fingerprint is that of the run, every shard
                  has its hash
  metrics.jsonl   no torn, repeated or missing rows; steps and tokens agree
  summary.json    step, tokens and validation loss are those of the last rows and of the last
                  checkpoint

Nothing is written. A run that is still training is looked at as it stands: a torn last line is
normal there, and the same train.py command drops it.

  python -m minigpt.verify outputs/tiny-muon-shakespeare-3fa9c1d2
  python -m minigpt.verify outputs/*-????????          all of them

exit code: 0 all can be trusted, 4 at least one cannot
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.verify", HELP)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folder of a run (outputs/<name>-<id>)"
    )
    return exit_code_of(lambda: verify(parser.parse_args(arguments).runs))


def verify(folders: list[Path]) -> int:
    """A line for each run; EXIT_BAD if any cannot be trusted, even where nobody reads the lines."""
    code, lost = 0, None
    for folder in folders:
        trusted, line = line_about(folder.expanduser())
        code = code if trusted else EXIT_BAD
        try:
            print(escape_line(line))
        except OutputLostError as error:
            lost = error
    if code == 0 and lost is not None and lost.problems:
        raise lost
    return code


if __name__ == "__main__":
    sys.exit(main())
