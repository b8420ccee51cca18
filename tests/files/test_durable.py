import errno
import os
from pathlib import Path

import pytest
from runs import held

from minigpt.errors import BusyError
from minigpt.files import durable
from minigpt.files.lock import FolderLock


@pytest.mark.faults(11, 15)
def test_a_locked_folder_names_its_owner_and_a_killed_owner_frees_it(tmp_path: Path) -> None:
    with held(tmp_path) as owner, pytest.raises(BusyError, match=f"pid {owner.pid} on "):
        FolderLock(tmp_path, "run folder").acquire()
    with FolderLock(tmp_path, "run folder"):
        assert f"pid {os.getpid()}" in (tmp_path / "lock").read_text()


@pytest.mark.faults(16)
def test_a_stale_or_copied_lock_file_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("pid 1 on elsewhere\n")
    with FolderLock(tmp_path, "run folder"):
        assert f"pid {os.getpid()} " in (tmp_path / "lock").read_text()


def test_an_atomic_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    durable.write_atomic(target, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        durable.write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.faults(18)
def test_leftovers_go_and_everything_else_stays(tmp_path: Path) -> None:
    (tmp_path / ".tmp-folder-01234567").mkdir()
    (tmp_path / ".tmp-folder-01234567" / "x").write_text("x")
    (tmp_path / ".tmp-removed-folder-89abcdef").mkdir()
    durable.temporary_name(tmp_path / "file").write_text("x")
    foreign = {".tmp-notes", ".tmp-file", ".tmp-other-01234567", ".tmp-file-01234567.txt"}
    for name in {"kept", *foreign}:
        (tmp_path / name).write_text("x")
    (tmp_path / ".tmp-file-76543210").mkdir()  # what is published under this name is no folder
    (tmp_path / ".tmp-file-76543210" / "thesis").write_text("x")
    (tmp_path / ".tmp-folder-76543210").write_text("x")
    foreign |= {".tmp-file-76543210", ".tmp-folder-76543210"}
    durable.remove_leftovers(tmp_path, "file", "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"kept", *foreign}


@pytest.mark.parametrize(
    "chosen_by", ["--out", "data_dir= or data.out=", "the argument DIR", "output_dir="]
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_the_advice_names_what_chose_the_path(number: int, chosen_by: str, tmp_path: Path) -> None:
    said = str(durable.storage_error(tmp_path, OSError(number, "why"), chosen_by))
    assert said.endswith(f"with {chosen_by})")
    assert chosen_by == "output_dir=" or "output_dir" not in said
