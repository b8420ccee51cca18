"""Text to ids and back. `load(folder)` reads the tokenizer that a run or tokens came with."""

from minigpt.tokenizer.base import Tokenizer, load

__all__ = ["Tokenizer", "load"]
