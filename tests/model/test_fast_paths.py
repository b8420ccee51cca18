"""Each fast path for CPUs against the plain operation that it stands for. The loss has a file of
its own.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from minigpt.model import blocked_attention as blocked
from minigpt.model.attention import attention_reference
from minigpt.model.blocked_attention import blocked_attention
from minigpt.model.dropout import Dropout, kept, rounded, sequences, split
from minigpt.model.ensemble import Ensemble
from minigpt.model.ngram_embedding import NgramEmbedding
from minigpt.model.rmsnorm import RMSNorm
from minigpt.model.rope import rope_table, rotate, rotate_reference
from minigpt.model.swiglu import SwiGLU
from minigpt.model.transformer import Transformer
from minigpt.seeding import derive_seed, generator

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


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    return attention_reference(q, k, v, mask)


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
    monkeypatch.setattr(blocked, "SCORES", scores)
    for got, expected in zip(
        attend(blocked_attention, shape, torch.float32),
        attend(reference, shape, torch.float32),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6)


def test_blocked_attention_with_a_mask() -> None:
    shape = SHAPES["grouped"]
    documents = torch.tensor([0] * 10 + [1] * 23).expand(3, -1).clone()
    documents[2, 5:] = 7
    mask = (documents[:, None, :, None] == documents[:, None, None, :]) & torch.ones(
        33, 33, dtype=torch.bool
    ).tril()
    got = attend(blocked_attention, shape, torch.float32, mask)
    for one, expected in zip(got, attend(reference, shape, torch.float32, mask), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=2e-6)
    assert not torch.allclose(got[0], attend(blocked_attention, shape, torch.float32)[0])


def test_blocked_attention_in_bf16_is_as_exact_as_torchs() -> None:
    """Against float64: within 1 % and, for the gradients, not much worse than torch's own bf16
    kernel.
    """
    shape = (2, 150, 4, 1, 32)
    exact = attend(reference, shape, torch.float64)
    error = lambda results: [((a - b).norm() / b.norm()).item() for a, b in zip(results, exact)]
    ours, torchs = (
        error(attend(blocked_attention, shape, torch.bfloat16)),
        error(attend(reference, shape, torch.bfloat16)),
    )
    assert max(ours) < 0.02
    assert all(a < 2.5 * b for a, b in zip(ours, torchs)), (ours, torchs)


def test_dropout_of_blocked_attention() -> None:
    """Gradients are those of a function with a fixed mask, that of the seed."""
    shape = (1, 6, 2, 1, 4)
    draw = generator(0, "data")
    q, k, v = (
        torch.randn(1, 6, n, 4, generator=draw, dtype=torch.float64, requires_grad=True)
        for n in (2, 1, 1)
    )

    def masked(*inputs: torch.Tensor) -> torch.Tensor:
        return blocked_attention(*inputs, None, 0.4, torch.tensor([3]))

    assert torch.autograd.gradcheck(masked, (q, k, v), check_undefined_grad=False)
    one, two, three = (
        attend(blocked_attention, shape, torch.float32, None, 0.4, torch.tensor([seed]))[0]
        for seed in (1, 2, 1)
    )
    assert torch.equal(one, three)
    assert not torch.equal(one, two)


def test_dropout_of_blocked_attention_is_right_on_average() -> None:
    shape = (400, 5, 2, 1, 4)
    draw = generator(0, "data")
    q, k, v = (
        torch.randn(1, 5, n, 4, generator=draw).expand(400, -1, -1, -1).contiguous()
        for n in (2, 1, 1)
    )
    seeds = torch.arange(400)
    dropped, plain = blocked_attention(q, k, v, None, 0.3, seeds), blocked_attention(q, k, v)
    assert shape[0] == len(dropped)
    assert not torch.equal(dropped[0], dropped[1])
    # 4 standard deviations
    torch.testing.assert_close(dropped.mean(0), plain.mean(0), rtol=0, atol=0.15)


def test_gradients_of_blocked_attention_in_double_precision() -> None:
    draw = generator(0, "data")
    q, k, v = (
        torch.randn(2, 5, n, 4, generator=draw, dtype=torch.float64, requires_grad=True)
        for n in (4, 2, 2)
    )
    assert torch.autograd.gradcheck(blocked_attention, (q, k, v), check_undefined_grad=False)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_probabilities_kept_or_computed_again_are_the_same(
    dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for kept_up_to in (0, 2**22):
        monkeypatch.setattr(blocked, "KEPT", kept_up_to)
        seeds = torch.tensor([1, 2]) if dropout else None
        results.append(
            attend(blocked_attention, (2, 130, 4, 1, 8), torch.bfloat16, None, dropout, seeds)
        )
    assert all(map(torch.equal, *results))


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


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_dropout(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 701, requires_grad=True)
    module = Dropout(p)
    y = module(x)
    zeros = (y == 0).float().mean().item()
    assert zeros == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)
    assert y.mean().item() == pytest.approx(1.0, abs=0.03)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert module.eval()(x) is x
    assert abs(rounded(p) - p) <= 2**-17


def test_dropout_masks_are_independent_and_repeat() -> None:
    """Four values share a number, so neighbours must not be alike; nor sequences, nor places of a
    model.
    """
    seeds, n = torch.tensor([derive_seed(0, "dropout", i) for i in range(3)]), 100_003
    mask = kept(seeds, n, 0.5)
    assert mask.shape == (3, n)
    assert torch.equal(mask, kept(seeds, n, 0.5))
    assert torch.equal(mask[1:2, :1001], kept(seeds[1:2], 1001, 0.5))
    assert torch.equal(mask[:, 4 * 77 :], kept(seeds, n - 4 * 77, 0.5, first=77))
    signs = torch.cat([mask, kept(split(seeds, 1, 1)[:, 0], n, 0.5)]).float() * 2 - 1
    for lag in range(1, 9):
        for row in signs:
            assert abs((row[lag:] * row[:-lag]).mean().item()) < 4.5 / n**0.5
    for i in range(6):
        for j in range(i):
            assert abs((signs[i] * signs[j]).mean().item()) < 4.5 / n**0.5
    assert kept(seeds, 7, 0.0).all()
    assert kept(seeds, 10**5, 0.9999999).any(), "rounded down to what 16 bits can say"


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_every_position_of_a_mask_is_kept_as_often(p: float) -> None:
    """Over consecutive seeds, as a chi-squared test of 64 positions; and of what one of two
    neighbours tells.
    """
    mask = kept(torch.arange(20_000), 64, p).double()
    deviations = (mask.mean(0) - (1 - rounded(p))) / (p * (1 - p) / len(mask)) ** 0.5
    assert deviations.square().sum().item() < 64 + 4.5 * 128**0.5
    pairs = torch.corrcoef(mask.T).triu(1)
    assert pairs.abs().max().item() < 5.5 / len(mask) ** 0.5


def test_dropout_of_a_sequence_does_not_depend_on_its_batch() -> None:
    """Masks of residuals, probabilities and n-grams, of every member of an ensemble, to the bit."""
    embedding = partial(NgramEmbedding, longest=2, rows=97, dropout=0.3)
    model = Ensemble(
        64,
        members=2,
        n_layers=2,
        d_model=32,
        n_heads=4,
        n_kv_heads=2,
        dropout=0.3,
        embedding=embedding,
    )
    model.init_weights(generator(0, "init"))
    drops = [module for module in model.modules() if isinstance(module, Dropout)]
    assert len(drops) == 2 * (1 + 2 * 3)
    assert len({module.place for module in drops}) == len(drops)
    tokens, seeds = torch.randint(64, (4, 150), generator=generator(0, "data")), [5, 6, 7, 8]
    with sequences(seeds, "cpu"):
        together = model.hidden(tokens)
    with sequences(seeds[:1], "cpu"):
        same_text_and_seed = model.hidden(tokens[:1])
    for i, seed in enumerate(seeds):
        with sequences([seed], "cpu"):
            alone = model.hidden(tokens[i : i + 1])
        assert torch.equal(alone[:, 0] == 0, together[:, i] == 0)
        torch.testing.assert_close(alone[:, 0], together[:, i], rtol=1e-5, atol=1e-5)
    assert torch.equal(same_text_and_seed, model_hidden_again(model, tokens[:1], seeds[0]))
    with sequences([9], "cpu"):
        assert not torch.allclose(model.hidden(tokens[:1])[:, 0], together[:, 0], atol=1e-2)
    with (
        sequences([1, 2, 3], "cpu"),
        pytest.raises(ValueError, match="4 rows that are not 3 sequences"),
    ):
        model.hidden(tokens)
    with sequences([1], "cpu"), pytest.raises(ValueError, match="without a place"):
        Dropout(0.5)(torch.ones(1, 2))


def model_hidden_again(model: Transformer, tokens: torch.Tensor, seed: int) -> torch.Tensor:
    torch.rand(3)  # whatever somebody else draws
    with sequences([seed], "cpu"):
        return model.hidden(tokens)


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


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    "shape", [{}, {"n_kv_heads": 2, "qk_norm": True}], ids=["mqa", "gqa, qk_norm"]
)
def test_a_training_step_in_bf16_takes_the_fast_path(
    make_model: Callable[..., Transformer], tokens: torch.Tensor, shape: dict, documents: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Loss and gradients close to those of fp32, which takes torch's path; `blocked_attention` was
    really called.
    """
    model = make_model(**shape)
    numbers = torch.tensor([[0] * 6 + [1] * 11]).expand(3, -1) if documents else None
    exact = model(tokens, tokens.roll(-1, 1), numbers)
    exact.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    calls = []
    function = blocked._BlockedAttention.apply
    monkeypatch.setattr(
        blocked._BlockedAttention, "apply", lambda *inputs: calls.append(1) or function(*inputs)
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, tokens.roll(-1, 1), numbers)
    loss.backward()
    assert len(calls) == 2
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    for name, parameter in model.named_parameters():
        error = ((parameter.grad - expected[name]).norm() / expected[name].norm()).item()
        assert error < 0.1, (name, error)


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


@pytest.mark.parametrize("autocast", [False, True])
def test_activation_checkpointing_changes_no_bit(
    make_model: Callable[..., Transformer], tokens: torch.Tensor, autocast: bool
) -> None:
    """With dropout, whose masks must come again; and blocks are indeed computed twice."""
    results = []
    for recompute in (False, True):
        model, calls = make_model(dropout=0.2), []
        model.activation_checkpointing = recompute
        model.blocks[0].attention.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(tokens, tokens.roll(-1, dims=1))
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
        assert len(calls) == 1 + recompute
    assert all(map(torch.equal, *results))
