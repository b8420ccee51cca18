"""How long learning byte-level BPE merges takes, beside `tokenizers` by itself and rustbpe.

    python experiments/speed/bpe_training.py                        10 MB, 20,000 ids
    python experiments/speed/bpe_training.py --text FILE --vocab-size 4096

The default text is the plays and as much of Python's standard library as 10 MB hold: prose and
code. rustbpe takes part if it is installed (pip install rustbpe). The merges of the reference and
of the fast path must be equal; `tokenizers` by itself and rustbpe split text and break ties in
their own ways, so only their time is compared.
"""

import argparse
import importlib.util
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minigpt.data.shakespeare import Shakespeare
from minigpt.text import pieces
from minigpt.tokenizer.bpe import train
from minigpt.tokenizer.byte_level import PATTERN
from minigpt.tokenizer.fast_bpe import learn_merges

N_BYTES = 10_000_000


def default_text() -> str:
    parts = [document.text for document in Shakespeare([]).documents()]
    library = Path(sysconfig.get_paths()["stdlib"])
    parts += [
        path.read_text(encoding="utf-8", errors="replace") for path in sorted(library.glob("*.py"))
    ]
    return "".join([part for part in parts if isinstance(part, str)])[:N_BYTES]


def tokenizers_alone(texts: list[str], n_merges: int) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + n_merges, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def rustbpe_alone(texts: list[str], n_merges: int) -> Any:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), 256 + n_merges, pattern=PATTERN)
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path)
    parser.add_argument("--vocab-size", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    text = arguments.text.read_text() if arguments.text else default_text()
    texts, n_merges = list(pieces([text])), arguments.vocab_size - 257
    arms: dict[str, Callable[[list[str], int], Any]] = {
        "reference (Python)": train,
        "fast path (tokenizers)": learn_merges,
        "tokenizers alone": tokenizers_alone,
    }
    if importlib.util.find_spec("rustbpe"):
        arms["rustbpe"] = rustbpe_alone
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    results = {}
    for _ in range(arguments.rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            results[name] = arm(texts, n_merges)
            seconds[name].append(time.perf_counter() - start)
    assert results["reference (Python)"] == results["fast path (tokenizers)"], "the merges differ"
    print(
        f"{len(text.encode()) / 1e6:.1f} MB, {arguments.vocab_size:,} ids, "
        f"{arguments.rounds} rounds\n"
    )
    print("| learner | seconds (best to worst) |\n|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {min(values):.2f} to {max(values):.2f} |")


if __name__ == "__main__":
    main()
