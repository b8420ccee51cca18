"""The weights in a folder of Hugging Face's: model.safetensors, or shards that an index names."""

import os
from pathlib import Path

from minigpt.files.durable import sha256_bytes
from minigpt.files.reading import UnreadableError, read_bytes, read_header, read_json
from minigpt.files.shape import fault, file_name, natural

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEADER = {"__metadata__?": dict, str: {"dtype": str, "shape": [natural]}}


def home(folder: Path) -> Path:
    """Where links in a folder may lead: into itself, or into its model's part of a cache.

    In Hugging Face's cache, the files of a snapshot are links to blobs beside it.
    """
    parent = folder.absolute().parent
    return parent.parent if parent.name == "snapshots" else folder


def weight_files(folder: Path) -> list[Path]:
    """The one file, or all shards in the order of their names. Raises UnreadableError."""
    if os.path.lexists(folder / WHOLE) or not os.path.lexists(folder / INDEX):
        return [folder / WHOLE]
    index = read_json(folder / INDEX, inside=home(folder))
    if found := fault(index, {"weight_map": {str: file_name}}):
        raise UnreadableError(folder / INDEX, found)
    return [folder / name for name in sorted({*index["weight_map"].values()})]


def weight_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, from the files' headers alone. Raises UnreadableError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        header = read_header(path, home(path.parent))
        if found := fault(header, HEADER):
            raise UnreadableError(path, found)
        header.pop("__metadata__", None)
        if twice := sorted(header.keys() & shapes.keys()):
            raise UnreadableError(path, f"{twice[0]} is in another shard too")
        shapes |= {name: tuple(tensor["shape"]) for name, tensor in header.items()}
    return shapes


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the one file, or of the digests of all shards. Raises UnreadableError, OSError."""
    digests = [sha256_bytes(read_bytes(path.resolve())) for path in weight_files(folder)]
    return digests[0] if len(digests) == 1 else sha256_bytes("".join(digests).encode())
