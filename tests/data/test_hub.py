"""The hub, offline: `datasets` gets a local folder laid out like FineWeb-Edu's repository."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpora import documents_of, stories, texts_of, write_parquet
from runs import contents

from minigpt.data import encoding, preparation
from minigpt.data import hub as hub_module
from minigpt.data.fineweb_edu import FineWebEdu
from minigpt.data.hub import Hub
from minigpt.data.prepare import prepare
from minigpt.errors import DataError
from minigpt.tokenizer.byte import Byte
from minigpt.tokenizer.fast_bpe import BPE

TEXTS: list[Any] = [*stories(45), None, "", *stories(50)[45:]]
README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---
# FineWeb-Edu
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "fineweb-edu"
    for number, start in enumerate(range(0, len(TEXTS), 20)):
        path = root / "sample" / "10BT" / f"{number:03d}_00000.parquet"
        write_parquet(path, TEXTS[start : start + 20], row_group_size=7)
    write_parquet(root / "data" / "CC-MAIN-2024-10" / "000_00000.parquet", TEXTS[:2])
    (root / "README.md").write_text(README)
    return root


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "ROWS_A_STATE", 5)
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 300)


def test_a_part_of_the_repository(folder: Path) -> None:
    """As one would download it: the sample without the files of the default configuration."""
    shutil.rmtree(folder / "data")
    assert texts_of(FineWebEdu(source=str(folder)).documents()) == TEXTS


def test_from_any_position(folder: Path) -> None:
    source = FineWebEdu(source=str(folder))
    documents = list(source.documents())
    assert texts_of(documents) == TEXTS
    for number in (0, 1, 4, 5, 6, 19, 20, 21, 33, 51):
        position = json.loads(json.dumps(documents[number].position))
        assert texts_of(source.documents(position)) == TEXTS[number:]


def test_tokens_from_the_hub_path(folder: Path, tmp_path: Path) -> None:
    tokens = prepare(
        FineWebEdu(source=str(folder)), BPE(300), tmp_path / "tokens", val_fraction=0.1
    )
    both = documents_of(tokens, "train") + documents_of(tokens, "val")
    assert sorted(both) == sorted(text for text in TEXTS if text)
    assert tokens.manifest["odd"] == {"blank": 1, "null": 1}
    assert tokens.manifest["request"]["source"]["name"] == "HuggingFaceFW/fineweb-edu"
    assert str(folder) not in (tmp_path / "tokens" / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "sample-9BT"}, r"cannot read: data\.source=.*sample-9BT"),
        ({"split": "test"}, r"cannot read: data\.source=.*test"),
        ({"column": "content"}, r"no column 'content': .*\(it has: .*text.*; set data\.column\)"),
        ({"source": "/nowhere"}, r"no such folder: data\.source=/nowhere"),
    ],
)
def test_wrong_names(folder: Path, options: dict[str, Any], message: str) -> None:
    arguments = {"name": "x/y", "config": "sample-10BT", "source": str(folder), **options}
    with pytest.raises(DataError, match=message):
        list(Hub(**arguments).documents())


@pytest.mark.faults(40)
def test_a_damaged_file_is_an_error_at_once(folder: Path) -> None:
    path = folder / "sample" / "10BT" / "001_00000.parquet"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"cannot read: data\.source="):
        list(FineWebEdu(source=str(folder)).documents())


# The network


class Flaky:
    """A stream that fails before chosen rows, anew after each load, while failures are left."""

    def __init__(self, rows: Any, failures: list[tuple[int, Exception]]) -> None:
        self.rows = rows
        self.failures = failures
        self.column_names = ["text"]

    def __iter__(self) -> Iterator[Any]:
        for number, row in enumerate(self.rows):
            if self.failures and number == self.failures[0][0]:
                raise self.failures.pop(0)[1]
            yield row

    def state_dict(self) -> Any:
        return self.rows.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.rows.load_state_dict(state)


@pytest.fixture
def network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Exception]]:
    """Pretend that the local folder is the hub; the returned list holds the failures to come."""
    import huggingface_hub

    failures: list[tuple[int, Exception]] = []
    load, local = Hub._load, FineWebEdu(source=str(folder))
    monkeypatch.setattr(Hub, "_load", lambda self: Flaky(load(local), failures))
    monkeypatch.setattr(hub_module, "WAITS_S", (0.0, 0.01, 0.0))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "_newest_revision", lambda self: "c0ffee")
    return failures


@pytest.mark.faults(40)
def test_drops_are_survived_without_losing_or_repeating_a_row(
    network: list[tuple[int, Exception]],
) -> None:
    """Fault 40."""
    network += [
        (0, ConnectionError("refused")),
        (7, TimeoutError("read timed out")),
        (0, OSError("429 Too Many Requests")),
        (0, OSError("503 Service Unavailable")),
        (13, EOFError("truncated download")),
        (1, ConnectionResetError("by peer")),
    ]
    assert texts_of(FineWebEdu().documents()) == TEXTS
    assert network == []


@pytest.mark.faults(40)
def test_a_network_that_stays_away(network: list[tuple[int, Exception]]) -> None:
    network += [(9, ConnectionError("refused\nwith details"))] + [
        (0, ConnectionError("refused"))
    ] * 10
    documents = FineWebEdu().documents()
    assert [next(documents).text for _ in range(9)] == TEXTS[:9]
    with pytest.raises(
        DataError,
        match=r"gave up after 4 attempts: HuggingFaceFW/fineweb-edu \(ConnectionError: refused",
    ):
        next(documents)


@pytest.mark.faults(40)
def test_a_wrong_name_is_not_tried_again(network: list[tuple[int, Exception]]) -> None:
    network += [(0, ValueError("BuilderConfig 'x' not found"))] * 2
    with pytest.raises(
        DataError, match=r"BuilderConfig 'x' not found; check data\.name, data\.config, data\.split"
    ):
        list(FineWebEdu().documents())
    assert len(network) == 1


@pytest.mark.faults(40)
def test_offline_says_so_at_once() -> None:
    with pytest.raises(
        DataError, match=r"no network \(HF_HUB_OFFLINE is set\): HuggingFaceFW/fineweb-edu"
    ):
        list(FineWebEdu().documents())


@pytest.mark.faults(40)
def test_a_preparation_that_gave_up_goes_on(
    network: list[tuple[int, Exception]], tmp_path: Path
) -> None:
    """The pinned revision and the finished shards stay; the end is the same as without trouble."""
    options: dict[str, Any] = {"val_fraction": 0.1, "shard_tokens": 500}
    prepare(FineWebEdu(), Byte(), tmp_path / "straight", **options)
    plan = preparation.plan_split

    def plan_then_fail(source: Any, fraction: float) -> Any:
        rule = plan(source, fraction)
        network.extend([(30, ConnectionError("gone")), *[(0, ConnectionError("gone"))] * 3])
        return rule

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "plan_split", plan_then_fail)
        with pytest.raises(DataError, match="gave up after 4 attempts"):
            prepare(FineWebEdu(), Byte(), tmp_path / "tokens", **options)
    journal = json.loads((tmp_path / "tokens" / "progress.json").read_text())
    assert journal["pinned"] == {"revision": "c0ffee"}
    assert journal["encoding"]["state"]["number"] > 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hub, "_newest_revision", lambda self: "moved on")
        tokens = prepare(FineWebEdu(), Byte(), tmp_path / "tokens", **options)
    assert tokens.manifest["pinned"] == {"revision": "c0ffee"}
    assert contents(tmp_path / "tokens") == contents(tmp_path / "straight")
