"""The ranks of a run: processes that train it together, each on a device of its own.

A process alone is rank 0 of 1, and nothing here does anything. torchrun, train.devices and Slurm
give each process RANK and WORLD_SIZE. Decisions travel through a store of keys, which is there
before training is; tensors through torch.distributed's group.
"""

import json
import math
import os
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from minigpt import interrupt
from minigpt.errors import ConfigError, LostRank, MinigptError, error_of

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store

T = TypeVar("T")
BEFORE_TRAINING = "before its first step (the same command goes on)"
ROLL_CALL_S = 2.0  # how long a rank has to answer, once a sum over ranks has failed


@dataclass
class Meeting:
    """How the ranks of a run talk, while they do."""

    store: "Store | None" = None
    numbers: Iterator[int] = field(default_factory=count)  # of decisions; the same on every rank
    patience_s: float = 0.0


_met = Meeting()


def launched() -> int:
    """How many processes were started to train together, this one included, by its environment."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def world_size() -> int:
    """How many ranks train this run, once they have met; before it 1."""
    group = _group()
    return group.get_world_size() if group else 1 if _met.store is None else launched()


def rank() -> int:
    """Which of them this process is."""
    group = _group()
    return group.get_rank() if group else int(os.environ["RANK"]) if launched() > 1 else 0


def _group() -> Any:
    """torch.distributed where a process group is; it is not imported for this."""
    found: Any = sys.modules.get("torch.distributed")
    return found if found and found.is_available() and found.is_initialized() else None


@contextmanager
def meeting(device: str, timeout_s: float) -> Iterator[None]:
    """Let all ranks of a run find each other, and tell the others if this one fails.

    device: as in train.device. timeout_s: how long ranks wait for one another.
    """
    if launched() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if device in ("auto", "cuda") and torch.cuda.is_available():
        own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= there:
            raise LostRank(f"too few devices: local rank {own}, {there} GPUs here")
        torch.cuda.set_device(own)
    _met.numbers, _met.patience_s = count(), timeout_s
    try:
        _met.store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
        _met.store = dist.PrefixStore(_common_name(), _met.store)
    except BaseException as error:
        _met.store = None  # without the name it is the next attempt's, too: nothing is left there
        if not isinstance(error, RuntimeError):
            raise
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        why = f"{str(error).splitlines()[0]} (train.rank_timeout={timeout_s:g})"
        raise LostRank(f"ranks do not meet: {where}: {why}") from None
    try:
        yield
    except BaseException as error:
        if not isinstance(error, LostRank):
            with suppress(RuntimeError):  # of a store that is gone
                said = error.problems[0] if isinstance(error, MinigptError) else repr(error)
                _met.store.set("failed", json.dumps([rank(), said]))
        raise
    finally:
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()
        _met.store = None


def _common_name() -> str:
    """A name for this attempt that all of its ranks know.

    An agent that starts killed ranks again keeps the store, and what the dead left in it. So each
    rank says hello by a name of its own, which rank 0 answers until all have heard it.
    """
    assert _met.store is not None
    own = uuid.uuid4().hex
    if rank() > 0:
        _met.store.set(f"hello/{rank()}", own)
        name = _read(f"welcome/{own}").decode()
        _met.store.set(f"heard/{name}/{rank()}", "")
        return name
    others, end = set(range(1, world_size())), time.monotonic() + _met.patience_s
    while others:
        if time.monotonic() > end:
            raise LostRank(_no_answer(others, _met.patience_s))
        for other in list(others):
            if _met.store.check([f"hello/{other}"]):
                _met.store.set(f"welcome/{_met.store.get(f'hello/{other}').decode()}", own)
            if _met.store.check([f"heard/{own}/{other}"]):
                others.discard(other)
        interrupt.stop_if_requested(BEFORE_TRAINING)
        time.sleep(0.01)
    return own


def join(device: str) -> None:
    """Make the group that sums tensors: gloo, and nccl for those on CUDA."""
    if _met.store is None:
        return
    import torch.distributed as dist

    if device == "mps":
        raise ConfigError("one device: mps cannot share a run (train.device=cpu, or one process)")
    _met.store.set(f"ready/{rank()}", "")
    for other in range(world_size()):  # torch's own wait hears neither a signal nor who has failed
        _read(f"ready/{other}", _met.patience_s)
    with _answering():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore("group", _met.store),
            rank=rank(),
            world_size=world_size(),
            timeout=timedelta(seconds=_met.patience_s),
        )


def decide(work: Callable[[], T]) -> T | None:
    """Do work on rank 0 alone; its value (plain) on every rank. So is its MinigptError."""
    if _met.store is None:
        return work()
    key = f"decision/{next(_met.numbers)}"
    if rank() > 0:
        value, code, problems = json.loads(_read(key))
        if problems:
            error = error_of(code, *problems)
            error.told = True
            raise error
        return value  # type: ignore[no-any-return]
    try:
        value = work()
    except MinigptError as error:
        _met.store.set(key, json.dumps((None, error.exit_code, error.problems)))
        raise
    _met.store.set(key, json.dumps((value, 0, ())))
    return value


def first_then_all(work: Callable[[], T]) -> T:
    """Do work on rank 0, and once it is done on all others. Nobody's patience ends meanwhile."""
    done: list[T] = []
    decide(lambda: done.append(work()))
    return done[0] if done else work()


