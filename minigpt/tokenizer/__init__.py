"""Text to ids and back. `load(folder)` reads whatever tokenizer a folder of tokens or a run
holds.
"""

from minigpt.tokenizer.base import Tokenizer, load

__all__ = ["Tokenizer", "load"]
