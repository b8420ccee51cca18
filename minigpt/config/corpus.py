"""From the `data` node of a configuration to opened tokens, prepared now if they are missing."""

from pathlib import Path
from typing import Any

from minigpt.config import identity, signature
from minigpt.config.build import build
from minigpt.data.prepare import prepare
from minigpt.data.tokens import Tokens
from minigpt.errors import ConfigError


def prepare_tokens(data: dict[str, Any], folder: Path, wait: bool = True) -> Tokens:
    """Open the tokens in `folder`, preparing what is missing.

    wait: where another process prepares them, wait for it instead of raising BusyError.
    Raises DataError if text, tokenizer or shards are missing, damaged or not what the configuration
    describes.
    """
    known = signature.read_signature(identity.PREPARE).parameters
    options = {key: value for key, value in data.items() if key in known and key != "tokenizer"}
    source = build(data, drop=("tokenizer", "out", *options))
    tokenizer = build(data["tokenizer"])
    try:
        tokens = prepare(source, tokenizer, folder, wait=wait, **options)
    except ValueError as error:
        raise ConfigError(f"invalid value: data: {error} (change data.*)") from None
    tokens.licence = getattr(source, "licence", tokens.licence)
    return tokens
