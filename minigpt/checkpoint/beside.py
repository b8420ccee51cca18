"""Writing while training goes on: a copy of the tensors, and one thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

# Bytes of tensors that are written at once, in milliseconds: not worth a copy and a thread.
AT_ONCE = 32 * 2**20


class Beside:
    """Writes trees of tensors, one at a time, in a thread of its own."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def start(self, tree: Any, write: Callable[[Any], None], at_once: bool = False) -> None:
        """Begin to write a copy of the tree, once the one before is written.

        at_once: write the tree itself, as is done with small ones.
        """
        from minigpt.optim.state_tree import bytes_of

        self.wait()
        if at_once or bytes_of(tree) < AT_ONCE:
            write(tree)
            return
        arrived = snapshot(tree)
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._pending = self._thread.submit(lambda: write(arrived()))

    def wait(self) -> None:
        """Until what was begun is written. Raises what that raised, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """As `wait`, and end the thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()


def snapshot(tree: Any) -> Callable[[], Any]:
    """Copy a tree's tensors to the host. Returns what gives the tree once they have arrived.

    On CUDA the copies are queued before the next step, into pinned memory, and nobody waits here.
    """
    import torch

    queued = False

    def copied(value: Any) -> Any:
        nonlocal queued
        if isinstance(value, torch.Tensor):
            queued = queued or value.is_cuda
            return value.detach().to("cpu", copy=True, non_blocking=value.is_cuda)
        if isinstance(value, dict):
            return {key: copied(item) for key, item in value.items()}
        return [copied(item) for item in value] if isinstance(value, list) else value

    result = copied(tree)
    if not queued:
        return lambda: result
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Any:
        arrived.synchronize()
        return result

    return wait
