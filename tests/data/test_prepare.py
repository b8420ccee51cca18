"""Preparing tokens: the same bytes whatever the workers, every odd document counted."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import Memory, documents_of, stories, stream
from runs import contents, held

from minigpt import interrupt
from minigpt.data import encoding, preparation
from minigpt.data.copy_task import CopyTask
from minigpt.data.files import Files
from minigpt.data.iterator import training_text
from minigpt.data.prepare import prepare
from minigpt.data.shards import token_dtype
from minigpt.data.source import Document
from minigpt.data.tokens import Tokens
from minigpt.errors import BusyError, DataError, Stopped, StorageError
from minigpt.tokenizer.byte import Byte, ByteTokenizer
from minigpt.tokenizer.char import Char
from minigpt.tokenizer.fast_bpe import BPE

TEXTS = stories(60)
OPTIONS: dict[str, Any] = {"val_fraction": 0.1, "shard_tokens": 500}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 300)


def test_every_document_lies_in_one_split(tmp_path: Path) -> None:
    tokens = prepare(Memory(TEXTS), BPE(300), tmp_path / "tokens", **OPTIONS)
    train, val = documents_of(tokens, "train"), documents_of(tokens, "val")
    assert sorted(train + val) == sorted(TEXTS)
    assert train == [text for text in TEXTS if text in set(train)]  # in order
    assert val
    for split, texts in ((tokens.train, train), (tokens.val, val)):
        assert split.n_documents == len(texts)
        assert split.n_bytes == sum(len(text.encode()) for text in texts)
        assert split.n_tokens == len(texts) + sum(
            len(tokens.tokenizer.encode(text)) for text in texts
        )
    assert len(tokens.train.shards) > 2
    assert {shard.layout.n_tokens for shard in tokens.train.shards[:-1]} == {500}


def test_the_tokenizer_sees_training_text_only(tmp_path: Path) -> None:
    source = Memory(["abc " * 50, "xyz " * 50, "abd " * 50], ["train", "val", "train"])
    tokens = prepare(source, Char(), tmp_path / "tokens", **OPTIONS)
    assert tokens.tokenizer.characters == [" ", "a", "b", "c", "d"]
    assert set(stream(tokens, "val")) == {0, tokens.tokenizer.unknown, tokens.tokenizer.end_of_text}


@pytest.mark.parametrize(
    "tokenizer", [BPE(300), Char(), Byte()], ids=lambda spec: spec.describe()["kind"]
)
@pytest.mark.faults(39)
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, tokenizer: Any) -> None:
    folders = {}
    for workers in (1, 2, 4):
        prepare(Memory(TEXTS), tokenizer, tmp_path / str(workers), workers=workers, **OPTIONS)
        folders[workers] = contents(tmp_path / str(workers))
    assert folders[1] == folders[2] == folders[4]
    assert len([name for name in folders[1] if name.startswith("train_")]) > 2


def test_a_second_call_only_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = prepare(Memory(TEXTS), BPE(300), tmp_path, **OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(BPE, "train", None)
    again = prepare(Memory(TEXTS), BPE(300), tmp_path, workers=3, **OPTIONS)
    assert again.fingerprint == tokens.fingerprint
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert Tokens.open(tmp_path).fingerprint == tokens.fingerprint


def test_the_manifest_says_nothing_about_here_and_now(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "in" / f"{number}.txt").write_text(text)
    prepare(Files(str(tmp_path / "in")), Byte(), tmp_path / "one", **OPTIONS)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    prepare(Files(str(tmp_path / "elsewhere")), Byte(), tmp_path / "two", workers=2, **OPTIONS)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    text = (tmp_path / "one" / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert str(os.getpid()) not in json.loads(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_fraction": 0.2}, r"val_fraction 0.1 -> 0.2"),
        ({"shard_tokens": 400}, r"shard_tokens 500 -> 400"),
        ({"max_tokens": 10}, r"max_tokens null -> 10"),
        ({"tokenizer": BPE(301)}, r"tokenizer.vocab_size 300 -> 301"),
        ({"corpus": Memory(TEXTS[:-1])}, r"source.sha256 "),
    ],
)
@pytest.mark.faults(35)
def test_other_tokens_in_the_folder_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {
        "corpus": Memory(TEXTS),
        "tokenizer": BPE(300),
        "folder": tmp_path,
        **OPTIONS,
    }
    prepare(**arguments)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=message):
        prepare(**{**arguments, **change})
    assert contents(tmp_path) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not empty and holds no tokens: .* has thesis\.txt"):
        prepare(Memory(TEXTS), Byte(), tmp_path, **OPTIONS)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.faults(14)
def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        prepare(Memory(TEXTS), Byte(), tmp_path / "file" / "tokens", **OPTIONS)


@pytest.mark.parametrize(
    "options",
    [
        {"val_fraction": 0},
        {"val_fraction": 0.6},
        {"val_fraction": float("nan")},
        {"max_tokens": 0},
        {"max_tokens": 1},
        {"workers": 0},
    ],
)
def test_bad_arguments_come_before_any_file(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        prepare(Memory(TEXTS), Byte(), tmp_path / "tokens", **options)
    assert not (tmp_path / "tokens").exists()


@pytest.mark.faults(36)
def test_odd_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fault 36: each kind has a policy and a count; no two end_of_text follow each other."""
    kept = ["a\0b", "bad \ud800 half", "\ufffd from bytes", "<|endoftext|>", "plain"]
    odd: list[Any] = ["", " \n\t ", None, *kept]
    source = Memory([*odd, "validation"], ["train"] * len(odd) + ["val"])
    tokens = prepare(source, Byte(), tmp_path, **OPTIONS)
    once = dict.fromkeys(("null", "nul", "surrogates", "replacement"), 1)
    assert tokens.manifest["odd"] == {"blank": 2, **once}
    kept[1] = "bad \ufffd half"
    assert documents_of(tokens, "train") == kept
    ids = np.array(stream(tokens, "train"))
    end_of_text = ids == tokens.tokenizer.end_of_text
    assert end_of_text.sum() == 5
    assert not (end_of_text[:-1] & end_of_text[1:]).any()
    told = capsys.readouterr().err
    for line in (
        "1 null documents skipped",
        "2 empty or whitespace-only",
        "1 texts with lone surrogates",
        "1 texts with NUL",
    ):
        assert line in told


