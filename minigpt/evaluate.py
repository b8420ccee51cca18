"""The loss of a run on any text, with an interval.

python -m minigpt.evaluate RUN TEXT
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.compare.statistics import Interval, ratio_interval
from minigpt.config import precision
from minigpt.config.plan import threads_for
from minigpt.data.clean import report
from minigpt.data.files import Files
from minigpt.data.iterator import walk
from minigpt.data.source import Document, Source
from minigpt.data.tokens import Split, Tokens
from minigpt.errors import ConfigError, DataError
from minigpt.files.records import read_config, read_record
from minigpt.generate.load import Loaded, load_any
from minigpt.generate.rebuild import trusted_packages
from minigpt.terminal import bar, escape_line, say, table
from minigpt.train.evaluate import evaluate

STRETCHES = 30
NAMES = ("nats_per_token", "bits_per_byte", "perplexity")
HELP = """\
Say how well a run predicts a text: nats per token, bits per byte, perplexity, each with a 95 %
interval over its windows. Without a text: its own validation split. Nothing is written.

  python -m minigpt.evaluate outputs/tiny-muon-shakespeare-3fa9c1d2
  python -m minigpt.evaluate outputs/tiny-muon-shakespeare-3fa9c1d2 novel.txt more.jsonl
  python -m minigpt.evaluate outputs/*-3fa9c1d2/checkpoints/step_00001000 notes/
  curl -s https://example.org | python -m minigpt.evaluate exported_folder - --json

A text is read and cut into documents as data=files does it: each begins with the end-of-text
token, which is scored wherever a token stands before it. The stream is then cut into windows of
the model's context (max_seq_len) without overlap, as in validation: a token is predicted from
those before it in its window, so the first one of a window from a single token. Bits per byte can
be compared between tokenizers, nats per token and perplexity cannot.

The interval says what another text of the same kind and length may give; it says nothing of other
seeds. Neighbouring windows are alike (on three plays, as single draws they make it less than half
as wide as it should be), so its draws are at most 30 stretches of neighbours: batch means,
Schmeiser (1982), and the t interval of a ratio. Documents longer than a stretch still narrow it.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.evaluate", HELP)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="a run, one of its checkpoints, an exported folder")
    add("texts", metavar="TEXT", nargs="*", default=[], help="files as of data=files; - is stdin")
    add("--text", metavar="TEXT", action="append", default=[], help="the same")
    add("--column", default="text", help="the key of the text, where a row is a document")
    add("--trust", metavar="PACKAGE", action="append", help="whose classes a run may name")
    add("--json", action="store_true", help="a JSON object a text")
    return exit_code_of(lambda: show(parser.parse_args(arguments)))


def show(asked: argparse.Namespace) -> None:
    """Print the losses. Raises CheckpointError, ConfigError or DataError."""
    loaded = load_any(asked.run.expanduser(), trusted_packages(asked.trust))
    for name in [*asked.texts, *asked.text] or [None]:
        split = own_validation(loaded) if name is None else text_of(loaded, name, asked.column)
        found = scores(loaded, split)
        if asked.json:
            print(json.dumps(found))
            continue
        step = "exported" if loaded.step is None else f"step {loaded.step}"
        print(escape_line(f"{loaded.folder} ({step}, {found['device']}, {found['precision']})"))
        size = "" if found["bytes"] is None else f"{found['bytes']:,} bytes, "
        scored = f"{found['windows']:,} windows of {found['context']:,} tokens"
        print(escape_line(f"{split.name}: {size}{found['tokens']:,} tokens scored in {scored}"))
        rows = [(name, *cells(found[name])) for name in NAMES if found[name] is not None]
        print("\n".join(table(rows)))


def cells(value: dict[str, float | None]) -> tuple[str, str]:
    """A figure and its interval."""
    if value["low"] is None:
        return f"{value['value']:.4f}", "one window: no interval"
    return f"{value['value']:.4f}", f"{value['low']:.4f} to {value['high']:.4f}"


class InMemory(Split):
    """A stream of ids that lies on no disk.  n_bytes: of its text, None if unknown."""

    def __init__(self, name: str, ids: np.ndarray, n_bytes: int | None = None) -> None:
        self.name, self.ids, self.n_tokens, self.n_bytes = name, ids, len(ids), n_bytes

    def read(self, start: int, count: int) -> np.ndarray:
        return self.ids[start : start + count]


class Stdin(Source):
    """All of stdin as one document."""

    def describe(self) -> dict[str, Any]:
        return {"kind": "stdin"}

    def documents(self, start: Any = None) -> Iterator[Document]:
        content = b"" if sys.stdin is None else sys.stdin.buffer.read()  # None: closed
        yield Document(content.decode("utf-8-sig", errors="replace"), 0)


def text_of(loaded: Loaded, name: str, column: str) -> InMemory:
    """A text as the run's tokenizer reads it. DataError if there is none."""
    source = Stdin() if name == "-" else Files(name, column)
    end = loaded.tokenizer.end_of_text
    first = np.array([] if end is None else [end], np.uint32)
    ids, n_bytes, odd = [np.empty(0, np.uint32)], 0, Counter[str]()
    for piece in walk(source, {"rule": "documents", "documents": []}):  # none is held out
        ids += [first] * piece.starts_document + [loaded.tokenizer.encode_array(piece.text)]
        n_bytes += piece.n_bytes
        odd.update(piece.odd)
    for line in report(odd, {}):
        say(escape_line(f"{name}: {line}"))
    stream = InMemory(name, np.concatenate(ids), n_bytes)
    if stream.n_tokens < 2 or not n_bytes:
        raise DataError(f"no text to score: {name} ({stream.n_tokens} tokens; give more)")
    return stream


def own_validation(loaded: Loaded) -> Split:
    """The validation split of the run. DataError if it is not there, or not the one of the run."""
    record = None if loaded.step is None else read_record(loaded.folder)
    if record is None:
        raise ConfigError(f"no validation split: {loaded.folder} is an exported folder (give TEXT)")
    folder = Path(record["data"]["folder"])
    if not (folder / "manifest.json").is_file():
        raise DataError(
            f"the run's tokens are not here: {folder} "
            "(give TEXT, or prepare them again by preprocess.py)"
        )
    tokens = Tokens.open(folder)
    if tokens.fingerprint != record["data"]["fingerprint"]:
        raise DataError(
            f"not the run's tokens: {folder}: {record['data']['fingerprint'][:12]} -> "
            f"{tokens.fingerprint[:12]} (give TEXT)"
        )
    return tokens.val


def scores(loaded: Loaded, split: Split) -> dict[str, Any]:
    """Everything that is said of a text, as JSON."""
    model, tokenizer = loaded.model, loaded.tokenizer
    train = {} if loaded.step is None else read_config(loaded.folder)["train"]
    width = model.embed.weight.shape[1]
    torch.set_num_threads(threads_for(width, torch.get_num_threads()))
    chosen = precision.choose("auto", train.get("precision", "auto"), False, d_model=width)
    chosen.activate()
    model.to(chosen.device)
    ends, context = tokenizer.end_of_text, int(model.max_seq_len)
    starts = range(0, split.n_tokens - 1, context)
    lengths = None if split.n_bytes is None else tokenizer.bytes_per_id()
    # Of each window; sizes in bytes, or in proportion to them.
    nats: list[float] = []
    counts: list[int] = []
    sizes: list[int] = []
    for start in bar(iterable=starts, disable=None):  # shown on a terminal
        ids = split.read(start, min(context, split.n_tokens - 1 - start) + 1)
        found = evaluate(
            model,
            InMemory(split.name, ids),
            seq_len=context,
            batch_size=1,
            precision=chosen,
            end_of_text=ends if train.get("document_mask") else None,
        )
        assert found is not None  # nothing stops it
        nats.append(found.loss * found.tokens)
        counts.append(found.tokens)
        sizes.append(found.tokens if lengths is None else int(lengths[ids[1:]].sum()))
    loss = ratio_interval(stretches(nats), stretches(counts))
    bits = None
    if split.n_bytes:
        scale = split.n_bytes / sum(sizes) * math.log(2)  # the sizes become bits' worth of bytes
        bits = ratio_interval(stretches(nats), stretches([size * scale for size in sizes]))
    return {
        "run": str(loaded.folder),
        "step": loaded.step,
        "text": split.name,
        "device": chosen.device,
        "precision": chosen.precision,
        "context": context,
        "windows": len(starts),
        "tokens": sum(counts),
        "bytes": split.n_bytes,
        "nats_per_token": ends_of(loss),
        "bits_per_byte": None if bits is None else ends_of(bits),
        "perplexity": {  # beyond 700 no float is large enough
            key: None if x is None else math.exp(min(x, 700.0)) for key, x in ends_of(loss).items()
        },
    }


def stretches(values: Sequence[float]) -> list[float]:
    """The sums over stretches of neighbouring windows."""
    return [float(part.sum()) for part in np.array_split(values, min(STRETCHES, len(values)))]


def ends_of(found: Interval) -> dict[str, float | None]:
    """As JSON; without an interval where there is a single window."""
    low, high = (None, None) if found.n == 1 else (max(found.low, 0.0), found.high)  # nats are >= 0
    return {"value": found.mean, "low": low, "high": high}


if __name__ == "__main__":
    sys.exit(main())
