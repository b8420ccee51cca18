"""What a sweep leaves offline, read back with wandb's own command."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import SMALL, Shell

from minigpt import mirror
from minigpt.logger import wandb


def records_of(folder: Path) -> dict[str, list[Any]]:
    """The records of one segment, by type."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this wandb cannot read its own files: {done.stderr[:200]}")
    found = defaultdict(list)
    for line in done.stdout.splitlines():
        record = json.loads(line)
        found[record["type"]].append(record[record["type"]])
    return found


def test_a_resumed_sweep_is_whole_in_its_last_segments_grouped_by_study_and_arm(
    shell: Shell,
) -> None:
    logger = ["logger=wandb", "logger.project=bench", f"logger.folder={shell.folder / 'wandb'}"]
    command = ["-m", *SMALL, "optim=muon,adamw", "study=arms", *logger]
    assert shell("train", *command, "train.stop_after=6") == 0, shell.err
    assert shell("train", *command) == 0, shell.err
    assert "warning" not in shell.err
    segments = sorted((shell.folder / "wandb").glob("offline-run-*"))
    assert len(segments) == 4, "one shared folder"
    for folder in shell.runs():
        id = json.loads((folder / "run.json").read_text())["id"]
        last = records_of([path for path in segments if path.name.endswith(id)][-1])
        (run,) = last["run"]
        arm = "muon" if "muon" in folder.name else "adamw"
        assert (run["run_id"], run["run_group"], run["job_type"]) == (id, "arms", arm)
        assert (run["project"], run["display_name"]) == ("bench", folder.name)
        config = run["config"]["update"]
        assert config["choices"]["optim"] == arm
        saved = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["optim"]["hidden"]["lr"] == saved["optim"]["lr"]
        axes = {metric.get("glob_name"): metric.get("step_metric") for metric in last["metric"]}
        assert axes["*"] == "tokens"
        rows = metrics(folder)
        assert mirrored_rows(last) == rows
        summary: dict[str, Any] = {}
        for part in last["summary"]:
            summary |= part["update"]
        assert summary["val_loss"] == summary["val/loss"] == rows[-1]["val/loss"]
        assert [end["exit_code"] for end in last["exit"]] == [0]


def test_sync_finds_every_run_of_the_shared_folder(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a worker of a sweep, where one process of wandb's takes all runs."""
    monkeypatch.setattr(wandb, "parent_process", lambda: "a sweep")
    logger = ["logger=wandb", f"logger.folder={shell.folder / 'wandb'}"]
    assert shell("train", "-m", *SMALL, "seed=0,1,2", *logger) == 0, shell.err
    (process,) = wandb._ready
    assert process.process.poll() is None
    wandb._ready.clear()
    process.pipe.close()
    assert process.process.wait(20) == 0, "it ends with the worker"
    sync = [sys.executable, "-m", "wandb", "sync", "--dry-run", "--yes"]
    loud = {key: value for key, value in os.environ.items() if key != "WANDB_SILENT"}
    done = subprocess.run(
        sync, cwd=shell.folder, capture_output=True, text=True, check=False, env=loud
    )
    if done.returncode != 0:
        pytest.skip(f"this wandb has no sync --dry-run: {done.stderr[:200]}")
    for folder in shell.runs():
        assert f"run-{folder.name[-8:]}.wandb" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_finished_run_is_mirrored_afterwards_as_if_it_had_been_logged_and_once(
    shell: Shell, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shell("train", *SMALL, "logger=none", "optim=adamw", "study=arms") == 0, shell.err
    folder, wandb = shell.run_folder(), shell.folder / "wandb"
    typed = [str(folder), "logger=wandb", "logger.project=bench", f"logger.folder={wandb}"]
    assert mirror.main(typed) == 0
    assert mirror.main(typed) == 0
    out = capfd.readouterr().out.splitlines()
    assert out == [f"sent: {folder}", f"there already: {folder}"]
    (segment,) = wandb.glob("offline-run-*")
    found = records_of(segment)
    (run,) = found["run"]
    assert (run["run_id"], run["display_name"]) == (folder.name[-8:], folder.name)
    assert (run["project"], run["run_group"], run["job_type"]) == ("bench", "arms", "adamw")
    assert run["config"]["update"]["choices"]["optim"] == "adamw"
    assert mirrored_rows(found) == metrics(folder)
    summary = {key: value for part in found["summary"] for key, value in part["update"].items()}
    assert summary["val_loss"] == metrics(folder)[-1]["val/loss"]
    assert mirror.main([str(folder), "--again", "logger=none", "/no/such/run"]) == 4


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def mirrored_rows(found: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in item["item"].items() if not k.startswith("_")}
        for item in found["history"]
        if "samples._type" not in item["item"]
    ]