def test_what_is_odd_or_missing_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(b"a good line\n" * 20)
    (tmp_path / "b.txt").write_bytes(b"good\nbad \xff line\nbad \xfe\n")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "x"}\n\n{"text": "y\\u0000"}\n{"text": "\xff"}\n')
    options = {"val_fraction": 0.1}
    tokens = prepare(Files(str(tmp_path)), BPE(300), tmp_path / "tokens", **options)
    told = capsys.readouterr().err
    size = tokens.vocab_size
    assert size < 300
    for line in (
        f"vocabulary {size} instead of data.tokenizer.vocab_size=300: {300 - size} merges are miss",
        f"2 texts with U+FFFD, which stands where bytes were not UTF-8 (the first: {tmp_path}/b.txt"
        ", line 2)",
        f"1 texts with NUL characters, kept (the first: {tmp_path}/c.jsonl, line 3)",
    ):
        assert line in told


@pytest.mark.parametrize("max_tokens", [2, 500, 2000])
@pytest.mark.parametrize("workers", [1, 3])
def test_max_tokens_is_a_bound_that_cuts_the_last_document(
    tmp_path: Path, max_tokens: int, workers: int
) -> None:
    source = Memory(stories(300))
    options = {**OPTIONS, "shard_tokens": 20_000}
    whole = prepare(source, Byte(), tmp_path / "whole", **options)
    some = prepare(
        source, Byte(), tmp_path / "some", max_tokens=max_tokens, workers=workers, **options
    )
    assert some.train.n_tokens == max_tokens
    assert stream(some, "train") == stream(whole, "train")[:max_tokens]
    assert some.val.n_tokens >= 2
    assert stream(some, "val") == stream(whole, "val")[: some.val.n_tokens]
    assert some.train.n_bytes == some.train.n_tokens - some.train.n_documents


