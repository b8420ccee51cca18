"""Blocked attention against torch's: values, gradients, masks, dropout."""

from collections.abc import Callable

import pytest
import torch

from minigpt.model.attention import attention_reference
from minigpt.model.cpu import attention as kernel
from minigpt.model.cpu.attention import blocked_attention
from minigpt.model.mask import attention_mask
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

Attention = Callable[..., torch.Tensor]


def attend(
    function: Attention, shape: tuple[int, ...], dtype: torch.dtype, *arguments: object
) -> list[torch.Tensor]:
    """The result and the gradients of q, k and v; shape is (B, T, H, G, K)."""
    b, t, h, g, size = shape
    draw = generator(0, "data")
    q, k, v = (
        torch.randn(b, t, n, size, generator=draw).to(dtype).requires_grad_() for n in (h, g, g)
    )
    out = function(q, k, v, *arguments)
    out.backward(torch.randn(out.shape, generator=draw).to(dtype))
    return [out.detach(), q.grad, k.grad, v.grad]


SHAPES = {
    "multi-query": (2, 70, 4, 1, 8),
    "grouped": (3, 33, 6, 2, 4),
    "multi-head": (2, 130, 3, 3, 8),
    "one token": (2, 1, 4, 1, 8),
    "exactly two blocks": (1, 128, 2, 1, 4),
}


@pytest.mark.parametrize("scores", [1, 2**20], ids=["item by item", "together"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_blocked_attention(
    shape: tuple[int, ...], scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "SCORES", scores)
    for got, expected in zip(
        attend(blocked_attention, shape, torch.float32),
        attend(attention_reference, shape, torch.float32),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6)


def test_blocked_attention_with_a_mask() -> None:
    shape = SHAPES["grouped"]
    documents = torch.tensor([0] * 10 + [1] * 23).expand(3, -1).clone()
    documents[2, 5:] = 7
    mask = attention_mask(0, 33, documents, torch.device("cpu"))
    got = attend(blocked_attention, shape, torch.float32, mask)
    for one, expected in zip(
        got, attend(attention_reference, shape, torch.float32, mask), strict=True
    ):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=2e-6)
    assert not torch.allclose(got[0], attend(blocked_attention, shape, torch.float32)[0])


def test_blocked_attention_in_bf16_is_as_exact_as_torchs() -> None:
    """Against float64: within 2 %, and not much worse than torch's own bf16 kernel."""
    shape = (2, 150, 4, 1, 32)
    exact = attend(attention_reference, shape, torch.float64)
    error = lambda results: [((a - b).norm() / b.norm()).item() for a, b in zip(results, exact)]
    ours = error(attend(blocked_attention, shape, torch.bfloat16))
    torchs = error(attend(attention_reference, shape, torch.bfloat16))
    assert max(ours) < 0.02
    assert all(a < 2.5 * b for a, b in zip(ours, torchs)), (ours, torchs)


@pytest.mark.parametrize("dropped", [(), (None, 0.4, torch.tensor([3, 4]))], ids=["", "dropout"])
def test_gradients_of_blocked_attention_in_double_precision(dropped: tuple) -> None:
    """With dropout those of a function with a fixed mask, that of the seeds."""
    draw = generator(0, "data")
    q, k, v = (
        torch.randn(2, 5, n, 4, generator=draw, dtype=torch.float64, requires_grad=True)
        for n in (4, 2, 2)
    )
    attention = lambda *inputs: blocked_attention(*inputs, *dropped)
    assert torch.autograd.gradcheck(attention, (q, k, v), check_undefined_grad=False)


def test_dropout_of_blocked_attention_depends_on_the_seed_alone() -> None:
    one, two, three = (
        attend(blocked_attention, (1, 6, 2, 1, 4), torch.float32, None, 0.4, torch.tensor([seed]))
        for seed in (1, 2, 1)
    )
    assert torch.equal(one[0], three[0])
    assert not torch.equal(one[0], two[0])


def test_dropout_of_blocked_attention_is_right_on_average() -> None:
    draw = generator(0, "data")
    q, k, v = (
        torch.randn(1, 5, n, 4, generator=draw).expand(400, -1, -1, -1).contiguous()
        for n in (2, 1, 1)
    )
    seeds = torch.arange(400)
    dropped, plain = blocked_attention(q, k, v, None, 0.3, seeds), blocked_attention(q, k, v)
    assert not torch.equal(dropped[0], dropped[1])
    four_sigma = 0.15
    torch.testing.assert_close(dropped.mean(0), plain.mean(0), rtol=0, atol=four_sigma)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_probabilities_kept_or_computed_again_are_the_same(
    dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for kept_up_to in (0, 2**22):
        monkeypatch.setattr(kernel, "KEPT", kept_up_to)
        seeds = torch.tensor([1, 2]) if dropout else None
        results.append(
            attend(blocked_attention, (2, 130, 4, 1, 8), torch.bfloat16, None, dropout, seeds)
        )
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_softmax_in_fp32_as_autocast_on_cuda_has_it(
    dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands for CUDA here: there autocast would also bring the products' inputs together."""
    softmax, results = torch.softmax, []
    for widened in (False, True):
        if widened:
            monkeypatch.setattr(torch, "softmax", lambda x, dim: softmax(x.float(), dim))
        seeds = torch.tensor([1, 2]) if dropout else None
        shape = (2, 130, 4, 1, 8)
        results.append(attend(blocked_attention, shape, torch.bfloat16, None, dropout, seeds))
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    "shape", [{}, {"n_kv_heads": 2, "qk_norm": True}], ids=["mqa", "gqa, qk_norm"]
)
def test_a_training_step_in_bf16_takes_the_fast_path(
    make_model: Callable[..., Transformer],
    tokens: torch.Tensor,
    shape: dict,
    documents: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss and gradients are close to those of fp32, which takes torch's path."""
    model = make_model(**shape)
    numbers = torch.tensor([[0] * 6 + [1] * 11]).expand(3, -1) if documents else None
    exact = model(tokens, tokens.roll(-1, 1), numbers)
    exact.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    calls = []
    function = kernel.BlockedAttention.apply
    monkeypatch.setattr(
        kernel.BlockedAttention, "apply", lambda *inputs: calls.append(1) or function(*inputs)
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, tokens.roll(-1, 1), numbers)
    loss.backward()
    assert len(calls) == 2
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    for name, parameter in model.named_parameters():
        error = ((parameter.grad - expected[name]).norm() / expected[name].norm()).item()
        assert error < 0.1, (name, error)
