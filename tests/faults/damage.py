"""Damage to a folder, drawn by hypothesis.

Values of another kind, deep nests, torn and swapped files, pipes, links.
"""

import contextlib
import copy
import json
import os
import resource
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hypothesis import strategies as st
from runs import vouch

from minigpt.checkpoint.layout import MANIFEST
from minigpt.errors import MinigptError

SECONDS = 60  # by the clock, however busy the machine is
CPU_SECONDS = 5  # of one example; they take milliseconds
MEMORY_KIB = 300_000  # that all examples together may add
DEEP = json.loads("[" * 200 + "]" * 200)
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 2**31, 2**63, 2**64, 10**30, -(10**30),
    0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"),
    "", "x", "3", "null", "\x1b]0;owned\x07\x1b[2J\n", "\ud800", "../../x", "/dev/zero", "a/b",
    "\0", "${oc.env:HOME}", "${model}", "os.system", "minigpt.model.transformer.torch.hub.load",
    "minigpt.verify.main", "2001-01-01", "9999-12-31T23:59:59",
    [], {}, [None], [[]], [1, "a"], {"a": 1}, {"_target_": "os.system"}, {"_target_": 1},
    DEEP, ["x"] * 1000, "x" * 100_000,
]  # fmt: skip
Paths = list[tuple[Any, ...]]


def places(tree: Any, at: tuple[Any, ...] = ()) -> Paths:
    """The way to every value of a tree, the whole of it first."""
    found: Paths = [at]
    if isinstance(tree, dict):
        inside = list(tree.items())
    else:
        inside = list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in inside:
        found += places(value, (*at, key))
    return found