def sum_(tensors: "Sequence[torch.Tensor]") -> None:
    """Replace tensors by their sums over all ranks, in one collective for each dtype.

    The sums are equal on every rank. Takes as much memory again.
    """
    import torch
    import torch.distributed as dist

    alike: dict[Any, list[torch.Tensor]] = defaultdict(list)
    for tensor in tensors:
        alike[tensor.dtype, tensor.device].append(tensor)
    for members in alike.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in members])
        with _answering():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in members])
        shaped = [part.view_as(tensor) for tensor, part in zip(members, parts, strict=True)]
        torch._foreach_copy_(members, shaped)


def gather(tensor: "torch.Tensor") -> "list[torch.Tensor]":
    """The tensors of all ranks, of equal shape and dtype, bit for bit."""
    import torch
    import torch.distributed as dist

    everyone = [torch.empty_like(tensor) for _ in range(world_size())]
    with _answering():  # as bytes, since gloo does not know every dtype
        dist.all_gather([part.view(torch.uint8) for part in everyone], tensor.view(torch.uint8))
    return everyone


def values(value: T) -> list[T]:
    """The value of each rank, once there is a group."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    everyone: list[Any] = [None] * world_size()
    with _answering():
        dist.all_gather_object(everyone, value)
    return everyone


def _read(key: str, patience_s: float = math.inf) -> bytes:
    """A key of the store, unless a rank fails or a signal comes.

    However long it takes, or so long that the rank which the key ends with counts as lost.
    """
    import torch.distributed as dist

    assert _met.store is not None
    end = time.monotonic() + patience_s
    while True:
        try:
            _met.store.wait([key], timedelta(seconds=1))
            return _met.store.get(key)
        except dist.DistStoreError:  # not yet
            if (failed := _failed()) is not None:
                raise LostRank(failed) from None
            interrupt.stop_if_requested(BEFORE_TRAINING)
            if time.monotonic() > end:
                raise LostRank(_no_answer({int(key.rpartition("/")[2])}, patience_s)) from None
        except RuntimeError:
            raise LostRank("lost rank 0: it is gone (the same command goes on)") from None


@contextmanager
def _answering() -> Iterator[None]:
    """Name the ranks that did not take part where a collective fails."""
    import torch

    begin = time.monotonic()
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        waited, silent = time.monotonic() - begin, _silent_ranks()
        raise LostRank(_failed() or _no_answer(silent, waited)) from None


def _no_answer(silent: Collection[int], waited_s: float) -> str:
    """What to say of ranks that others have waited for."""
    how = f"no answer for {waited_s:.0f} s (train.rank_timeout={_met.patience_s:g})"
    how = how if waited_s >= _met.patience_s else "it is gone"
    named = f"lost a rank of {world_size()}: rank {', '.join(map(str, silent)) or 'unknown'}"
    return f"{named}: {how}; the same command goes on from the newest checkpoint"


def _silent_ranks() -> list[int]:
    """Ranks that do not answer a roll call through the store."""
    missing = set(range(world_size())) - {rank()}
    if _met.store is None:
        return []
    end = time.monotonic() + ROLL_CALL_S
    with suppress(RuntimeError):  # rank 0 may have held the store
        _met.store.set_timeout(timedelta(seconds=ROLL_CALL_S))
        _met.store.set(f"alive/{rank()}", "")
        while missing and time.monotonic() < end and _failed() is None:
            missing = {other for other in missing if not _met.store.check([f"alive/{other}"])}
            time.sleep(0.05)
    return sorted(missing)


def _failed() -> str | None:
    """What the rank that failed first says of it, if one could say anything."""
    with suppress(RuntimeError):
        if _met.store is not None and _met.store.check(["failed"]):
            other, said = json.loads(_met.store.get("failed"))
            return f"rank {other} failed: {said}"
    return None
