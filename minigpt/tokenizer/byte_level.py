"""What all byte-level tokenizers share: the pattern that splits text into words, and the spelling
in tokenizer.json.
"""

from typing import Any

from minigpt.tokenizer.base import END_OF_TEXT, added_token

Merge = tuple[bytes, bytes]  # two tokens that become one

# GPT-4's pattern with two changes: numbers in groups of two digits instead of three, since small
# vocabularies cannot afford a thousand number tokens (nanochat does the same), and the contractions
# spelled out, since engines disagree on what (?i:s) matches ("ſ" for some). Possessive quantifiers
# (++) keep long runs linear. Every character belongs to exactly one word, so the words of a text
# joined give the text back.
PATTERN = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
    r"|[^\r\n\p{L}\p{N}]?+\p{L}++"
    r"|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


def byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, which tokenizer.json uses to spell tokens
    (ByteLevel).
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


BYTE_TO_CHARACTER = byte_characters()
CHARACTER_TO_BYTE = {ord(character): byte for byte, character in BYTE_TO_CHARACTER.items()}


def spell(token: bytes) -> str:
    return token.decode("latin-1").translate(BYTE_TO_CHARACTER)


def unspell(characters: str) -> bytes:
    """The inverse of `spell`; ValueError beyond U+00FF (below, strange characters show when they
    are spelled again).
    """
    return characters.translate(CHARACTER_TO_BYTE).encode("latin-1")


def byte_level_json(tokens: list[bytes], merges: list[Merge], end_of_text: int) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE with our pattern: the same ids in Hugging Face's
    library.
    """
    split = {
        "type": "Split",
        "pattern": {"Regex": PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(END_OF_TEXT, end_of_text)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell(token): rank for rank, token in enumerate(tokens)},
            "merges": [[spell(left), spell(right)] for left, right in merges],
        },
    }


def unspell_merges(tokenizer_json: dict[str, Any]) -> list[Merge]:
    """The merges of a tokenizer.json that `byte_level_json` wrote. ValueError if its ids are not in
    their order.
    """
    model = tokenizer_json["model"]
    merges = [(unspell(left), unspell(right)) for left, right in model["merges"]]
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    if model["vocab"] != {spell(token): rank for rank, token in enumerate(tokens)}:
        raise ValueError("vocabulary and merges disagree")
    return merges
