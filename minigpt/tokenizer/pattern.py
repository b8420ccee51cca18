"""How text falls into words before byte pairs are merged inside them, and how bytes look in a tokenizer.json."""

# GPT-4's pattern with two changes: numbers in groups of two digits instead of three, since small vocabularies cannot
# afford a thousand number tokens (nanochat does the same), and the contractions spelled out, since engines disagree on
# what (?i:s) matches ("ſ" for some). Possessive quantifiers (++) keep long runs linear. Every character belongs to
# exactly one word, so the words of a text joined give the text back.
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
    """GPT-2's printable stand-in for each byte, which tokenizer.json uses to spell tokens (ByteLevel)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_TO_CHARACTER = byte_characters()
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


def spell(token: bytes) -> str:
    return "".join([BYTE_TO_CHARACTER[byte] for byte in token])


def unspell(characters: str) -> bytes:
    return bytes([CHARACTER_TO_BYTE[character] for character in characters])
