"""stdout and stderr that can vanish, fill up or hang without harm to the work.

`standard()` puts a Stream in place of each. Whoever watches may close a pipe, a terminal or a disk
at any moment. Then text is lost, and nothing else. Nothing stays in a buffer, so nothing is left to
fail when Python ends.
"""

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from minigpt import interrupt
from minigpt.errors import StorageError

PATIENCE_S = 0.2  # how long a line that is only watched may hold up the work
LAST_PATIENCE_S = 1.0  # the same for all that is left at the end
MOST_WAITING = 1 << 16  # bytes kept for a reader who does not read; what comes then is lost


class OutputLostError(StorageError):
    """stdout, which is what a command is for, takes no more.

    A reader who has gone (`| head`) gets no message and the code of SIGPIPE, as with any program.
    """

    def __init__(self, error: OSError) -> None:
        if error.errno == errno.EPIPE:
            super().__init__()
            self.exit_code = 128 + 13
        else:
            why = error.strerror or str(error)
            super().__init__(f"cannot write: stdout: {why} (what was printed is cut short)")


class Stream:
    """Text to a file descriptor, written by a thread of its own.

    A write waits until its text has arrived, so two streams keep their order. After PATIENCE_S it
    goes on without, until the reader has caught up. Characters that the encoding lacks are escaped.

    must_arrive: a write waits as long as it takes, or until a stop signal, and raises
        OutputLostError if it fails.
    """

    def __init__(
        self, descriptor: int | None, encoding: str, errors: str, must_arrive: bool = False
    ) -> None:
        self.descriptor, self.encoding, self.errors = descriptor, encoding, errors
        self.must_arrive = must_arrive
        # the first error of a write; raised for a stream that must arrive
        self.lost = _no_descriptor() if descriptor is None else None
        self.closed = False
        # shares the place where it all appears: a line of it ends first
        self.other: Stream | None = None
        self._inside_line = False
        self._late = False  # the reader did not read within PATIENCE_S
        self._waiting = bytearray()  # goes out next
        self._writing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        if not text:
            return 0
        if self.other is not None and self.other._inside_line:
            self.other._send("\n")
        self._send(text)
        if self.must_arrive:
            self._wait()
        return len(text)

    def flush(self) -> None:
        """Nothing to do: every write has been waited for."""

    def fileno(self) -> int:
        if self.descriptor is None:
            raise _no_descriptor()
        return self.descriptor

    def isatty(self) -> bool:
        return self.descriptor is not None and os.isatty(self.descriptor)

    def writable(self) -> bool:
        return True

    def finish(self) -> None:
        """Wait a last moment for the reader. A descriptor that failed leads nowhere from now on."""
        with self._changed:
            arrived = self._changed.wait_for(self._arrived, LAST_PATIENCE_S)
        if self.descriptor is not None and (self.lost is not None or not arrived):
            _lead_nowhere(self.descriptor)

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode(self.encoding, self.errors)
        except UnicodeEncodeError:
            return text.encode(self.encoding, "backslashreplace")

    def _send(self, text: str) -> None:
        """Hand over and wait for PATIENCE_S at most; not at all while the last one still waits."""
        self._inside_line = not text.endswith("\n")
        if self.descriptor is None:
            return
        content = self._encoded(text)
        with self._changed:
            if self._late and len(self._waiting) + len(content) > MOST_WAITING:
                return
            self._waiting += content
            if self._thread is None or not self._thread.is_alive():  # the latter after a fork
                self._writing = False
                self._thread = threading.Thread(target=self._work, name="stream", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            if not self._late:
                self._late = not self._changed.wait_for(self._arrived, PATIENCE_S)

    def _wait(self) -> None:
        with self._changed:
            while not self._changed.wait_for(self._arrived, PATIENCE_S):
                interrupt.stop_if_requested("output that nobody reads")
        if self.lost is not None:
            raise OutputLostError(self.lost)

    def _arrived(self) -> bool:
        return not self._waiting and not self._writing

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                content = memoryview(bytes(self._waiting))
                self._waiting.clear()
                self._writing = True
            try:
                while content:
                    content = content[os.write(self.fileno(), content) :]
            except OSError as error:
                self.lost = self.lost or error
            with self._changed:
                self._writing = False
                self._late = self._late and bool(self._waiting)
                self._changed.notify_all()


@contextmanager
def standard(must_arrive: bool = False) -> Iterator[None]:
    """sys.stdout and sys.stderr as Streams. must_arrive: stdout is what the command is for."""
    before = sys.stdout, sys.stderr
    install(must_arrive)
    try:
        yield
    finally:
        out, error = cast(Any, (sys.stdout, sys.stderr))
        if out is not before[0]:
            out.finish()
            lost = None if out.must_arrive else out.lost
            if lost is not None and lost.errno not in (errno.EPIPE, errno.EBADF):
                error.write(f"warning: cannot write: stdout: {lost.strerror} (the work is done)\n")
        if error is not before[1]:
            error.finish()
        sys.stdout, sys.stderr = before


def install(must_arrive: bool = False) -> None:
    """The same for good, in a process that only works (a worker of a sweep)."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # `>&-`: else the next file that is opened would be stdout
            _lead_nowhere(descriptor)
    out, error = _stream(sys.stdout, must_arrive), _stream(sys.stderr, False)
    if isinstance(out, Stream) and isinstance(error, Stream) and _one_place(out, error):
        error.other = out
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, error)


def stdout_must_arrive() -> None:
    """From now on stdout is what the command is for: `--help`, a description."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.must_arrive = True


def _stream(plain: Any, must_arrive: bool) -> Any:
    """A Stream in place of a plain one. Those without a descriptor, as in a notebook, stay."""
    if isinstance(plain, Stream):
        return plain
    if plain is None:
        return Stream(None, "utf-8", "strict", must_arrive)
    try:
        descriptor = plain.fileno()
        plain.flush()
    except OSError as error:  # io.UnsupportedOperation is one
        if error.errno is None:
            return plain
    except (AttributeError, ValueError):
        return plain
    return Stream(descriptor, plain.encoding or "utf-8", plain.errors or "strict", must_arrive)


def _one_place(one: Stream, two: Stream) -> bool:
    if one.descriptor is None or two.descriptor is None:
        return False
    return os.path.samestat(os.fstat(one.descriptor), os.fstat(two.descriptor))


def _no_descriptor() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)  # as the standard ones are: workers have them too
    else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
