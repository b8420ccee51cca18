"""preprocess.py under errors of the disk and stop signals; kills: tests/data/test_killed.py."""

import json
from pathlib import Path

import pytest
from driver import Pool, all_or_every, leftovers
from fault_table import Tries
from runs import contents

COMMAND = [
    "data=files", "data/tokenizer=byte", "data_dir=tokens", "data.shard_tokens=2000",
    "data.val_fraction=0.1",
]  # fmt: skip


@pytest.fixture(scope="session")
def texts(fault_folder: Path) -> str:
    folder = fault_folder / "texts"
    folder.mkdir()
    for number in range(20):
        texts = [f"{number}.{line} green bottles on the wall. " * 6 for line in range(3)]
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / f"{number:02}.jsonl").write_text("\n".join(lines))
    return f"data.path={folder}"


@pytest.mark.faults(6, 12, 38)
@all_or_every(11)
@pytest.mark.parametrize("action", ["ENOSPC", "EIO", "TERM"])
def test_at_file_operations(
    pool: Pool, tmp_path: Path, texts: str, action: str, every: int, tries: Tries
) -> None:
    command = [*COMMAND, texts]
    outcome = pool.run(tmp_path / "straight", command, script="preprocess", direct=False)
    assert outcome.code == 0, outcome.said
    assert outcome.operations is not None
    assert len(outcome.operations) > 60
    expected = contents(tmp_path / "straight" / "tokens")
    assert sum(name.endswith(".bin") for name in expected) > 3

    def one(at: int) -> None:
        folder = tmp_path / str(at)
        with tries.one(6 if action == "TERM" else 12, 38):
            disturbed = pool.run(folder, command, script="preprocess", at=at, action=action)
            codes = (143, 0) if action == "TERM" else (6,)
            assert disturbed.code in codes, f"{at}: {disturbed.said}"
            assert "Traceback" not in disturbed.said
            assert disturbed.said.count("error: ") == (disturbed.code != 0)
            again = pool.run(folder, command, script="preprocess")
            assert again.code == 0, f"{at}: {disturbed.said}\n{again.said}"
            assert contents(folder / "tokens") == expected, f"{action} at operation {at}"
            assert leftovers(folder) == []

    # a handler only sets a flag, whatever it interrupts: a third of the operations says enough
    step = 3 if action == "TERM" and every == 1 else every
    pool.each(one, range(1, len(outcome.operations) + 1, step))
