"""A trained model as a Hugging Face folder, and back: Llama, or Qwen3 with `qk_norm`.

The folder is written by hand (safetensors and JSON), so transformers is not needed here. Loaded
there, the model gives the same logits bit for bit. Parts that these two lack are refused.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from minigpt.errors import CheckpointError, ConfigError, StorageError
from minigpt.files.durable import json_bytes, publish_folder, temporary_name, write_synced, writing
from minigpt.files.reading import UnreadableError, read_bytes, read_json
from minigpt.files.weights import home, weight_files, weight_shapes
from minigpt.generate.rebuild import OWN, REFUSED_VALUES, Parts, outline
from minigpt.interrupt import stop_if_requested
from minigpt.model.attention import Attention
from minigpt.model.swiglu import SwiGLU
from minigpt.model.transformer import Transformer

MODEL = "minigpt.model.transformer.Transformer"
QWEN3_HEAD_DIM = 128  # where its config.json does not say
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"
UNUSED = "rotary_emb.inv_freq"  # in old folders; RoPE has no weights
# Keys of config.json that our model has nothing for, unless they are false, null, 0 or empty.
MUST_BE_OFF = (
    *("attention_bias", "mlp_bias", "use_sliding_window", "layer_types", "quantization_config"),
    *("num_experts", "num_local_experts", "n_routed_experts"),
)
TOP = {
    "embed.weight": EMBED,
    "final_norm.gain": "model.norm.weight",
    "head.weight": HEAD,
}
BLOCK = {
    "attention_norm.gain": "input_layernorm.weight",
    "attention.q.weight": "self_attn.q_proj.weight",
    "attention.k.weight": "self_attn.k_proj.weight",
    "attention.v.weight": "self_attn.v_proj.weight",
    "attention.o.weight": "self_attn.o_proj.weight",
    "attention.q_norm.gain": "self_attn.q_norm.weight",
    "attention.k_norm.gain": "self_attn.k_norm.weight",
    "mlp_norm.gain": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}


def names(n_layers: int) -> dict[str, str]:
    """Our name of every parameter of n_layers -> its name in Llama and Qwen3."""
    return TOP | {
        f"blocks.{i}.{ours}": f"model.layers.{i}.{theirs}"
        for i in range(n_layers)
        for ours, theirs in BLOCK.items()
    }


def to_hugging_face(
    model: Transformer, tokenizer: Any, folder: Path, card: str | None = None
) -> None:
    """Write config, weights and the tokenizer's files into a new folder, which appears complete.

    tokenizer: needs `save(folder)` and `end_of_text`.
    card: README.md.
    Raises ConfigError for a model that does not map, StorageError if the folder exists and is not
    empty, or cannot be written.
    """
    config = hugging_face_config(model, tokenizer.end_of_text)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"cannot export: {folder} exists already (choose a new folder)")
    generation = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.end_of_text)
    theirs = names(len(model.blocks))
    weights = {
        theirs[name]: value.detach().cpu().contiguous() for name, value in model.named_parameters()
    }
    temporary = temporary_name(folder)
    with writing(folder, "the argument DIR"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            tokenizer.save(temporary)
            if card is not None:
                write_synced(temporary / "README.md", card.encode())
            write_synced(temporary / "config.json", json_bytes(config))
            write_synced(temporary / "generation_config.json", json_bytes(generation))
            write_synced(temporary / "model.safetensors", save(weights, metadata={"format": "pt"}))
            publish_folder(temporary, folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def hugging_face_config(model: Transformer, end_of_text: int | None) -> dict[str, Any]:
    """config.json. Raises ConfigError for parts that neither Llama nor Qwen3 has."""
    parts: list[tuple[str, object, type]] = [
        ("_target_", model, Transformer),
        ("embedding", model.embed, nn.Embedding),
    ]
    for block in model.blocks:
        parts += [("attention", block.attention, Attention), ("mlp", block.mlp, SwiGLU)]
    foreign = {
        f"{type(part).__name__} has no counterpart in Llama or Qwen3 "
        f"(model.{key}; they have what {known.__name__} computes)"
        for key, part, known in parts
        if type(part) is not known
    }
    if foreign:
        raise ConfigError(f"cannot export: {'; '.join(sorted(foreign))}")
    first: Any = model.blocks[0]
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    normalised = first.attention.q_norm is not None
    return {
        "architectures": ["Qwen3ForCausalLM" if normalised else "LlamaForCausalLM"],
        "model_type": "qwen3" if normalised else "llama",
        "vocab_size": model.embed.num_embeddings,
        "hidden_size": model.embed.embedding_dim,
        "intermediate_size": first.mlp.up.out_features,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_size,
        "max_position_embeddings": model.max_seq_len,
        "rms_norm_eps": first.mlp_norm.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rope_theta": model.rope_theta,  # read by transformers 4
        "tie_word_embeddings": model.head is None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
        "torch_dtype": dtype,  # read by transformers 4
    }


def from_hugging_face(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Transformer's keyword arguments, and its parameters by our names, of a Llama or Qwen3 folder.

    Whoever wrote it: the weights are one file, or shards with an index. Their shapes are held
    against the configuration before any is read. Raises CheckpointError for what does not fit, and
    for what our model lacks (biases, scaled RoPE, another activation, sliding windows, experts).
    """
    try:
        config = read_json(folder / "config.json", inside=home(folder))
        if lacking := _differences(config):
            raise CheckpointError(_cannot_import(folder, lacking))
        arguments = _arguments(config)
        files = weight_files(folder)
        shapes = weight_shapes(files)
        ours = {b: a for a, b in names(min(arguments["n_layers"], len(shapes))).items()}
        left_out = {name for name in shapes if name.endswith(UNUSED)}
        tied = arguments["tie_embeddings"] and HEAD in shapes  # written beside what it is tied to
        if unknown := sorted(shapes.keys() - ours.keys() - left_out):
            raise CheckpointError(_cannot_import(folder, [f"unknown weight {unknown[0]}"]))
        left_out |= {HEAD} if tied else set()
        kept = shapes.keys() - left_out
        meta = {ours[name]: torch.empty(shapes[name], device="meta") for name in kept}
        _check_sizes(folder, arguments, meta)
        weights: dict[str, Tensor] = {}
        for path in files:
            stop_if_requested(f"reading {folder}")
            weights |= load(read_bytes(path, inside=home(folder)))
    except UnreadableError as error:
        if error.missing:
            raise CheckpointError(
                f"neither a run nor an exported model: {folder} has no {error.path.name} "
                "(give outputs/<name>-<id>, or a folder of Hugging Face's)"
            ) from None
        raise CheckpointError(
            f"damaged export: {error.path}: {error.why} (export it again)"
        ) from None
    except (SafetensorError, KeyError, *REFUSED_VALUES) as error:
        why = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"damaged export: {folder} ({why}; export it again)") from None
    if tied and not torch.equal(weights[HEAD], weights[EMBED]):
        raise CheckpointError(_cannot_import(folder, [f"tie_word_embeddings=True beside a {HEAD}"]))
    return arguments, {ours[name]: weights[name] for name in kept}


