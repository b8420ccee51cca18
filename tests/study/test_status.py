"""A sweep seen from outside: counted, estimated, and never disturbed."""

import json
from pathlib import Path
from typing import Any

from processes import locked
from studies import Compare, Study

from minigpt.files.lock import FolderLock, lock_is_held


def record(study: Study, jobs: list[dict[str, Any]]) -> None:
    folder = study.folder / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": 1, "study": "s", "command": ["train.py", "-m", "optim=muon,adamw"]}
    (folder / "s-abc.json").write_text(json.dumps(content | {"jobs": jobs}))


def job(folder: str | None, *overrides: str) -> dict[str, Any]:
    return {"overrides": list(overrides), "folder": folder}


def test_a_lock_is_seen_without_being_taken(tmp_path: Path) -> None:
    assert not lock_is_held(tmp_path)  # no lock file at all
    with locked(tmp_path):
        assert lock_is_held(tmp_path)
        assert lock_is_held(tmp_path)  # asking did not end it
    assert not lock_is_held(tmp_path)  # the file is still there, the owner is not
    assert (tmp_path / "lock").exists()
    with FolderLock(tmp_path, "run folder"):
        pass


def test_a_running_sweep(study: Study, compare: Compare) -> None:
    # 10.13 s each
    done = [study.run("muon", seed, 4.0 - seed / 100, steps=1000) for seed in (0, 1)]
    running = study.run("muon", 2, None, steps=1000)
    lines = (running / "metrics.jsonl").read_text().splitlines()
    (running / "metrics.jsonl").write_text("\n".join(lines[:10]) + "\n")  # half way
    failed = study.run("muon", 3, None, steps=1000)
    (failed / "failed.json").write_text(
        json.dumps({"error": "out of memory", "exit_code": 1, "time": "now"})
    )
    torn = study.run("muon", 4, None, steps=1000)
    diverged = study.run("adamw", 0, float("inf"), status="diverged", steps=1000)
    folders = [*done, running, failed, torn, diverged]
    jobs = [job(folder.name, "optim=muon", f"seed={i}") for i, folder in enumerate(folders)]
    jobs += [
        job("tiny-muon-s9-later", "optim=muon", "seed=9"),
        job("tiny-adamw-s9-later", "optim=adamw", "seed=9"),
    ]
    record(study, jobs)
    with locked(running):
        assert compare("--status", "--study", "s", "--by", "optim") == 0, compare.err
    assert (
        "8 jobs: 2 done, 1 diverged, 1 running, 1 failed, 1 interrupted, 2 waiting" in compare.out
    )
    assert "running      optim=muon seed=2  step 500 of 1,000, loss 4.5750" in compare.out
    assert "failed       optim=muon seed=3  out of memory (exit code 1)" in compare.out
    assert "interrupted  optim=muon seed=4  step 1,000 of 1,000" in compare.out
    assert "diverged     optim=muon seed=5  at step 1000" in compare.out
    # seed 0 is the one that adamw has ended too, if only by diverging
    assert (
        "best so far  muon: 4.0000  optim=muon  (mean of 1 seed at 512,000 tokens)" in compare.out
    )
    # half of the running one, the interrupted one again, two that wait: 3.5 times 10.13 s
    assert "time left: about 35 s with 1 at a time" in compare.out
    assert "outside recorded sweeps" not in compare.out


def test_a_failed_job_without_a_run_is_failed_and_a_retried_one_is_not(
    study: Study, compare: Compare
) -> None:
    refused = study.folder / "tiny-muon-s0-refused"
    refused.mkdir(parents=True)
    (refused / "failed.json").write_text(
        json.dumps({"error": "no such tokenizer", "exit_code": 3, "time": "now"})
    )
    noted = {"failed": {"error": "no such key", "exit_code": 2, "time": "now"}}
    jobs = [job(refused.name, "optim=muon"), job(None, "seed=1"), job(None, "seed=2") | noted]
    record(study, jobs)  # two without a folder, as of jobs that were never composed
    assert compare("--status") == 0
    assert "3 jobs: 2 failed, 1 waiting" in compare.out
    assert "no such tokenizer (exit code 3)" in compare.out
    assert "failed       seed=2  no such key (exit code 2)" in compare.out
    (refused / "failed.json").unlink()
    assert compare("--status") == 0
    assert "3 jobs: 1 failed, 2 waiting" in compare.out
    assert "time left: unknown until a job has finished" in compare.out


def test_without_a_record_the_runs_themselves_are_shown(study: Study, compare: Compare) -> None:
    study.run("muon", 0, 4.0)
    study.run("muon", 1, None)
    study.run("adamw", 1, 3.0, study="other")
    assert compare("--status") == 0
    assert "3 jobs: 2 done, 1 interrupted" in compare.out
    assert "time left" not in compare.out  # nothing is known to wait
    assert compare("--status", "--study", "other") == 0
    assert "1 job: 1 done" in compare.out
    assert compare("--status", "--study", "nobody") == 2
    assert compare.err.startswith("error: nothing to show:")


def test_a_foreign_record_is_named_and_skipped(study: Study, compare: Compare) -> None:
    study.run("muon", 0, 4.0)
    (study.folder / "sweeps").mkdir()
    (study.folder / "sweeps" / "x.json").write_text('{"schema": 7}')
    (study.folder / "sweeps" / "y.json").write_text("{")
    assert compare("--status") == 0
    assert "x.json: not a record of a sweep that this minigpt reads" in compare.out
    assert "y.json: not a record of a sweep that this minigpt reads" in compare.out
    assert "1 job: 1 done" in compare.out


def test_the_arms_of_a_sweep_are_the_options_that_it_tries(study: Study, compare: Compare) -> None:
    jobs = []
    for schedule, warmup, loss in (("wsd", 0.1, 3.0), ("linear", 0.2, 3.5)):
        choices = {"model": "tiny", "optim": "muon", "schedule": schedule}
        config = {"schedule.warmup": warmup}
        run = study.run("muon", 0, loss, config=config, record={"choices": choices})
        jobs.append(job(run.name, "model=tiny", f"schedule={schedule}", "seed=0"))
    record(study, jobs)
    assert compare("--status") == 0, compare.err
    assert "best so far  wsd: 3.0000  schedule=wsd  (mean of 1 seed" in compare.out
    assert "best so far  linear: 3.5000" in compare.out
    assert "best so far  muon" not in compare.out


def test_arms_that_share_no_seed_or_budget_have_their_own_best(
    study: Study, compare: Compare
) -> None:
    study.run("muon", 0, 3.0)
    study.run("muon", 1, 3.2, lr=0.04)
    study.run("muon", 1, 3.4)
    study.run("adamw", 5, 3.5, steps=50)
    assert compare("--status") == 0
    assert "best so far  muon: 3.2000" in compare.out, "of the seed that both settings have"
    assert "best so far  adamw: 3.5000" in compare.out
    assert "unknown" not in compare.out
