import pytest

from minigpt.terminal import count, did_you_mean, duration, escape_controls, gib, on_stdout, table


def test_control_characters_are_escaped() -> None:
    escaped = r"\x1b[31mred\x07\r" + "\n\tplain é 🎭"
    assert escape_controls("\x1b[31mred\x07\r\n\tplain é 🎭") == escaped
    assert escape_controls("a\x9bb\u202ec\x7f\0") == r"a\x9bb\u202ec\x7f\x00"


@pytest.mark.faults(50)
@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_gets_them_escaped(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    expected = r"\x1b]0;title\x07" if terminal else "\x1b]0;title\x07"
    assert on_stdout("\x1b]0;title\x07") == expected


def test_numbers_as_text() -> None:
    seconds = [0.02, 1.5, 35, 90, 110, 200, 9000, 864000]
    texts = ["20 ms", "1.5 s", "35 s", "90 s", "110 s", "3.33 min", "2.5 h", "10 days"]
    assert [duration(s) for s in seconds] == texts
    assert [gib(size) for size in (3 * 2**29, 110 * 2**20, 5 * 2**17)] == [
        "1.50 GiB", "0.11 GiB", "0.625 MiB"
    ]  # fmt: skip
    assert [count(n, "job") for n in (0, 1, 1200)] == ["0 jobs", "1 job", "1,200 jobs"]


def test_a_short_row_widens_no_column() -> None:
    assert table([("a", "bb"), ("ccc", ""), ("not measured: slow",)], indent="  ") == [
        "  a    bb",
        "  ccc",
        "  not measured: slow",
    ]


def test_did_you_mean() -> None:
    assert did_you_mean("sede", ["seed", "lr"]) == "(did you mean seed?)"
    assert did_you_mean("sede", ["seed"], parent="train.") == "(did you mean train.seed?)"
    assert did_you_mean("x", ["seed", "lr"]) == "(known: lr, seed)"
    assert did_you_mean("x", ["seed"], otherwise="(none)") == "(none)"
