"""The CPU kernels of RoPE, RMSNorm and SwiGLU against the plain parts."""

import pytest
import torch
import torch.nn.functional as F

from minigpt.model.rmsnorm import RMSNorm
from minigpt.model.rope import rope_table, rotate, rotate_reference
from minigpt.model.swiglu import SwiGLU
from minigpt.seeding import generator


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("heads", [1, 3])
def test_rotation(heads: int, dtype: torch.dtype) -> None:
    """Bit for bit; the gradient as the reference has it in fp32, rounded once."""
    draw = generator(0, "data")
    table = rope_table(5, 7, 8, 100.0, torch.device("cpu"))
    x = torch.randn(2, 7, heads, 8, generator=draw).to(dtype).requires_grad_()
    gradient = torch.randn(x.shape, generator=draw).to(dtype)
    wide = x.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    y, expected = rotate(x, table), rotate_reference(wide, table)
    assert torch.equal(y, rotate_reference(x, table))
    (got,) = torch.autograd.grad(y, x, gradient)
    (wanted,) = torch.autograd.grad(expected, wide, gradient.to(wide.dtype))
    assert torch.equal(got, wanted.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    draw = generator(0, "data")
    norm = RMSNorm(16, eps=1e-3)
    with torch.no_grad():
        norm.gain.normal_(generator=draw)
    x = torch.randn(3, 5, 16, generator=draw).to(dtype).requires_grad_()
    gradient = torch.randn(3, 5, 16, generator=draw)
    fast = norm(x)
    assert fast.dtype == dtype
    fast.backward(gradient.to(dtype))
    got = [fast.detach(), x.grad, norm.gain.grad]

    exact_x = x.detach().double().requires_grad_()
    exact_gain = norm.gain.detach().double().requires_grad_()
    exact = F.rms_norm(exact_x, (16,), exact_gain, 1e-3)
    exact.backward(gradient.to(dtype).double())
    for one, expected in zip(got, [exact.detach(), exact_x.grad, exact_gain.grad], strict=True):
        tolerance = 1e-6 if dtype == torch.float32 else 0.01
        torch.testing.assert_close(one.double(), expected, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(
            norm(x), fast, rtol=1e-6 if dtype == torch.float32 else 0.01, atol=1e-6
        )


@pytest.mark.parametrize("grad", [True, False])
def test_rms_norm_casts_once_under_autocast(grad: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
        assert RMSNorm(8)(torch.ones(2, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("autocast", [False, True])
def test_swiglu_is_the_plain_one_bit_for_bit(autocast: bool) -> None:
    draw = generator(0, "data")
    module = SwiGLU(32, 96)
    x, gradient = (torch.randn(2, 9, 32, generator=draw) for _ in range(2))
    results = []
    for forward in (module, lambda x: module.down(F.silu(module.gate(x)) * module.up(x))):
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = forward(inputs)
        y.backward(gradient.to(y.dtype))
        results.append([y.detach(), inputs.grad, *(p.grad for p in module.parameters())])
        module.zero_grad()
    assert results[0][0].dtype == (torch.bfloat16 if autocast else torch.float32)
    assert all(map(torch.equal, *results))


def test_gradients_of_swiglu_in_double_precision() -> None:
    module = SwiGLU(4, 6).double()
    x = torch.randn(
        2, 3, 4, generator=generator(0, "data"), dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *module.parameters()))