def test_max_tokens_beyond_the_text_takes_all_of_it(tmp_path: Path) -> None:
    whole = prepare(Memory(TEXTS), Byte(), tmp_path / "whole", **OPTIONS)
    for more in (0, 1, 10**9):
        some = prepare(
            Memory(TEXTS),
            Byte(),
            tmp_path / str(more),
            max_tokens=whole.train.n_tokens + more,
            **OPTIONS,
        )
        assert stream(some, "train") == stream(whole, "train")


def test_odd_documents_behind_the_end_are_not_counted(tmp_path: Path) -> None:
    """However far the workers read ahead."""
    source = Memory([text for story in stories(300) for text in (story, None, "a\0b")])
    counts = set()
    for workers in (1, 2, 4):
        tokens = prepare(
            source, Byte(), tmp_path / str(workers), max_tokens=3000, workers=workers, **OPTIONS
        )
        counts.add(tuple(tokens.manifest["odd"].items()))
    assert len(counts) == 1


@pytest.mark.parametrize("longest", [50, 1 << 18])
def test_max_tokens_of_a_single_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    """Its end is validation, however early training text stops; longer than a piece or shorter."""
    monkeypatch.setattr("minigpt.text.LONGEST_PIECE", longest)
    text = "".join(stories(50))
    tokens = prepare(Memory([text]), Byte(), tmp_path, max_tokens=100, **OPTIONS)
    assert tokens.train.n_tokens == 100
    assert documents_of(tokens, "train") == [text[: tokens.train.n_bytes]]
    assert documents_of(tokens, "val")[0] in text[int(len(text) * 0.9) :]


def test_the_training_text_stops_where_it_is_told() -> None:
    source = Memory(["aaaa", "bb", None, "cc", "dd"])
    rule = {"rule": "documents", "documents": [1]}
    assert list(training_text(source, rule)) == ["aaaa", "cc", "dd"]
    assert list(training_text(source, rule, max_bytes=5)) == ["aaaa", "cc"]
    assert list(training_text(source, rule, max_bytes=0)) == []


def test_vocabularies_beyond_16_bits_take_32(tmp_path: Path) -> None:
    assert (token_dtype(65_536).name, token_dtype(65_537).name) == ("uint16", "uint32")
    ranges = ((0x4E00, 20_000), (0x20000, 42_000), (0xAC00, 10_000))
    characters = "".join(chr(first + i) for first, n in ranges for i in range(n))
    source = Memory([characters, "ab"], ["train", "val"])
    tokens = prepare(source, Char(), tmp_path, val_fraction=0.1)
    assert tokens.manifest["dtype"] == "uint32"
    assert tokens.tokenizer.decode(stream(tokens, "train")) == source.texts[0]


# Interruptions


class Breaking(ByteTokenizer):
    """Fails on the n-th batch."""

    def __init__(self, batches_left: int, failure: Exception | None = None) -> None:
        super().__init__()
        self.batches_left = batches_left
        self.failure = failure

    def encode_batch(self, texts: Any) -> list[np.ndarray]:
        self.batches_left -= 1
        if self.batches_left < 0:
            if self.failure is not None:
                raise self.failure
            os.kill(os.getpid(), signal.SIGTERM)
        return super().encode_batch(texts)


class BreakingByte(Byte):
    """Byte, that breaks in the given way while it encodes; the folder cannot tell it from Byte."""

    def __init__(self, batches: int, failure: Exception | None = None) -> None:
        self.tokenizer = Breaking(batches, failure)

    def describe(self) -> dict[str, Any]:
        return Byte().describe()

    def train(self, texts: Any) -> Any:
        return self.tokenizer


