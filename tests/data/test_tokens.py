"""Opening and reading tokens: damage is named before training, and never kills it later."""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import Memory, stories

from minigpt.data.manifest import manifest_fingerprint, read_manifest
from minigpt.data.prepare import prepare
from minigpt.data.shards import HEADER_BYTES, foreign_layout
from minigpt.data.tokens import Tokens
from minigpt.data.windows import TrainWindows, validation_batches
from minigpt.errors import DataError
from minigpt.files.durable import json_bytes
from minigpt.tokenizer.byte import Byte
from minigpt.tokenizer.fast_bpe import BPE

SHARD = "train_00001.bin"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    prepare(Memory(stories(40)), BPE(300), folder, val_fraction=0.1, shard_tokens=300)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "tokens")
    return tmp_path / "tokens"


def patch(path: Path, offset: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def rewrite_manifest(folder: Path, change: Callable[[dict], None], honest: bool = True) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    if honest:
        manifest["fingerprint"] = manifest_fingerprint(manifest)
    (folder / "manifest.json").write_bytes(json_bytes(manifest))


# Fault 31


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot read a shard"),
        (lambda path: path.write_bytes(b""), "truncated shard"),
        (lambda path: os.truncate(path, 63), "truncated shard"),
        (lambda path: os.truncate(path, HEADER_BYTES), r"has 64 bytes instead of 664"),
        (lambda path: os.truncate(path, 663), r"has 663 bytes instead of 664"),
        (lambda path: os.truncate(path, 665), r"has 665 bytes instead of 664"),
        (lambda path: patch(path, 0, b"PK\3\4"), "not a token shard"),
        (
            lambda path: patch(path, 8, struct.pack("<I", 2)),
            r"unknown shard version: .* \(found 2, expected 1",
        ),
        (lambda path: patch(path, 12, struct.pack("<I", 4)), r"has 664 bytes instead of 1264"),
        (lambda path: patch(path, 12, struct.pack("<I", 3)), "3 bytes a token, expected 2 or 4"),
        (lambda path: patch(path, 16, struct.pack("<Q", 1 << 60)), "has 664 bytes instead of "),
        (
            lambda path: patch(path, 12, struct.pack("<IQ", 4, 150)),
            "holds 150 uint32 ids, the manifest says 300 uint16",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "cannot read a shard"),
    ],
)
@pytest.mark.faults(31)
def test_a_damaged_shard_is_named(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder / SHARD)
    with pytest.raises(DataError, match=message) as caught:
        Tokens.open(folder)
    assert str(folder / SHARD) in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.faults(31)
def test_any_flipped_bit_is_found(folder: Path) -> None:
    """In shards, tokenizer and manifest: at random places, one at a time."""
    rng = random.Random(0)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    for _ in range(150):
        path = rng.choice(files)
        original = path.read_bytes()
        offset, bit = rng.randrange(len(original)), 1 << rng.randrange(8)
        patch(path, offset, bytes([original[offset] ^ bit]))
        with pytest.raises(DataError) as caught:
            Tokens.open(folder)
        assert path.name in str(caught.value) or path.name == "manifest.json"
        path.write_bytes(original)
    assert Tokens.open(folder).tokenizer.kind == "fast_bpe"  # found without being told how


@pytest.mark.faults(35)
def test_swapped_shards(folder: Path) -> None:
    """Fault 35: the fingerprint knows the order; each file is checked against its own hash."""
    (folder / "train_00000.bin").rename(folder / "aside")
    (folder / SHARD).rename(folder / "train_00000.bin")
    (folder / "aside").rename(folder / SHARD)
    with pytest.raises(DataError, match=r"damaged shard: .*train_0000"):
        Tokens.open(folder)


