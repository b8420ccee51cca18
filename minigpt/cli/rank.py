"""One rank of a run: `python -m minigpt.cli.rank FOLDER`, started by train/devices.py."""

import json
import sys
from pathlib import Path

from minigpt import interrupt, ranks, streams
from minigpt.cli.process import set_up_process
from minigpt.config.plan import Plan
from minigpt.errors import MinigptError
from minigpt.train import devices, training


def main(folder: Path) -> int:
    """Train the plan that lies in the folder; returns the exit code."""
    found = json.loads((folder / devices.PLAN).read_text())
    sys.argv = found["command"]
    with streams.standard(must_arrive=False):
        set_up_process()
        interrupt.install()
        try:
            training.run(Plan.of(found["plan"]))
        except MinigptError as error:
            devices.leave(folder, ranks.rank(), error)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
