import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from fault_table import Tries
from runs import vouch

from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.load import load_checkpoint, newest_checkpoint, weights_hash
from minigpt.checkpoint.parameters import restore_parameters
from minigpt.checkpoint.save import prune, save_checkpoint
from minigpt.errors import CheckpointError
from minigpt.files import durable
from minigpt.optim.state_tree import PERMUTED

MODEL = {
    "embed.weight": torch.arange(12.0).reshape(3, 4),
    "head.weight": torch.ones(2, 2, dtype=torch.bfloat16),
}
OPTIMIZER: dict[str, Any] = {
    "parameters": {
        "embed.weight": {"step": torch.tensor(3.0), "nested": [None, 1.5, [torch.zeros(2)], "text"]}
    },
    "groups": {"hidden/q/1": {"weights": float("inf"), "pair": [1, 2]}},
}


def save(folder: Path, step: int, keep: int = 10) -> Path:
    state = {"run": "id", "step": step, "note": "é"}
    saved = save_checkpoint(folder, MODEL, OPTIMIZER, state)
    prune(folder, keep, "id")
    return saved


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    loaded = load_checkpoint(save(tmp_path, 7))
    assert loaded.state == {"run": "id", "note": "é", "schema": 1, "step": 7}
    assert loaded.model.keys() == MODEL.keys()
    assert all(torch.equal(loaded.model[name], MODEL[name]) for name in MODEL)
    assert loaded.model["head.weight"].dtype == torch.bfloat16
    assert loaded.optimizer is not None
    nested = loaded.optimizer["parameters"]["embed.weight"]
    assert nested["nested"][:2] == [None, 1.5]
    assert torch.equal(nested["nested"][2][0], torch.zeros(2))
    assert loaded.optimizer["groups"] == OPTIMIZER["groups"]


@pytest.mark.faults(17, 18)
def test_newest_is_by_number_and_only_so_many_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100_000_000, 11):
        save(tmp_path, step, keep=3)
    assert [path.name for path in steps_on_disk(tmp_path)] == [
        "step_00000010",
        "step_00000011",
        "step_100000000",
    ]
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.state["step"] == 100_000_000


def test_a_checkpoint_gives_way_to_one_of_its_step_only_where_asked(tmp_path: Path) -> None:
    save(tmp_path, 7)
    save_checkpoint(tmp_path, MODEL, None, {"run": "id", "step": 7, "note": "other"})
    assert load_checkpoint(tmp_path / "step_00000007").state["note"] == "é"
    final = {"run": "id", "step": 7, "note": "final"}
    save_checkpoint(tmp_path, MODEL, None, final, replace=True)
    prune(tmp_path, 1, "id")
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000007"]
    assert load_checkpoint(tmp_path / "step_00000007").state["note"] == "final"
    # killed before the new one was there
    (tmp_path / "step_00000007").rename(tmp_path / "step_00000007.superseded")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.state["note"] == "final"
    save(tmp_path, 7)
    assert [path.name[13:] for path in steps_on_disk(tmp_path)] == [".superseded", ""]


@pytest.mark.faults(22)
def test_no_checkpoints_is_none_and_only_damaged_ones_is_an_error(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "missing") is None
    folder = save(tmp_path, 1)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        newest_checkpoint(tmp_path)


@pytest.mark.faults(20)
def test_a_damaged_newest_falls_back_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / "state.json").write_text("{}")
    with caplog.at_level("WARNING"):
        found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.state["step"] == 1
    assert "damaged" in caplog.text
    assert "step_00000002" in caplog.text


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """As somebody to whom permissions apply; root may read everything."""
    folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.faults(20)
@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "state.json", "."])
def test_an_unreadable_newest_falls_back_and_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(folder, 1)
        (save(folder, 2) / name).chmod(0)
        with caplog.at_level("WARNING"), as_nobody(folder):
            found = newest_checkpoint(folder)
        assert found is not None
        assert found.state["step"] == 1
        assert "step_00000002" in caplog.text
        assert "Permission denied" in caplog.text
        (folder / "step_00000001" / "state.json").chmod(0)
        with as_nobody(folder), pytest.raises(CheckpointError, match="all 2 are damaged"):
            newest_checkpoint(folder)
        checkpoints = folder / "checkpoints"
        save(checkpoints, 1)
        checkpoints.chmod(0)
        with (
            as_nobody(folder),
            pytest.raises(CheckpointError, match=r"cannot read: .*Permission denied"),
        ):
            newest_checkpoint(checkpoints)


@pytest.mark.faults(20)
@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "state.json"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device"])
def test_what_is_no_file_is_damage(tmp_path: Path, name: str, kind: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.state["step"] == 1


@pytest.mark.parametrize("left_out", ["model.safetensors", "state.json"])
def test_a_manifest_without_weights_or_state_is_refused(tmp_path: Path, left_out: str) -> None:
    folder = save(tmp_path, 1)
    (folder / left_out).unlink()
    vouch(folder)
    for read in (load_checkpoint, weights_hash):
        with pytest.raises(CheckpointError, match="no list of files"):
            read(folder)


@pytest.mark.parametrize("order", [[0, 0], [0, 7], [5, 6], None, "ab"])
def test_an_order_of_dimensions_that_is_none_is_damage(tmp_path: Path, order: Any) -> None:
    """Every hash is right; what the file says is not."""
    tree = {PERMUTED: order, "tensor": torch.zeros(2, 3)}
    folder = save_checkpoint(tmp_path, MODEL, {"parameters": tree}, {"run": "id", "step": 1})
    with pytest.raises(CheckpointError, match="not as minigpt writes it"):
        load_checkpoint(folder)


@pytest.mark.faults(21)
def test_every_flipped_bit_is_detected(tmp_path: Path, tries: Tries) -> None:
    folder = save(tmp_path, 1)
    draw = random.Random(0)
    files = sorted(folder.iterdir())
    for _ in range(200):
        path = draw.choice(files)
        original = path.read_bytes()
        position = draw.randrange(len(original))
        flipped = bytearray(original)
        flipped[position] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with tries.one(), pytest.raises(CheckpointError):
            load_checkpoint(folder)
        path.write_bytes(original)
    load_checkpoint(folder)


@pytest.mark.parametrize("damage", ["missing", "foreign", "link", "truncated", "zeros"])
@pytest.mark.faults(20)
def test_other_damage_is_detected(tmp_path: Path, damage: str) -> None:
    folder = save(tmp_path / "checkpoints", 1)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        (folder / "evil.pkl").write_bytes(b"x")
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    else:
        path.write_bytes(bytes(len(content)))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)


@pytest.mark.faults(23)
def test_another_format_names_found_and_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minigpt.checkpoint.layout.SCHEMA", 99)
    folder = save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="schema 99, this minigpt reads 1"):
        load_checkpoint(folder)


@pytest.mark.faults(12)
def test_a_full_disk_publishes_nothing_and_prunes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    write = durable.write_synced

    def full(path: Path, content: bytes) -> None:
        if path.name == "state.json":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(durable, "write_synced", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


@pytest.mark.faults(25)
def test_parameters_that_do_not_fit_are_all_named_and_nothing_is_copied() -> None:
    module = torch.nn.Linear(2, 3)
    before = module.weight.detach().clone()
    saved = {"weight": torch.zeros(3, 3), "other": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        restore_parameters(module, saved, Path("here"))
    text = str(caught.value)
    assert "weight (3, 3) -> (3, 2)" in text
    assert "other (1,) -> missing" in text
    assert "bias missing -> (3,)" in text
    assert torch.equal(module.weight, before)