def _check_sizes(folder: Path, arguments: dict[str, Any], meta: dict[str, Tensor]) -> None:
    """Raise CheckpointError, in one line, unless the weights are those of the configuration."""
    try:
        node = {"_target_": MODEL, **arguments}
        outline(Parts(folder, (OWN,)), node, arguments["vocab_size"], meta)
    except CheckpointError as error:
        first, *others = error.problems
        more = f"; so with {len(others)} more" if others else ""
        raise CheckpointError(f"{first}{more}") from None


def differing(model: Transformer, arguments: dict[str, Any]) -> list[str]:
    """Where a model is not the one of a folder, as overrides that make it so."""
    try:
        own = _arguments(hugging_face_config(model, None))
    except ConfigError:  # a model with parts of its own
        return []
    free = ("vocab_size", "max_seq_len")  # the tokenizer's, and without weights
    return [
        f"model.{key}={'null' if value is None else str(value).lower()}"
        for key, value in arguments.items()
        if key not in free and value != own[key]
    ]


def _cannot_import(folder: Path, lacking: list[str]) -> str:
    return f"cannot import: {folder}: {', '.join(lacking)} (our model has no counterpart)"


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    normalised = config["model_type"] == "qwen3"
    d_model, n_heads = config["hidden_size"], config["num_attention_heads"]
    head_size = config.get("head_dim", QWEN3_HEAD_DIM if normalised else None)
    return {
        "vocab_size": config["vocab_size"],
        "n_layers": config["num_hidden_layers"],
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": config.get("num_key_value_heads") or n_heads,
        "head_size": None if head_size == d_model // n_heads else head_size,
        "d_ff": config["intermediate_size"],
        "max_seq_len": config["max_position_embeddings"],
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "qk_norm": normalised,
        "rope_theta": float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        "norm_eps": config["rms_norm_eps"],
    }


def _differences(config: dict[str, Any]) -> list[str]:
    """What a config.json has that our model cannot do, as key=value."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    layers = sorted({*(config.get("layer_types") or [])} - {"full_attention"})
    kind = rope.get("rope_type", rope.get("type", "default"))
    turned = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    values = {**config, "layer_types": layers, "rope_type": kind, "partial_rotary_factor": turned}
    fits = {
        "model_type": config.get("model_type") in ("llama", "qwen3"),
        "hidden_act": config.get("hidden_act", "silu") == "silu",
        "rope_type": kind == "default",
        "partial_rotary_factor": turned == 1.0,
    }
    fits |= {key: not values.get(key) for key in MUST_BE_OFF}
    return [f"{key}={values.get(key)!s:.60}" for key, fit in fits.items() if not fit]
