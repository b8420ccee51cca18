"""Text as it comes: whole characters, and nothing of a stop string."""

import pytest

from minigpt.generate.text import TextStream


@pytest.mark.faults(50)
def test_text_comes_as_characters_complete() -> None:
    stream = TextStream()
    assert [stream.decode(bytes([byte])) for byte in "aé€".encode()] == ["a", "", "é", "", "", "€"]
    assert stream.decode(b"", final=True) == ""
    assert stream.decode(b"\xf0\x9f") == ""
    assert stream.decode(b"", final=True) == "\ufffd"
    assert stream.decode(b"\xc3(") == "\ufffd("

    content = "naïve — 🎭 ¡olé!".encode() + b"\xff\xe2\x82"
    pieces = TextStream()
    joined = "".join(pieces.decode(content[i : i + 1]) for i in range(len(content)))
    assert joined + pieces.decode(b"", final=True) == content.decode(errors="replace")


@pytest.mark.parametrize(
    ("stop", "whole"),
    [
        (["stop"], "all of it: st"),
        (["stop"], "no s, no st, no sto, then stop and more"),
        (["é!"], "naïve é, é?, é! more"),
        (["aab"], "aaaab"),
        (["xyz", "y"], "wxyz"),
    ],
)
def test_a_text_ends_before_a_stop_string_and_shows_nothing_of_it(
    stop: list[str], whole: str
) -> None:
    """Byte by byte: what has been shown is never taken back."""
    stream = TextStream(stop)
    pieces = [stream.decode(bytes([byte])) for byte in whole.encode()]
    shown = "".join(pieces) + stream.decode(b"", final=True)
    ends = [whole.find(text) for text in stop if text in whole]
    if stop == ["xyz", "y"]:
        ends = [2]  # "y" is there first
    assert shown == whole[: min(ends, default=len(whole))]
    assert stream.stopped == bool(ends)


def test_what_begins_no_stop_string_is_not_held_back() -> None:
    stream = TextStream(["stop"])
    shown = [stream.decode(c) for c in (b"so", b" s", b"t", b"e", b"p")]
    assert shown == ["so", " ", "", "ste", "p"]
