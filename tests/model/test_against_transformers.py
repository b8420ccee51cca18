"""The reference: transformers' Llama, and Qwen3 for QK-norm, with the same weights."""

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

from minigpt.generate.hugging_face import hugging_face_config, names
from minigpt.model.transformer import Transformer


def twin(model: Transformer) -> PreTrainedModel:
    """transformers' model with our weights."""
    config = hugging_face_config(model, None)
    reference = (
        Qwen3ForCausalLM(Qwen3Config(**config))
        if config["model_type"] == "qwen3"
        else LlamaForCausalLM(LlamaConfig(**config))
    )
    theirs = names(len(model.blocks))
    missing, unexpected = reference.load_state_dict(
        {theirs[name]: value for name, value in model.state_dict().items()}, strict=False
    )
    assert not unexpected
    assert missing == (["lm_head.weight"] if model.head is None else [])
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
    theirs = names(len(model.blocks))
    for name, parameter in model.named_parameters():
        expected_gradient = reference.get_parameter(theirs[name]).grad
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
