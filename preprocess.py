"""Raw text to tokenizer, token shards and manifest; the same bytes for any number of workers.

python preprocess.py data=shakespeare
python preprocess.py data=fineweb_edu data.max_tokens=100_000_000 data.workers=2
"""

import sys
from typing import TYPE_CHECKING

from minigpt.cli import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


def preprocess(cfg: "DictConfig") -> None:
    """Prepare the tokens that the configuration names, and say where they are."""
    from minigpt.config.corpus import prepare_tokens
    from minigpt.config.plan import data_of

    data, folder = data_of(cfg)
    tokens = prepare_tokens(data, folder, wait=False)
    for split in (tokens.train, tokens.val):
        known = (
            ""
            if split.n_bytes is None
            else f", {split.n_bytes / split.n_tokens:.3f} bytes per token"
        )
        print(f"{split.name:<12}{split.n_documents:,} documents, {split.n_tokens:,} tokens{known}")
    print(f"vocabulary  {tokens.vocab_size:,}")
    print(f"tokens in   {tokens.folder}")


def check(cfg: "DictConfig") -> None:
    """Every problem of the `data` node, before anything is written."""
    from minigpt.config.plan import data_of

    data_of(cfg)


def before(cfg: "DictConfig", sweeping: bool) -> bool:
    """A single one has no folder of its own for Hydra to make: do it at once."""
    if not sweeping:
        preprocess(cfg)
    return not sweeping


def main() -> int:
    """The command; returns its exit code."""
    return entry.main(preprocess, "preprocess", check, before)


if __name__ == "__main__":
    sys.exit(main())
