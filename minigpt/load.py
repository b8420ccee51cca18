"""Read a run, or an exported folder, back as a model: for generation, export and `init_from`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minigpt import checkpoint, config, export
from minigpt.config import weights_id
from minigpt.errors import CheckpointError, ConfigError, DataError
from minigpt.model.transformer import Transformer
from minigpt.run.record import read_record, read_summary
from minigpt.tokenizer import load as load_tokenizer

MODEL_PARTS = "minigpt.model."  # a configuration found in a folder may name classes of this package only


@dataclass(frozen=True)
class Loaded:
    """A model ready for use. step: that of a run's newest checkpoint; None for an exported folder."""

    folder: Path
    model: Transformer
    tokenizer: Any
    step: int | None


def find_run(path: str | None, output_dir: str) -> Path:
    """The run folder that was asked for, or the newest finished one. Raises ConfigError if there is none."""
    if path is not None:
        folder = Path(path).expanduser()
        if not any((folder / name).is_file() for name in ("run.json", "config.json")):
            raise ConfigError(f"no run there: run={path} (a run such as outputs/<name>-<id>, or an exported folder)")
        return folder
    finished = [
        folder for folder in Path(output_dir).expanduser().glob("*-????????") if read_summary(folder) is not None
    ]
    finished = [folder for folder in finished if (read_summary(folder) or {}).get("status") == "finished"]
    if not finished:
        raise ConfigError(f"no finished run: {output_dir} (train one with: python train.py, or give run=<folder>)")
    return max(finished, key=lambda folder: (folder / "summary.json").stat().st_mtime_ns)


def load_any(folder: Path) -> Loaded:
    """A run, or a folder written by minigpt.export."""
    return load_run(folder) if (folder / "run.json").is_file() else load_exported(folder)


def load_exported(folder: Path) -> Loaded:
    """The model of a Hugging Face folder, in evaluation mode on the CPU, with its tokenizer. Raises CheckpointError."""
    arguments, weights = export.from_hugging_face(folder)
    with torch.device("meta"):
        model = Transformer(**arguments)
    model.load_state_dict(weights, assign=True)
    return Loaded(folder, model.eval(), load_tokenizer(folder), None)


def load_run(folder: Path) -> Loaded:
    """The model of a run's newest valid checkpoint, in evaluation mode on the CPU, with its tokenizer.

    Raises CheckpointError if there is none, or if it names a class that is not a model of minigpt.
    """
    if read_record(folder) is None:
        raise CheckpointError(f"not a run: {folder}: no run.json (give the folder of a run)")
    found = checkpoint.newest(folder / "checkpoints")
    if found is None:
        raise CheckpointError(f"no checkpoint yet: {folder} (let the run reach checkpoint.every, or finish)")
    node = found.state["model"]
    refuse_foreign_classes(node, found.folder)
    with torch.device("meta"):  # nothing is allocated by what a file says, only what is in it
        model = config.build(node, found.state["vocab_size"])
    checkpoint.restore_parameters(model, found.model, found.folder)
    model.load_state_dict(found.model, assign=True)
    return Loaded(folder, model.eval(), load_tokenizer(folder / "tokenizer"), found.state["step"])


def refuse_foreign_classes(node: Any, where: Path) -> None:
    """Raise CheckpointError if a configuration from a file names anything but a part of minigpt's model."""
    if isinstance(node, dict):
        target = node.get("_target_", MODEL_PARTS)
        if not (isinstance(target, str) and target.startswith(MODEL_PARTS)):
            raise CheckpointError(f"foreign class: {where}: {target} (only {MODEL_PARTS}* is built from a checkpoint)")
        for value in node.values():
            refuse_foreign_classes(value, where)
    elif isinstance(node, list):
        for value in node:
            refuse_foreign_classes(value, where)


def init_weights_from(model: Transformer, source: Path, sha256: str) -> None:
    """Start from the weights of a run or of an exported folder; nothing else of it is used.

    sha256: of the weights file that the run was planned with.
    Raises CheckpointError if there are no such weights (any more), or they do not fit.
    """
    weights: dict[str, torch.Tensor] | None = None
    if (source / "run.json").is_file():
        found = checkpoint.with_weights(source / "checkpoints", sha256)
        weights = None if found is None else found.model
    elif (source / "config.json").is_file():
        _, weights = export.from_hugging_face(source)
        if weights_id(source) != sha256:
            weights = None
    if weights is None:
        raise CheckpointError(
            f"weights changed: init_from={source}: those planned with ({sha256[:12]}) are not there any more "
            "(repeat the command)"
        )
    checkpoint.restore_parameters(model, weights, source)


def tokenizer_change(source: Path, tokenizer: Any) -> str | None:
    """How the tokenizer of `init_from` differs from this run's, as both fingerprints; None if it does not."""
    folder = source / "tokenizer" if (source / "run.json").is_file() else source
    try:
        theirs = load_tokenizer(folder).fingerprint
    except DataError:
        theirs = "unknown"
    ours = tokenizer.fingerprint
    return None if theirs == ours else f"tokenizer of init_from: {theirs[:12]} -> {ours[:12]}"