@pytest.mark.parametrize("change", ["drop", "swap", "rename"])
@pytest.mark.faults(35)
def test_another_list_of_shards_is_another_fingerprint(folder: Path, change: str) -> None:
    """Fault 35: what a run recorded no longer matches, even if the manifest was made to fit."""
    before = read_manifest(folder)["fingerprint"]

    def rewrite(manifest: dict) -> None:
        shards = manifest["splits"]["train"]["shards"]
        if change == "drop":
            shards.pop()
        elif change == "swap":
            shards[0], shards[1] = shards[1], shards[0]
        else:
            manifest["splits"]["val"]["shards"] = shards[:1]

    rewrite_manifest(folder, rewrite)
    assert Tokens.open(folder).fingerprint != before
    rewrite_manifest(folder, lambda manifest: manifest.update(fingerprint=before), honest=False)
    with pytest.raises(DataError, match="fingerprint does not match"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no tokens here: .* \(run preprocess\.py\)"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "damaged manifest: .* \\(not a JSON object"),
        (b'{"format": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "damaged manifest: .*deeper than"),
        (b'{"format": NaN}', "damaged manifest: .*NaN is not a finite number"),
        (b'{"format": 2}', r"unknown format of tokens: .* \(found 2, expected 1"),
        (b'{"format": 1}', "fingerprint does not match"),
    ],
)
@pytest.mark.faults(31)
def test_a_damaged_manifest(folder: Path, content: bytes | None, message: str) -> None:
    path = folder / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        Tokens.open(folder)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/passwd", ".hidden", "a/b", ""])
@pytest.mark.faults(31)
def test_a_manifest_cannot_point_outside(folder: Path, name: str) -> None:
    rewrite_manifest(
        folder, lambda manifest: manifest["splits"]["train"]["shards"][0].update(name=name)
    )
    with pytest.raises(DataError, match="bad file name in the manifest"):
        Tokens.open(folder)


SPLIT = ("splits", "train")
SHARD_1 = (*SPLIT, "shards", 1)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("splits",), [], "splits is not a mapping"),
        (SPLIT, None, "splits.train is not a mapping"),
        ((*SPLIT, "shards"), {"name": "x"}, "splits.train.shards is not a list"),
        ((*SPLIT, "shards"), [7], r"splits.train.shards\[0\] is not a mapping"),
        ((*SHARD_1, "name"), 5, r"splits.train.shards\[1\].name is not text"),
        ((*SHARD_1, "n_tokens"), 10**30, "damaged manifest: .*beyond 64 bits"),
        ((*SHARD_1, "n_tokens"), -1, r"splits.train.shards\[1\].n_tokens is not an integer"),
        (
            (*SHARD_1, "format"),
            "pickle",
            r"splits.train.shards\[1\].format is not bare or llm.c or minigpt",
        ),
        ((*SPLIT, "largest_id"), "9", "splits.train.largest_id is not an integer"),
        ((*SPLIT, "n_bytes"), 0.5, "splits.train.n_bytes is not an integer"),
        (("tokenizer",), "byte", "tokenizer is not a mapping"),
        (("tokenizer", "vocab_size"), True, "tokenizer.vocab_size is not an integer"),
        (
            ("tokenizer", "files"),
            {"tokenizer.json": None},
            "tokenizer.files.tokenizer.json is not text",
        ),
        (("dtype",), "object", "dtype is not uint16 or uint32"),
        (("request",), 1, "request is not a mapping"),
        (("fingerprint",), 1, "fingerprint does not match"),
    ],
)
@pytest.mark.faults(31)
def test_a_manifest_of_other_types_is_one_line(
    folder: Path, place: tuple, value: object, message: str
) -> None:
    """Its fingerprint is right: whoever made it did that on purpose."""

    def forge(manifest: dict) -> None:
        for key in place[:-1]:
            manifest = manifest[key]
        manifest[place[-1]] = value

    rewrite_manifest(folder, forge, honest=place != ("fingerprint",))
    with pytest.raises(DataError, match=message) as caught:
        Tokens.open(folder)
    assert "\n" not in str(caught.value)


def pipe(path: Path, elsewhere: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_out(path: Path, elsewhere: Path) -> None:
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer/tokenizer.json", SHARD])
@pytest.mark.parametrize("swap", [pipe, link_out])
@pytest.mark.faults(31)
def test_pipes_and_links_that_lead_out_are_refused(
    folder: Path, tmp_path: Path, name: str, swap: Callable[[Path, Path], None]
) -> None:
    """A pipe would be waited for until somebody writes to it."""
    swap(folder / name, tmp_path / "elsewhere")
    with pytest.raises(DataError, match=Path(name).name):
        Tokens.open(folder)


@pytest.mark.faults(31)
def test_a_tokenizer_that_lies_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    link_out(folder / "tokenizer", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"a link leads out of the folder of tokens: .*tokenizer"):
        Tokens.open(folder)


@pytest.mark.faults(31)
def test_a_folder_of_tokens_may_itself_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert Tokens.open(tmp_path / "link").fingerprint == Tokens.open(folder).fingerprint


# Fault 33


@pytest.mark.faults(33)
def test_an_id_outside_the_vocabulary(folder: Path) -> None:
    rewrite_manifest(folder, lambda manifest: manifest["splits"]["val"].update(largest_id=300))
    with pytest.raises(DataError, match=r"id 300 is outside the vocabulary of 300"):
        Tokens.open(folder)


@pytest.mark.faults(33)
def test_another_tokenizer(folder: Path) -> None:
    def adopt(manifest: dict) -> None:
        """As if someone swapped the tokenizer and its hashes."""
        from minigpt.files.durable import sha256_file

        manifest["tokenizer"]["files"] = {
            path.name: sha256_file(path) for path in sorted((folder / "tokenizer").iterdir())
        }

    shutil.rmtree(folder / "tokenizer")
    Byte().train([]).save(folder / "tokenizer")
    with pytest.raises(DataError, match=r"damaged tokenizer file: .*tokenizer"):
        Tokens.open(folder)
    rewrite_manifest(folder, adopt)
    with pytest.raises(DataError, match="the tokenizer is not the one that made the shards"):
        Tokens.open(folder)


@pytest.mark.faults(33)
def test_a_missing_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"missing tokenizer file: .*tokenizer\.json"):
        Tokens.open(folder)


