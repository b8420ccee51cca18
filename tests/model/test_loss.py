"""The fast loss against its plain reference."""

import math

import pytest
import torch

import minigpt.model.loss as loss_module
from minigpt.model.loss import cross_entropy, cross_entropy_reference
from minigpt.seeding import generator

N, D, V = 37, 8, 50


def both(
    dtype: torch.dtype = torch.float32, scale: float = 1.0, ignored: int = 0
) -> list[tuple[torch.Tensor, ...]]:
    """(loss, gradient of x, gradient of weight) of the reference and of the fast path."""
    draw = generator(3, "data")
    x, weight = torch.randn(N, D, generator=draw) * scale, torch.randn(V, D, generator=draw)
    targets = torch.randint(V, (N,), generator=draw)
    targets[:ignored] = -100
    results = []
    for function in (cross_entropy_reference, cross_entropy):
        x, weight = (tensor.detach().to(dtype).requires_grad_() for tensor in (x, weight))
        loss = function(x, weight, targets)
        (loss / 7).backward()
        results.append((loss.detach(), x.grad, weight.grad))
    return results


@pytest.fixture(params=[(1, 1), (16, 5), (16, 16), (N, 10), (N, N)], ids=str)
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "_rows_of_chunks", lambda *sizes: request.param)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("ignored", [0, 20, N])
def test_fast_equals_reference(ignored: int) -> None:
    expected, got = both(ignored=ignored)
    for a, b in zip(expected, got):
        assert a.dtype == b.dtype
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("_chunks")
def test_a_padded_vocabulary_has_the_loss_and_gradients_of_its_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU; logits of padding would be 0, far from impossible."""
    monkeypatch.setattr(loss_module, "_rows_of_head", lambda vocab_size, device: 64)
    for a, b in zip(*both(ignored=5)):
        assert a.shape == b.shape
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
    x, weight, targets = torch.randn(N, D), torch.randn(V, D), torch.randint(V, (N,))
    expected = cross_entropy_reference(x, weight, targets)
    torch.testing.assert_close(cross_entropy(x, weight, targets), expected)


def test_a_gpu_takes_few_large_chunks_of_whole_tiles() -> None:
    for vocab_size, chunks in ((50_257, 7), (257, 1)):
        rows = loss_module._rows_of_head(vocab_size, "cuda")
        assert rows % 64 == 0
        assert vocab_size <= rows < vocab_size + 64
        large, small = loss_module._rows_of_chunks(32_768, rows, "cuda")
        assert large == small
        assert large % 128 == 0
        assert -(-32_768 // large) == chunks
    assert loss_module._rows_of_chunks(100, 50_304, "cuda") == (100, 100)


def test_chunks_are_not_empty() -> None:
    for rows, vocab_size in ((1, 10), (5, 10**9), (10_000, 20_000), (100, 2)):
        large, small = loss_module._rows_of_chunks(rows, vocab_size, "cpu")
        assert 1 <= small <= large <= rows


def test_a_hopeless_target_has_a_finite_loss() -> None:
    """p(target) = exp(-200) is zero in fp32; the loss is 200."""
    x, weight = torch.tensor([[200.0]]), torch.tensor([[1.0], [0.0]])
    assert cross_entropy(x, weight, torch.tensor([1])).item() == pytest.approx(200.0)
    expected, got = both(scale=200.0)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_overflow_shows(value: float) -> None:
    """A broken hidden state never yields a finite loss and gradient: the loop relies on it."""
    x = torch.ones(2, 1)
    x[1] = value
    x.requires_grad_()
    loss = cross_entropy(x, torch.ones(3, 1), torch.tensor([0, 1]))
    loss.backward()
    assert not loss.isfinite()
    assert x.grad is not None
    assert not x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights(dtype: torch.dtype) -> None:
    expected, got = both(dtype)
    for a, b in zip(expected, got):
        assert a.dtype == b.dtype
        torch.testing.assert_close(b.float(), a.float(), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_the_products_alone(dtype: torch.dtype) -> None:
    exact, _ = both()
    with torch.autocast("cpu", dtype):
        reference, fast = both()
    for correct, a, b in zip(exact, reference, fast):
        assert b.dtype == torch.float32
        error = (b - correct).norm() / correct.norm()
        assert error < 0.01
        assert error < 1.5 * (a - correct).norm() / correct.norm() + 1e-6


def test_without_gradients_nothing_is_kept() -> None:
    x, weight = torch.ones(4, 3), torch.ones(5, 3, requires_grad=True)
    with torch.no_grad():
        loss = cross_entropy(x, weight, torch.zeros(4, dtype=torch.int64))
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(4 * math.log(5))


def test_a_second_backward_is_refused() -> None:
    weight = torch.ones(5, 3, requires_grad=True)
    loss = cross_entropy(torch.ones(4, 3), weight, torch.zeros(4, dtype=torch.int64))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()
