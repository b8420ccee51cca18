"""Decoding with weights in oneDNN's layout against `next_logits`, and that against no cache."""

from collections.abc import Callable

import pytest
import torch

from minigpt.model.cpu.decode import Decoder, decoder
from minigpt.model.relu_squared import ReLUSquared
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

V, WINDOW = 100, 24
SHAPES = {
    "multi-query": {},
    "grouped, qk_norm": {"n_kv_heads": 2, "qk_norm": True},
    "multi-head, tied": {"n_kv_heads": 4, "tie_embeddings": True},
}


def make(dtype: torch.dtype, **arguments: object) -> Transformer:
    """A model whose logits reach about 4, with gains that are not 1."""
    model = Transformer(V, n_layers=2, d_model=64, n_heads=4, max_seq_len=WINDOW, **arguments)
    model.init_weights(generator(0, "init"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 8
            else:
                parameter.uniform_(0.5, 1.5, generator=generator(1, "init"))
    return model.to(dtype).eval()


def logits(
    model: Transformer, texts: torch.Tensor, decode: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """(T - 5, B, V): a prompt of 5 tokens in one pass, then token by token to the window's end."""
    cache = model.new_cache(len(texts))
    model.next_logits(texts[:, :5], cache)
    return torch.stack([decode(texts[:, i : i + 1], cache) for i in range(5, texts.shape[1])])


def test_without_onednn_the_model_decodes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(torch.bfloat16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)  # as in a build without it
    assert decoder(model, 1, WINDOW) == model.next_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_decoder(shape: dict, batch: int, dtype: torch.dtype) -> None:
    model = make(dtype, **shape)
    decode = decoder(model, batch, WINDOW)
    if dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert isinstance(decode, Decoder)
    texts = torch.randint(V, (batch, WINDOW), generator=generator(0, "data"))
    got, expected = logits(model, texts, decode), logits(model, texts, model.next_logits)
    assert expected.abs().max() > 2
    # bf16 came out equal bit for bit on a Zen 5; other kernels may round a sum differently.
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 if dtype == torch.float32 else 0.07)
    if dtype == torch.float32:
        whole = model(texts)[:, 5:].transpose(0, 1)  # no cache
        torch.testing.assert_close(got, whole, rtol=0, atol=2e-5)


def test_other_parts_keep_the_plain_path() -> None:
    model = make(torch.float32, mlp=ReLUSquared)
    assert decoder(model, 1, WINDOW) == model.next_logits
    assert decoder(make(torch.float16), 1, WINDOW).__name__ == "next_logits"
