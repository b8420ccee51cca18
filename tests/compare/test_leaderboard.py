"""experiments/leaderboard/enter.py: what an entry runs, keeps and refuses; no run is trained."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, load_script

enter = load_script(ROOT / "experiments" / "leaderboard" / "enter.py")
ENTRY = "minute_muon"


class Runs:
    """Stands in for whole processes: what was asked of them, and how long each takes."""

    def __init__(self, seconds: float = 50.0) -> None:
        self.seconds = seconds
        self.asked: list[tuple[str, int, list[str]]] = []

    def __call__(self, entry: str, seed: int, overrides: list[str]) -> dict[str, Any]:
        self.asked.append((entry, seed, overrides))
        return {"val_bits_per_byte": 2.0 + seed / 1e4, "seconds": self.seconds, "tokens": 1,
                "parameters": 2}  # fmt: skip


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    found = Runs()
    monkeypatch.setattr(enter, "whole_process", found)
    monkeypatch.setattr(enter, "commit", lambda: "c0ffee")
    monkeypatch.setattr(enter, "RESULTS", tmp_path / "results.csv")
    return found


def type_in(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(sys, "argv", ["enter.py", *line.split()])
    enter.main()


def seeds_written() -> list[int]:
    with enter.RESULTS.open(newline="") as file:
        return [int(row["seed"]) for row in csv.DictReader(file)]


def test_an_entry_is_three_seeds_and_goes_on_where_it_stopped(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter.add([ENTRY, 101, 2.0101, 50.0, 1, 2, "c0ffee", enter.machine()])
    type_in(monkeypatch, ENTRY)
    assert [seed for _, seed, _ in runs.asked] == [100, 102]
    assert all(overrides == [] for _, _, overrides in runs.asked)
    assert seeds_written() == [101, 100, 102]
    assert "mean 2.0101, spread 0.0001" in capsys.readouterr().out


def test_a_seed_over_its_class_is_kept_and_said(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.seconds = 60.1
    with pytest.raises(SystemExit, match=r"too slow: 60\.1 s, where the class allows 60"):
        type_in(monkeypatch, ENTRY)
    assert seeds_written() == [100]


def test_a_try_never_sees_the_held_out_plays(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, f"{ENTRY} --choose optim.lr=0.02")  # as its help shows
    ((entry, seed, overrides),) = runs.asked
    assert (entry, seed, overrides[0]) == (ENTRY, 0, "optim.lr=0.02")
    plays, held_out = overrides[1:]
    assert plays.startswith("data.plays=[")
    assert held_out.startswith("data.val_plays=[")
    assert not any(play in plays + held_out for play in enter.HELD_OUT)
    assert not enter.RESULTS.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{ENTRY} optim.lr=0.02", "overrides and --seeds are for --choose"),
        (f"{ENTRY} --seeds 100", "overrides and --seeds are for --choose"),
        ("hour_muon", "hour_muon is of no class: its name begins with minute, three, thirty"),
    ],
)
def test_what_is_no_entry_is_refused(
    line: str, message: str, runs: Runs, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as end:
        type_in(monkeypatch, line)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not runs.asked
