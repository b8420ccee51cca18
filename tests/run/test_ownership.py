"""What minigpt did not make, it neither deletes nor overwrites: foreign files in every place that
it writes to.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from foreign import NOTES, every_file, plant, still_there
from runs import SMALL, Shell, rows

from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.save import prune, save_checkpoint
from minigpt.cli import composition, process
from minigpt.config import schema
from minigpt.config.plan import plan_of
from minigpt.errors import StorageError
from minigpt.files.lock import FolderLock, lock_is_held
from minigpt.run.metrics import Metrics

ID = "0badc0de"


@pytest.fixture(scope="module")
def name() -> str:
    """The name that the folder of SMALL will have."""
    schema.register()
    process.register_resolvers()
    plan = plan_of(composition.compose("train", SMALL, None, plan_of))
    return plan.folder.name


# The run folder, before the run has begun.


@pytest.mark.parametrize(
    "foreign",
    [
        "notes.txt", "lock", "config.yaml", "summary.json", "sample.txt", "metrics.jsonl",
        "checkpoints/step_00000009/x", "checkpoints/notes", "tokenizer/tokenizer.json",
        ".tmp-notes", ".tmp-run.json", "run.json/x",
    ],
)  # fmt: skip
@pytest.mark.faults(23)
def test_a_folder_with_the_name_of_a_run_that_is_none_is_refused_whole(
    foreign: str, name: str, shell: Shell
) -> None:
    folder = shell.folder / "outputs" / name
    planted = plant(folder, foreign)
    before = every_file(folder)
    code = shell("train", *SMALL)
    assert code in (4, 6), shell.err
    assert str(folder) in shell.err
    assert shell.err.count("error: ") == 1
    still_there(planted)
    assert every_file(folder) == before


def test_a_neighbour_with_the_id_in_its_name_is_no_run(name: str, shell: Shell) -> None:
    outputs = shell.folder / "outputs"
    planted = plant(outputs / f"aaa-notes-{name[-8:]}", "notes.txt", "lock")
    planted |= plant(outputs / f"hf-{name[-8:]}", "config.json", "model.safetensors")
    assert shell("train", *SMALL) == 0, shell.err
    assert shell.run_folder().name == name
    still_there(planted)
    assert len(every_file(outputs / f"hf-{name[-8:]}")) == 2


def test_a_run_of_another_id_is_not_taken_nor_answered_for(name: str, shell: Shell) -> None:
    assert shell("train", *SMALL, "seed=1", "train.stop_after=1") == 0, shell.err
    other = shell.run_folder()
    other.rename(other.parent / name)
    before = every_file(other.parent / name)
    assert shell("train", *SMALL) == 4
    assert f"of {other.name[-8:]}, expected {name[-8:]}" in shell.err
    assert every_file(other.parent / name) == before


@pytest.mark.faults(4)
def test_leftovers_of_a_start_that_never_began_are_taken(name: str, shell: Shell) -> None:
    folder = shell.folder / "outputs" / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "lock").write_text("pid 12 on elsewhere\n")
    (folder / "metrics.jsonl").touch()
    (folder / "train.log").write_text("earlier\n")
    (folder / ".tmp-run.json-01234567").write_text('{"sch')
    assert shell("train", *SMALL) == 0, shell.err
    assert (folder / "summary.json").is_file()
    assert not list(folder.rglob(".tmp-*"))


@pytest.mark.faults(23)
def test_a_refusal_takes_away_what_it_made_and_nothing_else(shell: Shell, tmp_path: Path) -> None:
    """A copy without run.json, then a flipped byte in the tokens: the copy's checkpoints stay."""
    assert shell("train", *SMALL) == 0, shell.err
    folder = shell.run_folder()
    (folder / "run.json").rename(tmp_path / "run.json")
    shard = next((shell.folder / "tokens").rglob("train_00000.bin"))
    content = bytearray(shard.read_bytes())
    content[80] ^= 1
    shard.write_bytes(content)
    before = every_file(folder)
    assert shell("train", *SMALL) == 4
    assert every_file(folder) == before
    assert shell("train", *SMALL, "seed=1") == 3, shell.err
    assert [path for path in (shell.folder / "outputs").iterdir() if path.is_dir()] == [folder]


# The folder of a run that is under way.


def test_foreign_files_in_a_run_folder_outlive_the_run(shell: Shell, tmp_path: Path) -> None:
    command = [*SMALL, "checkpoint.every=3"]
    assert shell("train", *command, "train.stop_after=6") == 0, shell.err
    folder = shell.run_folder()
    planted = plant(
        folder, ".tmp-notes", ".tmp-x/y", ".tmp-summary.json", "notes.txt", "plot.png",
        "checkpoints/.tmp-step_00000009", "checkpoints/step_00000001/notes",
        "checkpoints/step_00000099/model.safetensors.mine", "checkpoints/readme",
        "tokenizer/.tmp-mine", "tokenizer/notes",
    )  # fmt: skip
    assert shell("train", *command) == 0, shell.err
    still_there(planted)
    assert (folder / "checkpoints" / "step_00000012" / "manifest.json").is_file()