# Fault 32


def read_all(tokens: Tokens) -> list[bytes]:
    windows = TrainWindows(tokens.train, 16, seed=0)
    batches = [windows.batch(step, 4) for step in range(1 + windows.n_windows // 4)]
    batches += validation_batches(tokens.val, 16, 4)
    return [inputs.tobytes() + targets.tobytes() for inputs, targets in batches]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 100),
        lambda path: os.truncate(path, 0),
        lambda path: patch(path, 200, b"\xff\xff"),
        lambda path: path.unlink(),
        lambda path: (path.rename(path.with_name("aside")), path.write_bytes(bytes(664))),
    ],
    ids=["truncated", "emptied", "overwritten", "deleted", "replaced"],
)
@pytest.mark.parametrize("opened", [True, False], ids=["after reading", "before reading"])
@pytest.mark.faults(32)
def test_a_shard_changed_while_training(
    folder: Path, damage: Callable[[Path], object], opened: bool
) -> None:
    tokens = Tokens.open(folder)
    if opened:
        read_all(tokens)
    damage(folder / SHARD)
    with pytest.raises(DataError, match=SHARD):
        read_all(tokens)


@pytest.mark.faults(32)
def test_a_touched_or_copied_shard_is_no_damage(folder: Path) -> None:
    tokens = Tokens.open(folder)
    before = read_all(tokens)
    os.utime(folder / SHARD, (1, 1))
    assert read_all(tokens) == before
    shutil.copy(folder / SHARD, folder / "copy")
    (folder / "copy").rename(folder / SHARD)
    assert read_all(tokens) == before


def test_reads_are_whole_and_checked(folder: Path) -> None:
    split = Tokens.open(folder).train
    everything = split.read(0, split.n_tokens).tolist()
    assert len(everything) == split.n_tokens > 900
    rng = random.Random(0)
    for _ in range(300):
        start = rng.randrange(split.n_tokens)
        count = rng.randrange(split.n_tokens - start + 1)
        assert split.read(start, count).tolist() == everything[start : start + count]
    for start, count in ((-1, 2), (0, split.n_tokens + 1), (split.n_tokens, 1), (0, -1)):
        with pytest.raises(IndexError):
            split.read(start, count)


def test_few_files_stay_open(tmp_path: Path) -> None:
    """A process that may open 32 files reads hundreds of shards; with fewer it is told so."""
    tokens = prepare(Memory(stories(200)), Byte(), tmp_path, val_fraction=0.4, shard_tokens=64)
    assert len(tokens.train.shards) > 128
    assert len(tokens.val.shards) > 64
    code = (
        "import resource, sys\n"
        "from minigpt.data.tokens import Tokens\n"
        "from minigpt.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n"
        "tokens = Tokens.open(sys.argv[1])\n"
        "for split in (tokens.train, tokens.val):\n"
        "    for shard in split.shards:\n"
        "        split.read(shard.first, 1)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))\n"
        "try:\n"
        "    Tokens.open(sys.argv[1]).train.read(0, 1)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "ulimit -n" in done.stdout, done.stdout
    assert "again" not in done.stdout


# Fault 34


@pytest.mark.parametrize("texts", [["ab"], ["a", "b"], ["x" * 10]])
@pytest.mark.faults(34)
def test_tiny_corpora_say_what_is_missing(tmp_path: Path, texts: list[str]) -> None:
    tokens = prepare(Memory(texts), Byte(), tmp_path, val_fraction=0.1)
    assert tokens.train.n_tokens >= 2
    assert tokens.val.n_tokens >= 2
    with pytest.raises(DataError, match=rf"{tokens.train.n_tokens} tokens, one sequence needs 33"):
        TrainWindows(tokens.train, 32, seed=0)


@pytest.mark.faults(34)
def test_no_validation_text_is_an_error(tmp_path: Path) -> None:
    source = Memory(["text", "more"], ["train", "train"])
    with pytest.raises(DataError, match=r"no validation text: 2 documents, 8 bytes"):
        prepare(source, Byte(), tmp_path)


@pytest.mark.faults(31)
def test_foreign_headers(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    header = struct.pack("<256i", 20240520, 1, 5, *[0] * 253)
    path.write_bytes(header + bytes(10))
    assert (foreign_layout(path).format, foreign_layout(path).n_tokens) == ("llm.c", 5)
    path.write_bytes(header + bytes(12))
    with pytest.raises(DataError, match=r"has 1036 bytes; 5 uint16 ids need 1034"):
        foreign_layout(path)
    path.write_bytes(struct.pack("<256i", 20240520, 2, 5, *[0] * 253) + bytes(10))
    with pytest.raises(
        DataError, match=r"unknown version of an llm.c shard: .* \(found 2, expected 1\)"
    ):
        foreign_layout(path)
    path.write_bytes(bytes(6))
    assert (foreign_layout(path).format, foreign_layout(path).n_tokens) == ("bare", 3)
    for content in (bytes(7), b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match="uint16 ids need"):
            foreign_layout(path)
