import pytest

from minigpt.terminal import escape_controls, on_stdout


def test_control_characters_are_escaped() -> None:
    assert (
        escape_controls("\x1b[31mred\x07\r\n\tplain é 🎭")
        == r"\x1b[31mred\x07\r" + "\n\tplain é 🎭"
    )
    assert escape_controls("a\x9bb\u202ec\x7f\0") == r"a\x9bb\u202ec\x7f\x00"


@pytest.mark.faults(50)
@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_gets_them_escaped(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert on_stdout("\x1b]0;title\x07") == (
        r"\x1b]0;title\x07" if terminal else "\x1b]0;title\x07"
    )
