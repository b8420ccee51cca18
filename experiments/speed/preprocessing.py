"""How fast text becomes tokens on disk, beside tiktoken and tokenizers encoding in memory.

    python experiments/speed/preprocessing.py                    plays (.txt), on 1, then 2 cores
    python experiments/speed/preprocessing.py --pages --cores 1  pages of 4 kB (.jsonl)

Ours is end to end: read the files, clean, split, encode, write shards, hash, verify. The others
only encode texts that lie in memory, with the same merges. The plays come 72 times (370 MB), since
0.3 s of ours happen once whatever the size of the corpus; `tokenizers`, which is slow, gets each
once. Each measurement is a process of its own, pinned to its cores; the arms run in turn, and the
ratio is the median over rounds with its quartiles.
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
VOCABULARY, COPIES, PAGE = 20_000, 72, 4096


class Ready(BPE):
    """The tokenizer that the other arms use: training it is no part of the measurement."""

    def __init__(self, folder: Path) -> None:
        super().__init__(VOCABULARY)
        self.folder = folder

    def train(self, texts: Iterable[str]) -> BPETokenizer:
        tokenizer = load(self.folder)
        assert isinstance(tokenizer, BPETokenizer)
        return tokenizer


def write_inputs(folder: Path, in_pages: bool) -> None:
    """folder/texts, which ours reads, folder/texts.json, which the others get, and a tokenizer
    trained on them.
    """
    texts = [
        document.text for document in Shakespeare([]).documents() if isinstance(document.text, str)
    ]
    if in_pages:
        texts = [text[i : i + PAGE] for text in texts for i in range(0, len(text), PAGE)]
    BPE(VOCABULARY).train(texts).save(folder / "tokenizer")
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "texts").mkdir()
    for copy in range(COPIES):
        if in_pages:
            lines = [json.dumps({"text": text}) + "\n" for text in texts]
            (folder / "texts" / f"{copy:02d}.jsonl").write_text("".join(lines))
        else:
            for number, text in enumerate(texts):
                (folder / "texts" / f"{copy:02d}-{number:02d}.txt").write_text(text)


def measure(arm: str, folder: Path, cores: int) -> float:
    """Megabytes a second of one arm in this process; what is loaded beforehand does not count."""
    texts = json.loads((folder / "texts.json").read_text()) * (1 if arm == "tokenizers" else COPIES)
    tokenizer = load(folder / "tokenizer")
    tokenizer.encode("To be, or not to be")  # builds what the first call builds
    n_bytes = sum(len(text.encode()) for text in texts)
    return n_bytes / 1e6 / seconds(arm, folder, cores, texts, tokenizer)


def seconds(arm: str, folder: Path, cores: int, texts: list[str], tokenizer: Tokenizer) -> float:
    if arm == "ours":
        with tempfile.TemporaryDirectory(dir=folder) as out:
            start = time.perf_counter()
            files, ready = Files(str(folder / "texts")), Ready(folder / "tokenizer")
            prepare(files, ready, out, workers=cores)
            return time.perf_counter() - start
    if arm == "tiktoken":
        encoding = tokenizer.encoding  # type: ignore[attr-defined]
        start = time.perf_counter()
        if cores == 1:
            for text in texts:
                encoding.encode_ordinary(text)
        else:
            encoding.encode_ordinary_batch(texts, num_threads=cores)
        return time.perf_counter() - start
    from tokenizers import Tokenizer as Library

    library = Library.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    start = time.perf_counter()
    library.encode_batch(texts)
    return time.perf_counter() - start


def in_child(arm: str, folder: Path, cores: int) -> float:
    job = ["--arm", arm, "--folder", str(folder), "--cores", str(cores)]
    command, environment = [sys.executable, __file__, *job], {"RAYON_NUM_THREADS": str(cores)}
    done = subprocess.run(
        command, env=os.environ | environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def compare(folder: Path, cores: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(rounds):
        for arm in ARMS if number % 2 else reversed(ARMS):
            rates[arm].append(in_child(arm, folder, cores))
    for arm in ARMS:
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[arm])]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rate = statistics.median(rates[arm])
        print(
            f"| {cores} | {arm} | {rate:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", action="store_true")
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
        write_inputs(Path(name), arguments.pages)
        print(f"{'pages' if arguments.pages else 'plays'}, {COPIES} times, {VOCABULARY:,} ids\n")
        print("| cores | arm | MB/s | ours / it |\n|---|---|---|---|")
        for cores in arguments.cores or (1, 2):
            compare(Path(name), cores, arguments.rounds)


if __name__ == "__main__":
    main()
