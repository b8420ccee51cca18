"""Read a run, or an exported folder, back as a model: for generation, export and `init_from`."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from minigpt.checkpoint.layout import FOLDER, step_of
from minigpt.checkpoint.load import (
    Checkpoint,
    checkpoint_with_weights,
    load_checkpoint,
    newest_checkpoint,
)
from minigpt.checkpoint.parameters import USUAL, restore_parameters
from minigpt.config.places import weights_id
from minigpt.errors import CheckpointError, ConfigError, DataError
from minigpt.files.records import read_config, read_record, summary_of
from minigpt.files.weights import home
from minigpt.generate import hugging_face
from minigpt.generate.rebuild import rebuild
from minigpt.generate.sampling import Sampling, sample_text
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator
from minigpt.tokenizer import base, hf
from minigpt.tokenizer import load as load_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on the CPU, with its tokenizer.

    step: that of the checkpoint; None for an exported folder.
    """

    folder: Path
    model: Transformer = field(repr=False)
    tokenizer: Any = field(repr=False)
    step: int | None
    exported: dict[str, Any] | None = field(default=None, repr=False)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's config.yaml; of an exported folder `model` alone. Raises CheckpointError."""
        return read_config(self.folder) if self.exported is None else {"model": self.exported}

    def generate(self, prompt: str = "", seed: int = 0, **how: Any) -> str:
        """What generate.py prints for these values; several samples with --- between them.

        how: fields of `Sampling`. Raises ConfigError for one that is out of range.
        """
        usual = {"temperature": 0.8, "top_k": 50}
        draws = generator(seed, "sampling")
        sampling = Sampling(**(usual | how))
        return "\n---\n".join(sample_text(self.model, self.tokenizer, prompt, sampling, draws))


def find_run(path: str | None, output_dir: str) -> Path:
    """The run that was asked for, or the newest finished one. ConfigError if there is none."""
    if path is not None:
        folder = Path(path).expanduser()
        known = any(os.path.isfile(folder / name) for name in ("run.json", "config.json"))
        if not known and not FOLDER.fullmatch(folder.absolute().name):
            raise ConfigError(
                f"no run there: run={path} "
                "(a run such as outputs/<name>-<id>, a checkpoint of it, or an exported folder)"
            )
        return folder
    finished = [
        folder / "summary.json"
        for folder in Path(output_dir).expanduser().glob("*-????????")
        if (summary_of(folder) or {}).get("status") == "finished"
    ]
    if not finished:
        raise ConfigError(
            f"no finished run: {output_dir} (train one with: python train.py, or give run=<folder>)"
        )
    return max(finished, key=lambda summary: summary.stat().st_mtime_ns).parent


def load_any(folder: Path | str, trust: Collection[str] = ()) -> Loaded:
    """A run, one of its checkpoints, or a folder of Hugging Face's such as minigpt.export writes.

    trust: packages beside minigpt.model whose classes a run may name; their code is run.
    Raises CheckpointError.
    """
    folder = Path(folder)
    if os.path.isfile(folder / "run.json"):
        return load_run(folder, trust)
    if FOLDER.fullmatch(folder.absolute().name):
        return _loaded(folder.absolute().parents[1], load_checkpoint(folder), trust)
    arguments, weights = hugging_face.from_hugging_face(folder)
    vocab_size = arguments.pop("vocab_size")
    node = {"_target_": hugging_face.MODEL, **arguments}
    model = rebuild(node, vocab_size, weights, folder)
    tokenizer = _fitting(_beside(folder, vocab_size), vocab_size, folder)
    return Loaded(folder, model, tokenizer, None, node)


def load_run(folder: Path | str, trust: Collection[str] = ()) -> Loaded:
    """The newest valid checkpoint of a run. Raises CheckpointError if there is none."""
    folder = Path(folder)
    if read_record(folder) is None:
        raise CheckpointError(f"not a run: {folder}: no run.json (give the folder of a run)")
    found = newest_checkpoint(folder / "checkpoints")
    if found is None:
        raise CheckpointError(
            f"no checkpoint yet: {folder} (let the run reach checkpoint.every, or finish)"
        )
    return _loaded(folder, found, trust)


def _loaded(folder: Path, found: Checkpoint, trust: Collection[str]) -> Loaded:
    """A checkpoint of the run in `folder`."""
    vocab_size = found.state.get("vocab_size")
    model = rebuild(found.state.get("model"), vocab_size, found.model, found.folder, trust)
    place = folder / "tokenizer"
    tokenizer = _fitting(load_tokenizer(place), vocab_size, place)
    return Loaded(folder, model, tokenizer, step_of(found.folder))


def _beside(folder: Path, vocab_size: int, marker: str | None = None) -> Any:
    """The tokenizer of a folder of Hugging Face's, ours or foreign. DataError if there is none."""
    inside = home(folder)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if not os.path.lexists(folder / name):
            raise DataError(f"no tokenizer: {folder} has no {name} (put the model's own there)")
    config = base.read_json(folder / "tokenizer_config.json", inside)
    if "minigpt_kind" in config:
        return load_tokenizer(folder, inside)
    return hf.beside_model(folder, inside, vocab_size, marker)


def _fitting(tokenizer: Any, vocab_size: Any, folder: Path) -> Any:
    """The tokenizer, where it has the model's ids. Raises CheckpointError."""
    if tokenizer.vocab_size != vocab_size:
        raise CheckpointError(
            f"the tokenizer is not the model's: {folder}: {tokenizer.vocab_size:,} ids instead of "
            f"{vocab_size:,} (restore the tokenizer's files)"
        )
    return tokenizer


def init_weights_from(model: Transformer, source: Path, sha256: str) -> None:
    """Start from the weights of a run or of an exported folder; nothing else of it is used.

    A model of another shape may have `adapt(weights)`, its own weights by name made from those.

    sha256: of the weights file that the run was planned with.
    Raises CheckpointError if there are no such weights (any more), or they do not fit.
    """
    weights: dict[str, torch.Tensor] | None = None
    fitting: list[str] = []
    if os.path.isfile(source / "run.json"):
        found = checkpoint_with_weights(source / "checkpoints", sha256)
        weights = None if found is None else found.model
    elif os.path.isfile(source / "config.json"):
        arguments, loaded = hugging_face.from_hugging_face(source)
        fitting = hugging_face.differing(model, arguments)
        weights = loaded if weights_id(source) == sha256 else None
    if weights is None:
        raise CheckpointError(
            f"weights changed: init_from={source}: those planned with ({sha256[:12]}) are not "
            "there any more (repeat the command)"
        )
    if adapt := getattr(model, "adapt", None):
        weights = adapt(weights)
    usual = f"give {' '.join(fitting)}" if fitting else USUAL
    way_out = f"{usual}, or give the model's class an adapt(weights) that makes it so"
    restore_parameters(model, weights, source, way_out)
    if fitting:  # of equal shapes: another RoPE, say, which can be meant
        log.warning("init_from=%s was made with %s", source, " ".join(fitting))


def tokenizer_change(source: Path, tokenizer: Any) -> str | None:
    """Both fingerprints, if the tokenizer of `init_from` differs from this run's; else None."""
    folder = source / "tokenizer" if os.path.isfile(source / "run.json") else source
    try:
        marker = getattr(tokenizer, "marker", None)
        theirs = _beside(folder, tokenizer.vocab_size, marker).fingerprint
    except DataError:
        theirs = "unknown"
    ours = tokenizer.fingerprint
    return None if theirs == ours else f"tokenizer of init_from: {theirs[:12]} -> {ours[:12]}"
