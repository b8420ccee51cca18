"""What all byte-level tokenizers share: the pattern that splits text into words, the ids, and the
spelling in tokenizer.json.
"""

from collections.abc import Sequence
from typing import Any, Self

from minigpt.tokenizer.base import END_OF_TEXT, Tokenizer, frame, split

Merge = tuple[bytes, bytes]  # two tokens that become one

# GPT-4's pattern with two changes. Numbers fall into groups of two digits instead of three, since
# small vocabularies cannot afford a thousand number tokens (nanochat does the same). Contractions
# are spelled out, since engines disagree on what (?i:s) matches ("ſ" for some). Possessive
# quantifiers (++) keep long runs linear. Every character belongs to exactly one word, so the words
# of a text joined give the text back.
PATTERN = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
    r"|[^\r\n\p{L}\p{N}]?+\p{L}++"
    r"|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)

# GPT-2's printable stand-in for each byte, which tokenizer.json uses to spell tokens (ByteLevel):
# the byte's own character in Latin-1 where that is printable, else the next one from U+0100 on.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_TO_CHARACTER = {byte: chr(byte) for byte in PRINTABLE} | {
    byte: chr(256 + number) for number, byte in enumerate(OTHERS)
}
CHARACTER_TO_BYTE = {ord(character): byte for byte, character in BYTE_TO_CHARACTER.items()}


def spell(token: bytes) -> str:
    return token.decode("latin-1").translate(BYTE_TO_CHARACTER)


def unspell(characters: str) -> bytes:
    """The inverse of `spell`. ValueError beyond U+0143; other strange characters stay Latin-1."""
    return characters.translate(CHARACTER_TO_BYTE).encode("latin-1")


class ByteLevel(Tokenizer):
    """Ids 0 to 255 are the bytes, then one per merge in the order learned, end_of_text last."""

    end_of_text: int

    def __init__(self, merges: Sequence[Merge] = ()) -> None:
        self.merges = merges
        self.tokens = [
            *(bytes([byte]) for byte in range(256)),
            *(left + right for left, right in merges),
            b"",
        ]
        self.end_of_text = len(self.tokens) - 1
        self.vocab_size = len(self.tokens)
        self.ranks = {token: rank for rank, token in enumerate(self.tokens[:-1])}
        if len(self.ranks) != self.end_of_text:
            raise ValueError("two merges give the same token")

    def tokenizer_json(self) -> dict[str, Any]:
        """A byte-level BPE with our pattern: the same ids in Hugging Face's library."""
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell(token): rank for token, rank in self.ranks.items()},
            "merges": [[spell(left), spell(right)] for left, right in self.merges],
        }
        words = {"type": "Sequence", "pretokenizers": [split(PATTERN), byte_level]}
        return frame({END_OF_TEXT: self.end_of_text}, words, byte_level, model)

    @classmethod
    def read(cls, config: dict[str, Any], definition: dict[str, Any]) -> Self:
        """The inverse of `tokenizer_json`. ValueError if ids are not in the order of merges."""
        model = definition["model"]
        tokenizer = cls([(unspell(left), unspell(right)) for left, right in model["merges"]])
        if model["vocab"] != tokenizer.tokenizer_json()["model"]["vocab"]:
            raise ValueError("vocabulary and merges disagree")
        return tokenizer
