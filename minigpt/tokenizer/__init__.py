"""Text to ids and back. `load(folder)` reads the tokenizer that a run or tokens came with."""

from minigpt.tokenizer.base import Spec, Tokenizer, load

__all__ = ["Spec", "Tokenizer", "load"]