class Signalling(Memory):
    """Sends SIGTERM to this process when the document of this number is read, over all calls."""

    def __init__(self, at: int, texts: list[Any], splits: list[Any] | None = None) -> None:
        super().__init__(texts, splits)
        self.at, self.read = at, 0

    def documents(self, start: Any = None) -> Iterator[Document]:
        for document in super().documents(start):
            if self.read == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)  # the main thread takes the signal, whichever thread reads
            self.read += 1
            yield document


def goes_on(folder: Path, source: Memory | None = None, spec: Any = None, **options: Any) -> None:
    """The same command ends with the bytes of a preparation that nothing disturbed."""
    interrupt.clear()
    source, spec = source or Memory(TEXTS), spec or Byte()
    prepare(source, spec, folder, **OPTIONS, **options)
    prepare(source, spec, folder.parent / "straight", **OPTIONS)
    assert contents(folder) == contents(folder.parent / "straight")


def break_off(folder: Path) -> Any:
    """A preparation that fails on the way; returns its journal."""
    with pytest.raises(MemoryError):
        prepare(Memory(TEXTS), BreakingByte(12, MemoryError()), folder, **OPTIONS)
    return json.loads((folder / "progress.json").read_text())


@pytest.fixture
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    interrupt.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupt.clear()


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize(("workers", "batches"), [(1, 0), (1, 3), (3, 3)])
@pytest.mark.faults(6)
def test_sigterm_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, batches: int
) -> None:
    """Fault 6: heard within a batch; what was encoded is kept; the same command ends the same."""
    source = Memory([None, *TEXTS, None, ""])
    prepare(source, Byte(), tmp_path / "straight", **OPTIONS)
    stops: list[Stopped] = []
    while not (tmp_path / "stopped" / "manifest.json").exists():
        interrupt.clear()
        spec = BreakingByte(batches)
        monkeypatch.setattr(preparation, "load", lambda folder, found=spec.tokenizer: found)
        try:
            prepare(source, spec, tmp_path / "stopped", workers=workers, **OPTIONS)
        except Stopped as stop:
            stops.append(stop)
            assert len(stops) < 40, "no progress between stops"
    assert len(stops) > 2
    assert {stop.exit_code for stop in stops} == {143}
    assert all("tokens are kept" in str(stop) for stop in stops)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("at", [0, 30, 80])
@pytest.mark.faults(6)
def test_sigterm_before_anything_is_encoded(tmp_path: Path, at: int) -> None:
    """While the split is planned (documents 0 to 59), and while the tokenizer reads the text."""

    source = Signalling(at, TEXTS)
    with pytest.raises(Stopped, match="written yet"):
        prepare(source, BPE(300), tmp_path / "stopped", **OPTIONS)
    assert source.read <= at + 2
    goes_on(tmp_path / "stopped", source, BPE(300))


class Stuck(ByteTokenizer):
    """Encodes two batches; a signal comes with the third, which takes until `released` is set."""

    def __init__(self, released: threading.Event) -> None:
        super().__init__()
        self.released = released
        self.batches = 0

    def encode_batch(self, texts: Any) -> list[np.ndarray]:
        self.batches += 1
        if self.batches > 2:
            os.kill(os.getpid(), signal.SIGTERM)
            assert self.released.wait(60)
        return super().encode_batch(texts)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.faults(6)
def test_sigterm_does_not_wait_for_an_encoder(tmp_path: Path, workers: int) -> None:
    """What was encoded before is kept, and the same command ends with the same bytes."""
    released = threading.Event()
    spec = BreakingByte(0)
    spec.tokenizer = Stuck(released)  # type: ignore[assignment]
    with pytest.raises(Stopped, match=r"tokens are kept") as caught:
        prepare(Memory(TEXTS), spec, tmp_path / "stopped", workers=workers, **OPTIONS)
    assert not released.is_set()
    assert int(str(caught.value).split(": ")[1].split()[0].replace(",", "")) > 300
    released.set()
    goes_on(tmp_path / "stopped")