def test_what_stands_in_the_place_of_a_checkpoint_is_not_replaced(
    shell: Shell, tmp_path: Path
) -> None:
    command = [*SMALL, "checkpoint.every=3"]
    assert shell("train", *command, "train.stop_after=3") == 0, shell.err
    folder = shell.run_folder()
    planted = plant(folder / "checkpoints", "step_00000006/notes", "step_00000012")
    assert shell("train", *command) == 6
    assert (
        f"{folder / 'checkpoints' / 'step_00000012'}: in the way, and no checkpoint of this run"
        in shell.err
    )
    still_there(planted)
    (folder / "checkpoints" / "step_00000012").unlink()
    assert shell("train", *command) == 0, shell.err
    assert (folder / "checkpoints" / "step_00000006" / "notes").read_bytes() == NOTES


def test_prune_neither_counts_nor_removes_the_checkpoints_of_another_run(tmp_path: Path) -> None:
    import torch

    for step, run in ((1, "a"), (2, "b"), (3, "a"), (9, "b")):
        save_checkpoint(tmp_path, {"w": torch.zeros(2)}, None, {"run": run, "step": step})
    prune(tmp_path, 1, "a")
    assert [path.name for path in steps_on_disk(tmp_path)] == [
        "step_00000002", "step_00000003", "step_00000009",
    ]  # fmt: skip


# Links.


@pytest.mark.parametrize("name", ["lock", "metrics.jsonl", "train.log", "checkpoints", "tokenizer"])
def test_links_in_a_run_folder_are_not_followed(name: str, shell: Shell, tmp_path: Path) -> None:
    assert shell("train", *SMALL, "train.stop_after=2") == 0, shell.err
    folder = shell.run_folder()
    elsewhere = tmp_path / "elsewhere"
    (folder / name).rename(elsewhere)
    if name == "lock":
        elsewhere.write_bytes(NOTES)
    before = every_file(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    (folder / name).symlink_to(elsewhere)
    assert shell("train", *SMALL) == 6, shell.err
    assert f"cannot write: {folder / name}: a link" in shell.err
    assert (every_file(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before


def test_a_fifo_in_the_place_of_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(StorageError, match="no regular file"):
        Metrics(tmp_path / "metrics.jsonl")
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(StorageError, match="no regular file"):
        FolderLock(tmp_path, "run folder").acquire()
    assert not lock_is_held(tmp_path)


def test_a_linked_run_folder_and_a_linked_output_dir_are_fine(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    shell.folder.mkdir(exist_ok=True)
    (shell.folder / "outputs").symlink_to(tmp_path / "disk")
    assert shell("train", *SMALL, "train.stop_after=2") == 0, shell.err
    folder = shell.run_folder()
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert shell("train", *SMALL) == 0, shell.err
    assert (tmp_path / "moved" / "summary.json").is_file()


# Rows that are gone.


@pytest.mark.faults(49)
def test_lost_rows_stop_a_run_and_can_be_accepted(shell: Shell, tmp_path: Path) -> None:
    assert shell("train", *SMALL, "train.stop_after=6") == 0, shell.err
    folder = shell.run_folder()
    metrics = folder / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[: len(whole) // 2])
    assert shell("train", *SMALL) == 4
    assert f"{len(whole) // 2} bytes, step_00000006 has {len(whole)}" in shell.err
    assert metrics.read_bytes() == whole[: len(whole) // 2]
    assert shell("train", *SMALL, "accept_changes=true", "train.stop_after=8") == 0, shell.err
    assert any(
        "rows are gone" in line for line in json.loads((folder / "run.json").read_text())["mixed"]
    )
    assert [row["step"] for row in rows(folder)][-1] == 8
    assert shell("train", *SMALL) == 0, shell.err  # from now on the file is as the checkpoint says


def test_rows_without_any_checkpoint_are_dropped_with_a_warning(shell: Shell) -> None:
    """All checkpoints were deleted by hand; what else lies among them stays."""
    assert shell("train", *SMALL, "train.stop_after=6") == 0, shell.err
    assert "no checkpoint" not in shell.err
    folder = shell.run_folder()
    shutil.rmtree(folder / "checkpoints")
    notes = folder / "checkpoints" / "step_00000004.superseded" / "notes"
    notes.parent.mkdir(parents=True)
    notes.write_bytes(NOTES)
    assert shell("train", *SMALL) == 0, shell.err
    (said,) = [line for line in shell.err.splitlines() if "no checkpoint" in line]
    assert said.startswith(f"warning: no checkpoint: {folder / 'checkpoints'}: ")
    assert "training starts again, and the rows up to step 6 are dropped" in said
    steps = [row["step"] for row in rows(folder) if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert notes.read_bytes() == NOTES


def test_restored_rows_are_taken(shell: Shell, tmp_path: Path) -> None:
    assert shell("train", *SMALL, "train.stop_after=6") == 0, shell.err
    metrics = shell.run_folder() / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.unlink()
    assert shell("train", *SMALL) == 4
    assert "0 bytes" in shell.err
    metrics.write_bytes(whole)
    assert shell("train", *SMALL) == 0, shell.err
    assert metrics.read_bytes().startswith(whole)
