"""`train.devices=N`: one command that starts N ranks, by the elastic agent that torchrun starts.

Each rank is a `python -m minigpt.cli.rank` with the plan that was made here. What a rank has to say
of its end it leaves in a file, so that one process speaks.
"""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minigpt import interrupt
from minigpt.config.plan import Plan
from minigpt.errors import ConfigError, LostRank, MinigptError, Stopped, error_of
from minigpt.files import records
from minigpt.files.durable import json_bytes

PLAN = "plan.json"
FOLLOWED = (130, 143, -signal.SIGTERM)  # exit codes of ranks that the agent ended


def train(plan: Plan) -> dict[str, Any] | None:
    """Train a plan's run on ranks of this machine. Returns its summary, or None, as `training.run`.

    Raises the error that ended the run, whichever rank had it.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    asked, there = plan.config["train"]["device"], torch.cuda.device_count()
    if asked != "cpu" and 0 < there < plan.devices:
        raise ConfigError(
            f"too few devices: train.devices={plan.devices} on a machine with {there} GPUs "
            f"(train.devices={there}, or train.device=cpu)"
        )
    with tempfile.TemporaryDirectory(prefix="minigpt-ranks-") as name, given_back():
        folder = Path(name)
        values = {"plan": asdict(plan), "command": sys.argv}
        (folder / PLAN).write_text(json.dumps(values, default=str))
        try:
            start(plan, folder)
        except SignalException as stop:
            interrupt.remember(stop.sigval)
            said = [end["problems"] for end in ends(folder) if "stopped" in str(end["problems"])]
            found = records.summary_of(plan.folder) or {}
            if said or found.get("status") != "finished":  # else it came to its end meanwhile
                raise Stopped(stop.sigval, *(said[0] if said else ["stopped"])) from None
        except ChildFailedError as error:
            begin = min(failure.timestamp for failure in error.failures.values())
            codes = {
                rank: failure.exitcode
                for rank, failure in error.failures.items()
                if failure.timestamp <= begin + 1  # the agent kills those that outlast its SIGTERM
            }
            raise cause(ends(folder), codes) from None
    return records.summary_of(plan.folder)


def start(plan: Plan, folder: Path) -> None:
    """Start the ranks and wait for them."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # what it says is said here, in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
    heard = [n for n in interrupt.SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # nohup holds
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // plan.devices)))
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    timeout = plan.config["train"]["rank_timeout"]
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read as soon as a rank imports torch
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(max(1, round(timeout)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=plan.devices,
        run_id=plan.id,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in heard),
    )
    command = interrupt.with_parent(
        [sys.executable, "-m", "minigpt.cli.rank", str(folder)], signal.SIGTERM
    )
    elastic_launch(config, command[0])(*command[1:])


@contextmanager
def given_back() -> Iterator[None]:
    """Give the signals and the environment back that the agent takes over."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def leave(folder: Path, rank: int, error: MinigptError) -> None:
    """Note how a rank ended, for the process that started it."""
    said = {
        "exit_code": error.exit_code,
        "problems": error.problems,
        "lost": isinstance(error, LostRank),
    }
    (folder / f"rank_{rank:05d}.json").write_bytes(json_bytes(said))


def ends(folder: Path) -> list[dict[str, Any]]:
    """How ranks ended; those last that only lost another."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("rank_*.json"))]
    return sorted(found, key=lambda end: end["lost"])


def cause(ended: list[dict[str, Any]], codes: Mapping[int, int]) -> MinigptError:
    """The error that ended the run. codes: of the ranks that failed first, exit code by rank.

    Others that were stopped, or lost it, only followed.
    """
    by_itself = [end for end in ended if not end["lost"] and end["exit_code"] not in (130, 143)]
    if by_itself:
        return error_of(by_itself[0]["exit_code"], *by_itself[0]["problems"])
    alone = {rank: code for rank, code in codes.items() if code not in FOLLOWED}
    for rank, code in alone.items():
        if code < 0:
            return LostRank(
                f"lost rank {rank}: killed by {signal.Signals(-code).name} "
                "(the same command goes on from the newest checkpoint)"
            )
    for end in ended:
        if end["lost"]:
            return LostRank(*end["problems"])
        if not alone:
            return error_of(end["exit_code"], *end["problems"])
    rank, code = next(iter((alone or codes).items()))
    return MinigptError(f"rank {rank} ended with exit code {code} (see above)")