@pytest.mark.usefixtures("_signals")
@pytest.mark.faults(6)
def test_sigterm_is_heard_among_documents_without_text(tmp_path: Path) -> None:
    """The skipped ones are counted once, and the same command ends with the same bytes."""

    texts = [*TEXTS, *[None] * 300_000, *TEXTS]
    splits: list[Any] = ["train", *["val"] * 3, *["train"] * (len(texts) - 4)]
    source = Signalling(5000, texts, splits)
    with pytest.raises(Stopped, match="tokens are kept"):
        prepare(source, Byte(), tmp_path / "stopped", **OPTIONS)
    assert source.read < 6000
    goes_on(tmp_path / "stopped", source)


@pytest.mark.faults(6)
def test_sigterm_does_not_wait_until_a_tokenizer_has_learnt(tmp_path: Path) -> None:
    """From a line of 10 MB without a space, which takes a quarter of a minute."""
    (tmp_path / "x.txt").write_text("a" * 10_000_000)
    command = [sys.executable, "preprocess.py", "data=files", f"data.path={tmp_path / 'x.txt'}"]
    command += [f"data.out={tmp_path / 'tokens'}"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "training the tokenizer\n"
        time.sleep(0.5)
        process.terminate()
        told = process.stderr.read()
    assert process.returncode == 143, told
    assert "Traceback" not in told
    assert not (tmp_path / "tokens" / "tokenizer").exists()


@pytest.mark.parametrize("at", [1, 5, 12])
@pytest.mark.faults(12, 38)
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Half a write goes through, then the disk is full: exit 6; later the same command goes on."""
    real_write, writes = os.write, 0

    def write(descriptor: int, content: Any) -> int:
        nonlocal writes
        writes += 1
        if writes == at and len(content) > 1:
            return real_write(descriptor, bytes(content)[: len(content) // 2])
        if writes > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(
        StorageError,
        match=rf"cannot write: {tmp_path / 'full'}: No space left on device \(free some",
    ):
        prepare(Memory(TEXTS), Byte(), tmp_path / "full", **OPTIONS)
    monkeypatch.setattr(os, "write", real_write)
    goes_on(tmp_path / "full")


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.faults(39)
def test_a_failing_worker_ends_the_preparation(tmp_path: Path, workers: int) -> None:
    """The failure comes out, no thread is left, and a later call goes on from what was finished."""
    spec = BreakingByte(8, MemoryError("out of memory"))
    with pytest.raises(MemoryError, match="out of memory"):
        prepare(Memory(TEXTS), spec, tmp_path / "broken", workers=workers, **OPTIONS)
    assert not any(thread.name.startswith("encode") for thread in threading.enumerate())
    goes_on(tmp_path / "broken", workers=workers)


def test_resuming_reads_on_from_the_last_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished is not tokenized again."""
    journal = break_off(tmp_path)
    assert journal["encoding"]["state"]["position"] > 5
    spec = BreakingByte(10**9)
    monkeypatch.setattr(preparation, "load", lambda folder: spec.tokenizer)
    prepare(Memory(TEXTS), spec, tmp_path, **OPTIONS)
    batches_in_all = sum(len(text) for text in TEXTS) // 300
    assert 10**9 - spec.tokenizer.batches_left < batches_in_all - 5


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((), [], "not a JSON object"),
        (("request",), None, "request is not a mapping"),
        (("encoding",), [], "encoding is not a mapping"),
        (("encoding", "state"), {}, "encoding.state.position is missing"),
        (("encoding", "state", "position"), ["a"], "encoding.state.position is not an integer"),
        (("encoding", "state", "number"), -1, "encoding.state.number is not an integer"),
        (("encoding", "splits", "train", "writer", "partial_tokens"), 10**30, "beyond 64 bits"),
        (
            ("encoding", "splits", "train", "writer", "partial_tokens"),
            2**60,
            "half-made shard is gone or too short",
        ),
        (("encoding", "splits", "val", "totals", "n_bytes"), "x", "n_bytes is not an integer"),
        (
            ("encoding", "splits", "train", "writer", "finished", 0, "name"),
            "../../x",
            "bad file name",
        ),
        (("rule",), {"rule": "hash"}, "rule.rule is not files or named"),
    ],
)
@pytest.mark.faults(38)
def test_a_journal_of_other_types_is_one_line(
    tmp_path: Path, place: tuple, value: Any, message: str
) -> None:
    journal = break_off(tmp_path)
    node = journal
    for key in place[:-1]:
        node = node[key]
    if place:
        node[place[-1]] = value
    (tmp_path / "progress.json").write_text(json.dumps(journal if place else value))
    with pytest.raises(DataError, match=message) as caught:
        prepare(Memory(TEXTS), Byte(), tmp_path, **OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.faults(38)
def test_a_half_made_shard_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """Continuing would cut the file that it leads to."""
    break_off(tmp_path / "tokens")
    (tmp_path / "mine").write_bytes(bytes(10_000))
    for partial in (tmp_path / "tokens").glob(".*train_*"):
        partial.unlink()
        partial.symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="half-made shard is gone or too short"):
        prepare(Memory(TEXTS), Byte(), tmp_path / "tokens", **OPTIONS)
    assert (tmp_path / "mine").read_bytes() == bytes(10_000)


