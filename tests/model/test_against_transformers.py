"""The reference: transformers' Llama, and Qwen3 for QK-norm, with the same weights."""

import re
from collections.abc import Callable

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from minigpt.model.transformer import Transformer

RENAME = {
    r"^embed\.": "model.embed_tokens.",
    r"^final_norm\.": "model.norm.",
    r"^head\.": "lm_head.",
    r"^blocks\.": "model.layers.",
    r"attention_norm": "input_layernorm",
    r"mlp_norm": "post_attention_layernorm",
    r"\.attention\.": ".self_attn.",
    r"\.(q|k|v|o|gate|up|down)\.weight": r".\1_proj.weight",
    r"\.gain$": ".weight",
}


def theirs(name: str) -> str:
    for pattern, replacement in RENAME.items():
        name = re.sub(pattern, replacement, name)
    return name


def twin(model: Transformer) -> PreTrainedModel:
    """transformers' model with our weights."""
    block = model.blocks[0]
    tied, qk_norm = model.head is None, block.attention.q_norm is not None
    arguments = {
        "vocab_size": model.embed.num_embeddings,
        "hidden_size": model.embed.embedding_dim,
        "intermediate_size": block.mlp.gate.out_features,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_size,
        "max_position_embeddings": model.max_seq_len,
        "rms_norm_eps": block.mlp_norm.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "tie_word_embeddings": tied,
        "pad_token_id": None,
    }
    reference = (
        Qwen3ForCausalLM(Qwen3Config(**arguments))
        if qk_norm
        else LlamaForCausalLM(LlamaConfig(**arguments))
    )
    missing, unexpected = reference.load_state_dict(
        {theirs(name): value for name, value in model.state_dict().items()}, strict=False
    )
    assert not unexpected
    assert missing == (["lm_head.weight"] if tied else [])
    return reference


SHAPES = {
    "multi-head": {"n_kv_heads": 4},
    "grouped-query": {"n_kv_heads": 2},
    "multi-query": {"n_kv_heads": 1},
    "tied": {"n_kv_heads": 1, "tie_embeddings": True},
    "odd sizes": {
        "n_layers": 3,
        "d_model": 42,
        "n_heads": 3,
        "d_ff": 50,
        "rope_theta": 500.0,
        "norm_eps": 1e-3,
    },
    "one head": {"n_layers": 1, "d_model": 8, "n_heads": 1},
    "qk_norm": {"n_kv_heads": 2, "qk_norm": True},
    "heads of their own size": {"n_kv_heads": 2, "qk_norm": True, "head_size": 12},
    "qk_norm, tied": {"qk_norm": True, "tie_embeddings": True},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_and_gradients_equal_the_reference(
    make_model: Callable[..., Transformer], tokens: torch.Tensor, shape: dict
) -> None:
    model = make_model(**shape)
    reference = twin(model)

    logits, expected = model(tokens), reference(tokens).logits
    assert logits.std() > 0.3  # far from trivial
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)

    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    loss = model(inputs, targets)
    loss.backward()
    expected_loss = reference(tokens, labels=tokens).loss * targets.numel()
    expected_loss.backward()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    for name, parameter in model.named_parameters():
        expected_gradient = reference.get_parameter(theirs(name)).grad
        torch.testing.assert_close(
            parameter.grad, expected_gradient, rtol=1e-4, atol=1e-4, msg=name
        )


def test_the_cache_equals_that_of_the_reference(
    make_model: Callable[..., Transformer], tokens: torch.Tensor
) -> None:
    model = make_model()
    reference = twin(model)
    prompt = tokens[:1, :5]
    text = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False
    )

    cache, produced, given = model.new_cache(), prompt, prompt
    for _ in range(12):
        given = model(given, cache=cache)[:, -1:].argmax(-1)
        produced = torch.cat((produced, given), dim=1)
    assert produced.tolist() == text.tolist()
