"""The line of a running phase where there is no terminal."""

import io
import sys
import time
from pathlib import Path

import pytest

from minigpt.files.lock import FolderLock
from minigpt.study import live
from minigpt.study.live import LiveLine, WatchedJob


def test_without_a_terminal_it_tells_of_the_phase_at_once_and_of_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(live, "LOOK_S", 0.01)
    monkeypatch.setattr(live, "ENDED_S", 0.0)
    jobs = [WatchedJob(tmp_path / name, name) for name in ("a", "b")]
    monkeypatch.setattr(
        live, "summary_of", lambda folder: {"val_loss": 4.0} if folder.exists() else None
    )
    with LiveLine("a_study  tune", jobs, "val_loss"):
        assert said.getvalue().startswith("a_study  tune  2 jobs\n")
        end = time.monotonic() + 5
        for words in ("0 of 2 done", "1 of 2 done"):
            while words not in said.getvalue():
                assert time.monotonic() < end
                time.sleep(0.005)
            jobs[0].folder.mkdir(exist_ok=True)
        time.sleep(0.05)
        assert len(said.getvalue().splitlines()) == 3, "nothing new, no line"


def test_a_job_that_was_killed_half_way_is_not_running(tmp_path: Path) -> None:
    jobs = [WatchedJob(tmp_path / name, name) for name in ("killed", "going")]
    for job in jobs:
        job.folder.mkdir()
        (job.folder / "metrics.jsonl").write_text('{"step": 5, "tokens": 50, "time_s": 1.0}\n')
    with FolderLock(jobs[1].folder, "run"):
        line = LiveLine("a_study  tune", jobs, "val_loss").line()
    assert "0 of 2 done, 1 running" in line


def test_the_time_left_of_jobs_whose_steps_only_the_corpus_knew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with train.epochs: run.json has them."""
    jobs = [WatchedJob(tmp_path / name, name) for name in ("a", "b")]
    monkeypatch.setattr(live, "read_record", lambda folder: {"steps": 10})
    monkeypatch.setattr(live, "LOOK_S", 0.0)
    line = LiveLine("a_study  tune", jobs, "val_loss")
    assert line.line().endswith("time left unknown")
    for job in jobs:
        job.folder.mkdir()
        (job.folder / "metrics.jsonl").write_text('{"step": 5, "tokens": 50, "time_s": 1.0}\n')
    line.begin = time.monotonic() - 30.0
    assert line.line().endswith("about 30 s left")
