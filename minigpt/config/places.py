"""Where conf/, a run, its tokens and the weights that it starts from lie."""

import re
from pathlib import Path
from typing import Any

from minigpt.config import identity
from minigpt.errors import ConfigError
from minigpt.files.reading import UnreadableError, read_json
from minigpt.files.weights import weights_sha256

PACKAGE = Path(__file__).parents[1]
IN_WHEEL = (PACKAGE / "conf").is_dir()  # a checkout has conf/ beside minigpt/, a wheel inside
CONF = (PACKAGE if IN_WHEEL else PACKAGE.parent) / "conf"


def as_typed_here(text: str) -> str:
    """Text for people: `python train.py` of a checkout is `minigpt-train` of a wheel."""
    return re.sub(r"\bpython (\w+)\.py\b", r"minigpt-\1", text) if IN_WHEEL else text


def run_folder(output: Path, id: str, name: str) -> Path:
    """The folder of the run with this id, whatever it is called before that; else a new one.

    A folder with this id whose run.json is damaged is taken if there is no better one.
    """
    damaged = None
    for folder in sorted(output.glob(f"*-{id}")):
        try:
            if read_json(folder / "run.json").get("id") == id:
                return folder
        except UnreadableError as error:
            damaged = damaged or (None if error.missing else folder)
    return damaged or output / f"{name}-{id}"


def tokens_folder(config: dict[str, Any], choices: dict[str, str]) -> Path:
    """Where prepared tokens lie: data.out, or <data_dir>/<data>-<hash of what decides them>."""
    if config["data"].get("out"):
        return Path(config["data"]["out"]).expanduser()
    name = choices.get("data@stand_in", choices["data"])
    hashed = identity.short_hash(identity.data_identity(config["data"]))
    return Path(config["data_dir"]).expanduser() / f"{name}-{hashed}"


def weights_id(source: Path) -> str:
    """SHA-256 of the weights that `init_from` takes: a run's newest checkpoint, or an export.

    Raises ConfigError if there are none.
    """
    from minigpt.checkpoint.load import newest_weights_hash

    why = "(a run folder, or one of Hugging Face's such as minigpt.export writes)"
    try:
        if (source / "run.json").is_file():
            found = newest_weights_hash(source / "checkpoints")
            why = "has no checkpoint yet (let it reach checkpoint.every, or finish)"
        else:
            found = weights_sha256(source)
    except (OSError, RuntimeError, UnreadableError):  # RuntimeError: a circle of links
        found = None
    if found is None:
        raise ConfigError(f"no weights: init_from={source} {why}")
    return found