@pytest.mark.faults(39)
def test_a_busy_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fault 39: an explicit preparation refuses, naming the owner; an implicit one waits."""
    with held(tmp_path) as owner:
        with pytest.raises(BusyError, match=rf"in use: .* by pid {owner.pid} on ") as caught:
            prepare(Memory(TEXTS), Byte(), tmp_path, **OPTIONS)
        assert caught.value.exit_code == 7
        threading.Timer(0.5, owner.kill).start()
        tokens = prepare(Memory(TEXTS), Byte(), tmp_path, wait=True, **OPTIONS)
        assert (
            f"waiting: folder of tokens is in use: {tmp_path} by pid {owner.pid}"
            in capsys.readouterr().err
        )
    assert tokens.train.n_tokens


@pytest.mark.usefixtures("_signals")
@pytest.mark.faults(6, 39)
def test_waiting_ends_with_a_signal(tmp_path: Path) -> None:
    with held(tmp_path):
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Stopped):
            prepare(Memory(TEXTS), Byte(), tmp_path, wait=True, **OPTIONS)


@pytest.mark.faults(39)
def test_two_preparations_at_once_agree(tmp_path: Path) -> None:
    """Both wait: one makes the tokens, the other finds them."""
    code = (
        "import sys\n"
        "from minigpt.data.prepare import prepare\n"
        "from minigpt.data.copy_task import CopyTask\n"
        "from minigpt.tokenizer.byte import Byte\n"
        "options = {'wait': True, 'val_fraction': 0.1}\n"
        "print(prepare(CopyTask(), Byte(), sys.argv[1], **options).fingerprint)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tokens")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] != ""


def test_progress_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minigpt.data.progress.LINE_EVERY_S", 0.0)
    prepare(CopyTask(n_documents=200), Byte(), tmp_path, val_fraction=0.1)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert any(
        " documents, " in line and " MB/s, 0:0" in line and line.endswith(" left") for line in lines
    )
    assert lines[-1].startswith(f"prepared {tmp_path}: train ")


def test_importing_is_cheap() -> None:
    code = (
        "import sys, minigpt.data.prepare, minigpt.data.windows\n"
        "import minigpt.data.hub, minigpt.data.files\n"
        "import minigpt.tokenizer.fast_bpe, minigpt.tokenizer.hf, minigpt.tokenizer.char\n"
        "heavy = {'torch', 'datasets', 'tokenizers', 'tiktoken', 'pyarrow', 'regex'}\n"
        "heavy |= {'transformers', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
