"""wandb in a process of its own: it has threads, hooks and waits that a run must not wait for.

Started by wandb.py, as a script. Reads a JSON object a line from stdin: {"init": {...}, "settings":
{...}}, then {"row": {...}}, at the end {"summary": {...}}. Answers a line each on stdout: "ready"
(wandb is imported), "started" and the process that wandb itself has started, "done"; or "failed"
and why, as the last one.
"""

import json
import os
import sys
from contextlib import suppress
from typing import Any, TextIO


def mirror(answers: TextIO) -> None:
    """One run from its beginning to its summary."""
    import wandb

    print("ready", file=answers, flush=True)
    begin = json.loads(sys.stdin.readline())
    run = wandb.init(**begin["init"], settings=wandb.Settings(**begin["settings"]))
    run.define_metric("tokens")
    run.define_metric("*", step_metric="tokens")
    print("started", *service(), file=answers, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "row" in message:
            run.log(message["row"])
            continue
        run.summary.update(message["summary"])
        run.finish(exit_code=0)
        # all is on the disk once wandb's own process has ended
        with suppress(Exception, SystemExit):
            wandb.teardown()
        print("done", file=answers, flush=True)
        return


def service() -> list[int]:
    """wandb's background process, if it can be found."""
    with suppress(Exception):  # these names are wandb's own
        from wandb.sdk import wandb_setup

        found: Any = wandb_setup.singleton()._connection._proc._process  # type: ignore[union-attr]
        return [found.pid]
    return []


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        mirror(answers)
    except BaseException as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        with suppress(OSError):
            print("failed", why, file=answers, flush=True)
    os._exit(0)  # past the hooks that wandb leaves, which may wait for minutes


if __name__ == "__main__":
    main()
