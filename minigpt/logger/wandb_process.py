"""wandb in a process of its own: it has threads, hooks and waits that a run must not wait for.

Started by wandb.py, as a script, with the descriptor of a pipe. Reads JSON objects: {"init": {...},
"settings": {...}}, then {"row": {...}} and {"sample": {...}}, at the end {"summary": {...}}.
Answers "ready" (wandb is imported), "started" and the process that wandb itself has started,
"done"; or "failed" and why, as the last one. After "done" it is "ready" for another run, until the
pipe is closed.
"""

import json
import os
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


def mirror(pipe: Connection) -> None:
    """One run from its beginning to its summary."""
    import wandb

    pipe.send_bytes(b"ready")
    begin = json.loads(pipe.recv_bytes())
    run = wandb.init(**begin["init"], settings=wandb.Settings(**begin["settings"]))
    run.define_metric("tokens")
    run.define_metric("*", step_metric="tokens")
    pipe.send_bytes(f"started {service()}".encode())
    samples = []
    while "summary" not in (message := json.loads(pipe.recv_bytes())):
        row = message.get("row")
        if row is None:  # a table can be logged once: each time a new one with all texts
            sample = message["sample"]
            samples.append([sample["step"], sample["text"]])
            table = wandb.Table(columns=["step", "text"], data=samples)
            row = {"tokens": sample["tokens"], "samples": table}
        run.log(row)
    run.summary.update(message["summary"])
    run.finish(exit_code=0)
    with suppress(Exception, SystemExit):
        wandb.teardown()  # all is on the disk once wandb's own process has ended
    pipe.send_bytes(b"done")


def service() -> str:
    """The process that wandb works in, if it can be found."""
    with suppress(Exception):  # these names are wandb's own
        from wandb.sdk import wandb_setup

        found: Any = wandb_setup.singleton()._connection._proc._process  # type: ignore[union-attr]
        return str(found.pid)
    return ""


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    try:
        while True:
            mirror(pipe)
    except BaseException as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        with suppress(OSError):
            pipe.send_bytes(f"failed {why}".encode())
    os._exit(0)  # past the hooks that wandb leaves, which may wait for minutes


if __name__ == "__main__":
    main()
