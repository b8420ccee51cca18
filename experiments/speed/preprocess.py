"""How fast text becomes tokens on disk, beside tiktoken's and tokenizers' own rate of encoding in memory.

    python experiments/speed/preprocess.py                     one core, then two
    python experiments/speed/preprocess.py --rounds 9 --cores 1

Ours is end to end: read a .jsonl of pages (about 4 kB each, cut from the plays, which come several times), clean,
split, encode, write shards, hash, verify. The others only encode pages that lie in memory, with the same merges;
`tokenizers`, which is slow, gets each play once. Each measurement is a process of its own, pinned to its cores; the
arms run in turn, and the ratio is the median over rounds with its quartiles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from minigpt.data.files import Files
from minigpt.data.prepare import prepare
from minigpt.data.shakespeare import Shakespeare
from minigpt.tokenizer import load
from minigpt.tokenizer.base import Tokenizer
from minigpt.tokenizer.fast_bpe import BPE, BPETokenizer

ARMS = ("ours", "tiktoken", "tokenizers")
VOCABULARY, COPIES, PAGE = 20_000, 24, 4096


class Ready(BPE):
    """The tokenizer that the other arms use: training it is no part of the measurement."""

    def __init__(self, folder: Path) -> None:
        super().__init__(VOCABULARY)
        self.folder = folder

    def train(self, texts: Iterable[str]) -> BPETokenizer:
        tokenizer = load(self.folder)
        assert isinstance(tokenizer, BPETokenizer)
        return tokenizer


def write_inputs(folder: Path) -> int:
    """The pages and a tokenizer trained on them; returns the number of bytes."""
    plays = [document.text for document in Shakespeare([]).documents()]
    pages = [play[i : i + PAGE] for play in plays if isinstance(play, str) for i in range(0, len(play), PAGE)] * COPIES
    (folder / "pages.jsonl").write_text("".join([json.dumps({"text": page}) + "\n" for page in pages]))
    BPE(VOCABULARY).train(pages[: len(pages) // COPIES]).save(folder / "tokenizer")
    return sum(len(page.encode()) for page in pages)


def measure(arm: str, folder: Path, cores: int) -> float:
    """Megabytes a second of one arm in this process; what is loaded beforehand does not count."""
    pages = [json.loads(line)["text"] for line in (folder / "pages.jsonl").read_text().splitlines()]
    if arm == "tokenizers":
        pages = pages[: len(pages) // COPIES]
    tokenizer = load(folder / "tokenizer")
    tokenizer.encode("To be, or not to be")  # builds what the first call builds
    return sum(len(page.encode()) for page in pages) / 1e6 / seconds(arm, folder, cores, pages, tokenizer)


def seconds(arm: str, folder: Path, cores: int, pages: list[str], tokenizer: Tokenizer) -> float:
    if arm == "ours":
        with tempfile.TemporaryDirectory(dir=folder) as out:
            start = time.perf_counter()
            prepare(Files(str(folder / "pages.jsonl")), Ready(folder / "tokenizer"), out, workers=cores, progress=False)
            return time.perf_counter() - start
    if arm == "tiktoken":
        encoding = tokenizer.encoding  # type: ignore[attr-defined]
        start = time.perf_counter()
        if cores == 1:
            for page in pages:
                encoding.encode_ordinary(page)
        else:
            encoding.encode_ordinary_batch(pages, num_threads=cores)
        return time.perf_counter() - start
    from tokenizers import Tokenizer as Library

    library = Library.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    start = time.perf_counter()
    library.encode_batch(pages)
    return time.perf_counter() - start


def in_child(arm: str, folder: Path, cores: int) -> float:
    command = [sys.executable, __file__, "--arm", arm, "--folder", str(folder), "--cores", str(cores)]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(cores)}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def compare(folder: Path, cores: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(rounds):
        for arm in ARMS if number % 2 else reversed(ARMS):
            rates[arm].append(in_child(arm, folder, cores))
    for arm in ARMS:
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[arm])]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rate = statistics.median(rates[arm])
        print(f"| {cores} | {arm} | {rate:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, action="append")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        cores = arguments.cores[0]
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        print(measure(arguments.arm, arguments.folder, cores))
        return
    with tempfile.TemporaryDirectory() as name:
        n_bytes = write_inputs(Path(name))
        print(f"{n_bytes / 1e6:.1f} MB in pages of {PAGE} characters, {VOCABULARY:,} ids\n")
        print("| cores | arm | MB/s | ours / it |\n|---|---|---|---|")
        for cores in arguments.cores or (1, 2):
            compare(Path(name), cores, arguments.rounds)


if __name__ == "__main__":
    main()
