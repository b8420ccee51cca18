"""Where prompts come from: the command line, a file, stdin, or whoever types them."""

import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpt import interrupt
from minigpt.errors import ConfigError, Stopped
from minigpt.files.reading import UnreadableError, read_bytes


def prompts_of(config: dict[str, Any]) -> Iterator[str] | list[str]:
    """The prompt, the lines of a file or of stdin that are not blank, or those typed.

    Raises ConfigError if there is none, or for two kinds.
    """
    source, interactive = config["prompts"], config["interactive"]
    kinds = {"prompt=": config["prompt"], "prompts=": source, "interactive=true": interactive}
    given = [kind for kind, value in kinds.items() if value]
    if len(given) > 1:
        raise ConfigError(f"two kinds of prompts: {' and '.join(given)} (give one of them)")
    if interactive:
        return typed()
    return [config["prompt"]] if source is None else lines_of(source)


def lines_of(source: str) -> list[str]:
    """The lines of a file, or with `-` of stdin. Raises ConfigError if all are blank."""
    try:
        if source == "-":
            content = b"" if sys.stdin is None else sys.stdin.buffer.read()  # None: closed
        else:
            content = read_bytes(Path(source).expanduser())
    except UnreadableError as error:
        raise ConfigError(f"no prompts: prompts={source}: {error.why} (a prompt a line)") from None
    text = content.decode("utf-8-sig", "replace").replace("\r\n", "\n")
    lines = [line for line in text.split("\n") if line.strip()]  # other breaks are text
    if not lines:
        raise ConfigError(f"no prompts: prompts={source} holds no text (a prompt a line)")
    return lines


def typed() -> Iterator[str]:
    """Lines as they are typed, until Ctrl-D or Ctrl-C; as they come, if stdin is no terminal."""
    if sys.stdin is None:
        raise ConfigError("no prompts: interactive=true: stdin is closed (use prompts=FILE)")
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    if at_terminal():
        with suppress(ImportError):
            import readline  # noqa: F401  (gives input() a history and keys to edit)
    while True:
        try:
            with interrupt.at_once("prompts that nobody types"):
                line = input("> " if at_terminal() else "")
        except EOFError:
            line = None
        except Stopped:
            if not cut_short():
                raise
            line = None
        if line is None:
            if at_terminal():
                print(file=sys.stderr)  # the shell's next line is one of its own
            return
        if line.strip():
            yield line.removesuffix("\r")


def at_terminal() -> bool:
    """Whether somebody sits there."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def cut_short() -> bool:
    """Whether Ctrl-C came from who sits there, which is then answered for."""
    if not at_terminal() or interrupt.requested() != signal.SIGINT:
        return False
    interrupt.clear()
    return True
