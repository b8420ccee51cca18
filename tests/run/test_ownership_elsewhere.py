"""Foreign files outside of run folders: tokens, records of sweeps, reports, exports, figures of the
bench, wandb.
"""

import json
from pathlib import Path

import pytest
from foreign import NOTES, every_file, plant, still_there
from runs import SMALL, Shell

from minigpt import export
from minigpt.bench.__main__ import main as bench
from minigpt.compare.write_files import write_files
from minigpt.errors import StorageError

PREPARE = ["data=one_play", "data/tokenizer=byte", "data.shard_tokens=5000"]


def out(shell: Shell) -> Path:
    return shell.folder / "made"


@pytest.mark.parametrize(
    "foreign",
    [
        "notes.txt", "lock", ".tmp-notes", ".tmp-tokenizer/x", ".tmp-train_00000.bin",
        "train_00000.bin", "progress.json",
    ],
)  # fmt: skip
@pytest.mark.faults(35)
def test_a_folder_for_tokens_that_holds_something_else_is_left_as_it_is(
    foreign: str, shell: Shell
) -> None:
    planted = plant(out(shell), foreign)
    assert shell("preprocess", *PREPARE, f"data.out={out(shell)}") in (3, 6), shell.err
    assert shell.err.count("error: ") == 1
    still_there(planted)
    assert every_file(out(shell)) == {foreign: NOTES}


def test_foreign_files_among_half_made_tokens_outlive_the_rest_of_the_work(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minigpt.data.preparation import Preparation

    def stop(self: Preparation, *_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "finish", stop)
        assert shell("preprocess", *PREPARE, f"data.out={out(shell)}") == 6
    assert (out(shell) / "progress.json").is_file()
    names = [".tmp-notes", ".tmp-tokenizer/x", "train_notes.bin", ".tmp-train_x.bin"]
    planted = plant(out(shell), *names, "tokenizer/notes")
    later = plant(out(shell), "train_00999.bin")
    assert shell("preprocess", *PREPARE, f"data.out={out(shell)}") == 3
    assert f"not a shard of minigpt: {out(shell) / 'train_00999.bin'}" in shell.err
    still_there(planted | later)
    (out(shell) / "train_00999.bin").unlink()
    (out(shell) / "tokenizer" / "notes").unlink()
    del planted[out(shell) / "tokenizer" / "notes"]
    assert shell("preprocess", *PREPARE, f"data.out={out(shell)}") == 0, shell.err
    still_there(planted)


def test_a_foreign_journal_beside_whole_tokens_stays(shell: Shell) -> None:
    assert shell("preprocess", *PREPARE, f"data.out={out(shell)}") == 0, shell.err
    planted = plant(out(shell), "progress.json", ".tmp-progress.json", ".tmp-manifest.json")
    assert shell("preprocess", *PREPARE, f"data.out={out(shell)}") == 0, shell.err
    still_there(planted)


def test_what_stands_where_a_sweep_writes_is_refused_by_name(shell: Shell) -> None:
    command = ["-m", *SMALL, "train.stop_after=1", "seed=0"]
    assert shell("train", *command) == 0, shell.err
    (record,) = (shell.folder / "outputs" / "sweeps").glob("*.json")
    for path in (record, record.parent / "lock", shell.folder / "outputs" / "multirun.yaml"):
        content = path.read_bytes()
        path.write_bytes(NOTES)
        assert shell("train", *command) == 6, shell.err
        assert str(path) in shell.err
        assert path.read_bytes() == NOTES
        path.write_bytes(content)
    other = json.loads(record.read_text()) | {"command": ["another"]}
    record.write_text(json.dumps(other))
    assert shell("train", *command) == 6
    assert json.loads(record.read_text()) == other
    record.unlink()
    planted = plant(
        shell.folder / "outputs", "notes.txt", "sweeps/.tmp-x", "sweeps/notes.json", ".tmp-y"
    )
    assert shell("train", *command) == 0, shell.err
    still_there(planted)


def test_a_report_replaces_only_what_a_report_wrote(tmp_path: Path) -> None:
    files = {"report.md": b"1", "loss.png": b"2"}
    write_files(tmp_path, files)
    write_files(tmp_path, files | {"report.md": b"3"})
    assert (tmp_path / "report.md").read_bytes() == b"3"
    (tmp_path / "report.md").write_bytes(b"3, and a remark")
    planted = plant(tmp_path, "results.csv", ".tmp-report.md")
    before = every_file(tmp_path)
    with pytest.raises(StorageError, match=r"report\.md.*\n.*results\.csv"):
        write_files(tmp_path, {"loss.png": b"4", "report.md": b"4", "results.csv": b"4"})
    assert every_file(tmp_path) == before
    (tmp_path / "report.md").unlink()
    (tmp_path / "results.csv").unlink()
    write_files(tmp_path, {"loss.png": b"4", "report.md": b"4", "results.csv": b"4"})
    del planted[tmp_path / "results.csv"]
    still_there(planted)


def test_an_export_leaves_its_neighbours_alone(shell: Shell, tmp_path: Path) -> None:
    assert shell("train", *SMALL, "train.steps=1", "data/tokenizer=byte") == 0, shell.err
    planted = plant(tmp_path / "e", ".tmp-hf/notes", ".tmp-hf2", "full/notes")
    run = str(shell.run_folder())
    assert export.main([run, str(tmp_path / "e" / "hf")]) == 0
    assert export.main([run, str(tmp_path / "e" / "full")]) == 6
    still_there(planted)
    names = sorted(path.name for path in (tmp_path / "e").iterdir())
    assert names == [".tmp-hf", ".tmp-hf2", "full", "hf"]


def test_the_bench_refuses_a_file_that_is_not_its_own_before_it_measures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.json").write_bytes(NOTES)
    assert bench(["--json", str(tmp_path / "notes.json")]) == 6
    said = capfd.readouterr()
    assert f"not written: {tmp_path / 'notes.json'}" in said.err
    assert said.out == ""
    assert (tmp_path / "notes.json").read_bytes() == NOTES


@pytest.mark.slow  # wandb takes seconds to start
def test_files_beside_those_of_wandb_stay(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = shell.folder / "outputs" / "wandb"
    planted = plant(folder, ".tmp-x", "notes", "summary.json", "lock")
    assert shell("train", *SMALL, "logger=wandb", f"logger.folder={folder}") == 0, shell.err
    still_there(planted)
    assert list(folder.glob("offline-run-*"))
