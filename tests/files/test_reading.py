"""The one way in for data from files believes nothing about a file."""

import json
import os
import pickle
from pathlib import Path

import pytest

from minigpt.files import records
from minigpt.files.reading import UnreadableError, read_bytes, read_json, read_lines, read_yaml

JSON = {
    "no bytes": b"",
    "no UTF-8": b"\xff\xfe\x00",
    "a list": b"[]",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": [1e999]}',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 65 + b"1" + b"}" * 65,
    "half of a surrogate pair": b'{"a": "\\ud800"}',
    "a number beyond 64 bits": b'{"a": [100000000000000000000]}',
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
}
YAML = {
    "no bytes": b"",
    "no UTF-8": b"\xff\xff",
    "a tab": b"\ta: 1",
    "an open bracket": b"a: [1",
    "a bomb of aliases": b"a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a cycle": b"a: &a [*a]",
    "a tag": b"!!python/object/apply:os.system ['true']",
    "deep": b"a: " + b"{a: " * 5_000,
    "deep blocks": b"".join(b" " * depth + b"a:\n" for depth in range(70)),
    "a key that is no text": b"1: 2",
    "infinity": b"a: .inf",
    "a truth that is none": b"a: !!bool x",
    "a number without digits": b'a: !!int "_"',
    "no number at all": b'a: !!float ""',
    "a time that is none": b'a: !!timestamp "x"',
    "a mapping that is a list": b"a: !!map [a]",
    "a truth by a key": b"a: !!bool {=: x}",
    "a key that comes twice": b"a: 1\na: 2\n",
    "a date": b"a: 2001-01-01",
    "a set": b"a: !!set {x}",
    "bytes": b"a: !!binary aGk=",
}


@pytest.mark.parametrize("name", JSON)
def test_json_that_is_not_a_bounded_object_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(JSON[name])
    with pytest.raises(UnreadableError, match=r"^cannot read: .*file: [^\n]+$"):
        read_json(tmp_path / "file")


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_is_not_a_bounded_mapping_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(YAML[name])
    with pytest.raises(UnreadableError, match=r"^cannot read: .*file: [^\n]+$"):
        read_yaml(tmp_path / "file")


def test_plain_values_are_read(tmp_path: Path) -> None:
    (tmp_path / "json").write_bytes(b'{"a": [1, 2.5, null, "x"]}')
    (tmp_path / "yaml").write_bytes(b"a: [1, 2.5, null, '*x & y']\n")
    assert read_json(tmp_path / "json") == {"a": [1, 2.5, None, "x"]}
    assert read_yaml(tmp_path / "yaml") == {"a": [1, 2.5, None, "*x & y"]}


def test_only_a_regular_file_is_read_and_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "out").symlink_to("/etc/passwd")
    for name in ("pipe", "device", "loop", "out", "."):
        with pytest.raises(UnreadableError) as caught:
            read_bytes(tmp_path / name)
        assert not caught.value.missing
    for name in ("nothing", "nothing/inside"):
        with pytest.raises(UnreadableError) as caught:
            read_bytes(tmp_path / name)
        assert caught.value.missing
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 (from the worker of a sweep)
    assert str(again) == str(caught.value)


def test_a_link_is_followed_where_it_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "run" / "sub").mkdir(parents=True)
    (tmp_path / "run" / "file").write_bytes(b"x")
    (tmp_path / "run" / "sub" / "link").symlink_to("../file")
    assert read_bytes(tmp_path / "run" / "sub" / "link", inside=tmp_path / "run") == b"x"
    with pytest.raises(UnreadableError, match="leads out"):
        read_bytes(tmp_path / "run" / "sub" / "link")


def test_the_size_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "file", limit=10) == b"x" * 10
    with pytest.raises(UnreadableError, match="10 bytes, at most 9"):
        read_bytes(tmp_path / "file", limit=9)


def test_a_file_larger_than_memory_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "endless", "wb") as file:
        os.truncate(file.fileno(), 2**40)
    with pytest.raises(UnreadableError, match=r"1,099,511,627,776 bytes, at most"):
        read_bytes(tmp_path / "endless")
    with pytest.raises(UnreadableError, match=r"a line of more than 1,048,576 bytes"):
        list(read_lines(tmp_path / "endless"))


@pytest.mark.parametrize("name", ["x" * 256, "ß" * 128, "..", "a/b", "", "a\0"], ids=ascii)
def test_a_sweep_names_only_folders_that_can_be_there(tmp_path: Path, name: str) -> None:
    def sweep(folder: str) -> Path:
        job = {"overrides": [], "folder": folder}
        path = tmp_path / "sweep.json"
        path.write_text(json.dumps({"schema": 1, "command": ["-m"], "jobs": [job]}))
        return path

    assert records.read_sweep(sweep("x" * 255))["jobs"][0]["folder"] == "x" * 255
    with pytest.raises(UnreadableError, match="the name of a file"):
        records.read_sweep(sweep(name))