def mutated(draw: Any, tree: Any) -> Any:
    """The tree with one to three of its values replaced, removed, renamed, repeated or wrapped."""
    for _ in range(draw(st.integers(1, 3))):
        all_places = places(tree)
        at = all_places[draw(st.integers(0, len(all_places) - 1))]
        if not at:
            tree = copy.deepcopy(draw(st.sampled_from([[tree], *VALUES])))
            continue
        parent = tree
        for key in at[:-1]:
            parent = parent[key]
        key, value = at[-1], parent[at[-1]]
        match draw(st.integers(0, 7)):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                names = ["x", "", "_target_", "\x1b[2J", "step", f"{key} "]
                parent[draw(st.sampled_from(names))] = parent.pop(key)
            case 1 | 2 if isinstance(parent, list):
                parent += [value] * draw(st.integers(1, 3))
            case 3:
                parent[key] = draw(st.sampled_from([[value], {"a": value}]))
            case _:
                parent[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return tree


def torn(draw: Any, content: bytes) -> bytes:
    """Bytes that are cut, flipped, repeated, or something else altogether."""
    # clocks make lengths differ from run to run
    at = draw(st.integers(0, 999)) * len(content) // 1000
    match draw(st.integers(0, 5)):
        case 0:
            return content[:at]
        case 1 if content:
            flipped = bytes([content[at] ^ (1 << draw(st.integers(0, 7)))])
            return content[:at] + flipped + content[at + 1 :]
        case 2:
            return content[:at] + content[at // 2 :]
        case 3:
            return content[:at] + draw(st.binary(max_size=8)) + content[at:]
        case 4:
            return content + content
    return draw(st.sampled_from([
        b"", b"\n", b"\0" * 4096, b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000,
        b"{}", b"[]", b"null", b"1", b"a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        b"a: !!python/object/apply:os.system ['true']", b"a:\n\t- 1",
        b"[" + b"[]," * 30_000 + b"[]]", b"\x80\x04.", b"9" * 5000,
    ]))  # fmt: skip


def text_of(path: Path, draw: Any) -> bytes:
    """A JSON, JSON lines, YAML or safetensors file whose structure is mutated."""
    content = path.read_bytes()
    if path.suffix == ".json":
        tree = mutated(draw, json.loads(content))
        return json.dumps(tree, indent=2, sort_keys=True).encode() + b"\n"
    if path.suffix == ".yaml":
        text = yaml.dump(mutated(draw, yaml.safe_load(content)), sort_keys=False)
        return text.encode("utf-8", "surrogatepass")
    if path.suffix == ".jsonl":
        lines = content.splitlines(keepends=True)
        number = draw(st.integers(0, len(lines) - 1))
        lines[number] = json.dumps(mutated(draw, json.loads(lines[number]))).encode() + b"\n"
        return b"".join(lines)
    if path.suffix == ".safetensors":
        length = struct.unpack("<Q", content[:8])[0]
        header = json.dumps(mutated(draw, json.loads(content[8 : 8 + length]))).encode()
        return struct.pack("<Q", len(header)) + header + content[8 + length :]
    return torn(draw, content)


def other_kind(draw: Any, path: Path, others: list[Path]) -> None:
    """Something else under the name of a file."""
    path.unlink()
    match draw(st.integers(0, 5)):
        case 0:
            os.mkfifo(path)
        case 1:
            elsewhere = ["/dev/zero", "/etc/passwd", path.name, "/no/such/file", ".."]
            path.symlink_to(draw(st.sampled_from(elsewhere)))
        case 2:
            path.mkdir()
        case 3:
            with open(path, "wb") as file:
                os.truncate(file.fileno(), 2**40)
        case 4:
            path.symlink_to(draw(st.sampled_from(others)))
        case _:
            pass


@dataclass
class Good:
    """A folder that is whole; any of its files may be damaged for the length of one example."""

    folder: Path

    def files(self, *patterns: str) -> list[Path]:
        """Those that match, in an order that does not depend on the disk."""
        return sorted({p for pattern in patterns for p in self.folder.glob(pattern) if p.is_file()})

    @contextmanager
    def damaged(self, draw: Any, *patterns: str) -> Iterator[None]:
        """One file of those that match is damaged; a checkpoint's manifest vouches for it."""
        files = self.files(*patterns)
        path = draw(st.sampled_from(files))
        content = path.read_bytes()
        in_checkpoint = path.parent.name.startswith("step_") and path.name != MANIFEST
        manifest = path.parent / MANIFEST
        vouched = manifest.read_bytes() if in_checkpoint else b""
        try:
            match draw(st.integers(0, 9)):
                case 0:
                    other_kind(draw, path, [file for file in files if file != path] or files)
                case 1 | 2:
                    path.write_bytes(torn(draw, content))
                case _:
                    path.write_bytes(text_of(path, draw))
            if in_checkpoint and path.is_file() and path.stat().st_size < 2**30:
                vouch(path.parent)
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)
            path.write_bytes(content)
            if in_checkpoint:
                manifest.write_bytes(vouched)


class HangsError(BaseException):
    """No OSError, since those are taken for a file that cannot be read."""


def survives(call: Callable[[], Any]) -> MinigptError | None:
    """A call works, or raises an error of ours, which is returned; in bounded time and memory.

    Such an error has an exit code and at least one line.
    """
    begin, before = time.process_time(), memory()
    refusal = None
    with _hanging_is_an_error():
        try:
            call()
        except MinigptError as error:
            refusal = error
    took, grown = time.process_time() - begin, memory() - before
    assert took < CPU_SECONDS
    assert grown < MEMORY_KIB
    if refusal is not None:
        assert refusal.exit_code in (2, 3, 4), refusal
        assert refusal.problems
        assert all(problem.strip() for problem in refusal.problems)
    return refusal


@contextmanager
def _hanging_is_an_error() -> Iterator[None]:
    """A call that waits for somebody to write into a pipe takes no time of the processor at all."""

    def hangs(number: int, frame: Any) -> NoReturn:
        raise HangsError(f"still waiting after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def memory() -> int:
    """The most memory that this process has held, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
