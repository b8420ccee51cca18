"""Writing beside training: of a copy, one after the other, and no error is lost."""

import threading
from typing import Any

import pytest
import torch

from minigpt.checkpoint import beside
from minigpt.checkpoint.beside import Beside


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "AT_ONCE", 0)


def test_what_is_written_is_what_was_there() -> None:
    """Strides too, which decide the bits of later products."""
    weight = torch.arange(6.0).reshape(2, 3).T
    tree: Any = [{"w": weight}, {"state": [weight * 2, None, 3, "text"]}]
    written: list[Any] = []
    started, go_on = threading.Event(), threading.Event()

    def write(copy: Any) -> None:
        started.set()
        assert go_on.wait(10)
        written.append(copy)

    writer = Beside()
    writer.start(tree, write)
    assert started.wait(10)
    weight.fill_(-1.0)  # the next step
    go_on.set()
    writer.close()
    (copy,) = written
    assert torch.equal(copy[0]["w"], torch.arange(6.0).reshape(2, 3).T)
    assert copy[0]["w"].stride() == weight.stride()
    assert torch.equal(copy[1]["state"][0], 2 * copy[0]["w"])
    assert copy[1]["state"][1:] == [None, 3, "text"]


def test_one_after_the_other() -> None:
    order, writer = [], Beside()
    for number in range(3):
        writer.start(torch.ones(1), lambda tree, number=number: order.append(number))
    writer.close()
    assert order == [0, 1, 2]


@pytest.mark.parametrize("next_call", ["start", "wait", "close"])
def test_an_error_comes_with_the_next_call_and_once(next_call: str) -> None:
    def fail(tree: Any) -> None:
        raise MemoryError("no room")

    writer = Beside()
    writer.start(torch.ones(1), fail)
    arguments = (torch.ones(1), print) if next_call == "start" else ()
    with pytest.raises(MemoryError, match="no room"):
        getattr(writer, next_call)(*arguments)
    writer.close()


def test_small_trees_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "AT_ONCE", 5)
    written: list[str] = []
    writer = Beside()
    writer.start([torch.ones(1)], lambda tree: written.append(threading.current_thread().name))
    assert written == [threading.current_thread().name]
    writer.start([torch.ones(2)], lambda tree: written.append(threading.current_thread().name))
    writer.close()
    assert written[1].startswith("checkpoint")
