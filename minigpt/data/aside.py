"""Work beside the main thread that a stop signal need not wait for."""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from queue import SimpleQueue
from threading import Thread
from typing import Any

from minigpt.interrupt import requested

LOOK_EVERY_S = 0.1
GRACE_S = 1.0  # for work that is under way when a signal comes; then it is left alone


class Workers:
    """Threads that work off what is submitted, in that order.

    They end with the process, whatever they do: a library may need minutes for a long word.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        self.jobs: SimpleQueue[tuple[Future[Any], Callable[..., Any], Any] | None] = SimpleQueue()
        self.threads = [
            Thread(target=self._work, name=f"{name}_{n}", daemon=True) for n in range(n_threads)
        ]
        for thread in self.threads:
            thread.start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            future, function, argument = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(argument))
                except BaseException as error:
                    future.set_exception(error)

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.put((future, function, argument))
        return future

    def close(self) -> None:
        """No more work; waits for what is under way, unless a stop signal came."""
        for _ in self.threads:
            self.jobs.put(None)
        if requested() is None:
            for thread in self.threads:
                thread.join()


def settled(future: Future[Any]) -> bool:
    """Wait for a result. False if a stop signal came and the work did not end within GRACE_S."""
    grace_s = GRACE_S
    while not future.done() and grace_s > 0:
        wait_for([future], timeout=LOOK_EVERY_S)
        if requested() is not None:
            grace_s -= LOOK_EVERY_S
    return future.done()
