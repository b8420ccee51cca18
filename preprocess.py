"""Raw text to tokenizer, token shards and manifest; the same bytes for any number of workers.

python preprocess.py data=shakespeare
python preprocess.py data=fineweb_edu data.max_tokens=100_000_000 data.workers=2
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.cli import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minigpt.cli.command import Inside


def planned(cfg: "DictConfig") -> tuple[dict[str, Any], Path]:
    """What to prepare, and where. Raises ConfigError with every problem found."""
    from minigpt.config.plan import data_of

    return data_of(cfg)


def preprocess(plan: tuple[dict[str, Any], Path], _inside: "Inside") -> None:
    """Prepare the tokens that the configuration names, and say where they are."""
    from minigpt.config.corpus import prepare_tokens

    data, folder = plan
    tokens = prepare_tokens(data, folder, wait=False)
    for split in (tokens.train, tokens.val):
        line = f"{split.name:<12}{split.n_documents:,} documents, {split.n_tokens:,} tokens"
        if split.n_bytes is not None:
            line += f", {split.n_bytes / split.n_tokens:.3f} bytes per token"
        print(line)
    print(f"vocabulary  {tokens.vocab_size:,}")
    print(f"tokens in   {tokens.folder}")


def main() -> int:
    """The command; returns its exit code."""
    return entry.main(preprocess, "preprocess", planned)


if __name__ == "__main__":
    sys.exit(main())
