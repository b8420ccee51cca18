"""Properties, hand-computed values and refusals of the transformer."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from minigpt.model.attention import Attention
from minigpt.model.ngram_embedding import NgramEmbedding
from minigpt.model.relu_squared import ReLUSquared
from minigpt.model.rope import rope_table
from minigpt.model.transformer import Transformer
from minigpt.roles import Role
from minigpt.seeding import generator

Make = Callable[..., Transformer]


NGRAMS = {"embedding": partial(NgramEmbedding, longest=4, rows=101)}
EMBEDDINGS = pytest.mark.parametrize("shape", [{}, NGRAMS], ids=["plain", "n-grams"])


@EMBEDDINGS
def test_a_token_changes_nothing_before_it(
    make_model: Make, tokens: torch.Tensor, shape: dict
) -> None:
    model, changed = make_model(**shape), tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 96
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert (before[:, 9:] != after[:, 9:]).any(dim=-1).all()


@pytest.mark.parametrize(
    "shape", [{}, {"n_kv_heads": 2}, {"n_kv_heads": 4}, NGRAMS], ids=["1", "2", "4", "n-grams"]
)
def test_documents_are_blind_to_each_other(
    make_model: Make, tokens: torch.Tensor, shape: dict
) -> None:
    """Two documents in one sequence give the logits of each alone: RoPE is relative."""
    model = make_model(**shape)
    documents = torch.tensor([[4] * 7 + [9] * 10]).expand(3, -1)
    together = model(tokens, documents=documents)
    alone = torch.cat((model(tokens[:, :7]), model(tokens[:, 7:])), dim=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    assert (together - model(tokens)).abs().max() > 0.1  # the mask did something

    loss = model(tokens, tokens.roll(-1, dims=1), documents)
    assert loss != model(tokens, tokens.roll(-1, dims=1))


@pytest.mark.parametrize(
    "parts", [[17], [5, 4, 1, 1, 6], [1] * 17], ids=["at once", "pieces", "one by one"]
)
@pytest.mark.parametrize(
    "shape", [{}, {"n_kv_heads": 2, "qk_norm": True}, NGRAMS], ids=["mqa", "gqa", "n-grams"]
)
def test_the_cache_changes_no_logits(
    make_model: Make, tokens: torch.Tensor, parts: list[int], shape: dict
) -> None:
    model = make_model(**shape)
    cache = model.new_cache(batch_size=3)
    pieces = [model(piece, cache=cache) for piece in tokens.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=0, atol=1e-5)
    assert cache.length == 17


@EMBEDDINGS
def test_a_cache_is_cleared_and_repeated(
    make_model: Make, tokens: torch.Tensor, shape: dict
) -> None:
    model = make_model(**shape)
    cache = model.new_cache()
    model(tokens[:1], cache=cache)
    three = cache.repeat(3)
    following = torch.tensor([[5], [6], [7]])
    separate = model(following[1:2], cache=cache)
    torch.testing.assert_close(model(following, cache=three)[1:2], separate, rtol=0, atol=1e-5)
    cache.clear()
    torch.testing.assert_close(model(tokens[:1], cache=cache), model(tokens[:1]), rtol=0, atol=0)


def test_loss_is_a_sum_over_real_targets(make_model: Make, tokens: torch.Tensor) -> None:
    model = make_model()
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[1, 3:] = -100
    log_p = model(inputs).log_softmax(-1)
    by_hand = -sum(
        log_p[b, t, y] for b in range(3) for t in range(16) if (y := int(targets[b, t])) >= 0
    )
    loss = model(inputs, targets)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, by_hand, rtol=1e-5, atol=0)
    assert model(inputs, torch.full_like(targets, -100)) == 0.0


def test_a_fresh_model_is_nearly_uniform() -> None:
    model = Transformer(1000, n_layers=2, d_model=64, n_heads=4)
    model.init_weights(generator(0, "init"))
    tokens = torch.randint(1000, (4, 32), generator=generator(0, "data"))
    per_token = model(tokens, tokens.roll(-1, dims=1)).item() / tokens.numel()
    assert per_token == pytest.approx(math.log(1000), rel=0.02)


def test_initialisation_comes_from_the_generator_alone() -> None:
    def drawn(seed: int, global_seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(global_seed)
        model = Transformer(64, n_layers=2, d_model=32, n_heads=4)
        model.init_weights(generator(seed, "init"))
        assert torch.initial_seed() == global_seed
        assert torch.equal(
            torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(global_seed))
        )
        return model.state_dict()

    one, same, other = drawn(0, 1), drawn(0, 2), drawn(1, 1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if "norm" not in name)


def test_spread_of_the_initial_weights() -> None:
    model = Transformer(512, n_layers=8, d_model=128, n_heads=4, qk_norm=True)
    model.init_weights(generator(0, "init"))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            residual = name.endswith((".o.weight", ".down.weight"))
            std = 0.02 / 4 if residual else 0.02  # sqrt(2 * 8 layers) = 4
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name


def test_roles_cover_every_parameter() -> None:
    model = Transformer(64, n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, qk_norm=True)
    roles = model.roles()
    assert list(roles) == [name for name, _ in model.named_parameters()]
    assert roles["embed.weight"] == Role("embed", "embed")
    assert roles["head.weight"] == Role("head", "head")
    assert roles["blocks.1.attention.q.weight"] == Role("hidden", "q", 4)
    assert roles["blocks.1.attention.k.weight"] == Role("hidden", "k", 2)
    assert roles["blocks.1.attention.o.weight"] == Role("hidden", "o", 4)
    assert roles["blocks.0.mlp.down.weight"] == Role("hidden", "down")
    assert roles["blocks.0.attention.q_norm.gain"] == Role("scalar", "gain")

    tied = Transformer(64, n_layers=2, d_model=32, n_heads=4, tie_embeddings=True)
    assert tied.roles()["embed.weight"] == Role("embed", "embed")
    assert "head" not in {role.name for role in tied.roles().values()}


def test_flops_per_token_by_hand() -> None:
    """q and o 64x64, k and v 64x16, three of 64x192, head 100x64; attention over 10 tokens."""
    model = Transformer(100, n_layers=3, d_model=64, n_heads=4, n_kv_heads=1)
    block = 64 * 64 * 2 + 64 * 16 * 2 + 3 * 64 * 192
    expected = 6 * (3 * block + 100 * 64) + 12 * 3 * 64 * 10
    assert model.flops_per_token(10) == expected
    tied = Transformer(100, n_layers=3, d_model=64, n_heads=4, n_kv_heads=1, tie_embeddings=True)
    assert tied.flops_per_token(10) == expected

    model.blocks[2].mlp.requires_grad_(False)  # no gradient of their own
    expected -= 2 * 3 * 64 * 192
    assert model.flops_per_token(10) == expected
    model.embed.requires_grad_(False)  # block 0 is trained
    assert model.flops_per_token(10) == expected
    model.blocks[:2].requires_grad_(False)  # forward alone
    assert model.flops_per_token(10) == expected - 4 * 2 * block - 8 * 2 * 64 * 10
    model.requires_grad_(False)
    model.head.weight.requires_grad_(True)  # nothing below it wants the gradient of what it reads
    assert model.flops_per_token(10) == 2 * 3 * block + 4 * 3 * 64 * 10 + 4 * 100 * 64


def test_flops_of_shared_matrices_and_of_a_part_that_tells(make_model: Make) -> None:
    expected = make_model(n_layers=3).flops_per_token(10)
    shared = make_model(n_layers=3)
    shared.blocks[2] = shared.blocks[0]  # one block, used twice
    shared.blocks[1].attention.q = shared.blocks[0].attention.q
    assert shared.flops_per_token(10) == expected
    shared.blocks[1].mlp.flops_per_token = lambda seq_len: seq_len
    of_mlp = 6 * sum(p.numel() for p in shared.blocks[1].mlp.parameters())
    assert shared.flops_per_token(10) == expected - of_mlp + 10


@pytest.mark.parametrize(
    ("d_model", "d_ff"), [(512, 1376), (128, 352), (768, 2048), (1024, 2752), (96, 256)]
)
def test_width_of_the_feed_forward_layer(d_model: int, d_ff: int) -> None:
    with torch.device("meta"):
        assert Transformer(8, 1, d_model, 4).blocks[0].mlp.up.out_features == d_ff


def test_built_on_meta_and_loaded_it_computes_the_same(
    make_model: Make, tokens: torch.Tensor
) -> None:
    model = make_model()
    with torch.device("meta"):
        empty = Transformer(96, n_layers=2, d_model=32, n_heads=4, max_seq_len=32)
    assert empty(tokens.to("meta"), tokens.to("meta")).is_meta
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(empty(tokens), model(tokens))


def test_positions_stay_exact_in_bfloat16(make_model: Make) -> None:
    """A round trip through bf16 loses the weights' digits, never the angles'."""
    model = make_model(max_seq_len=300)
    tokens = torch.randint(96, (1, 300), generator=generator(0, "data"))
    rounded = {name: value.bfloat16().float() for name, value in model.state_dict().items()}
    model.load_state_dict(rounded)
    expected = model(tokens)
    assert torch.equal(model.bfloat16().float()(tokens), expected)


def test_bfloat16_autocast_is_close(make_model: Make, tokens: torch.Tensor) -> None:
    model = make_model()
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    exact = model(inputs, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(inputs, targets)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
    rough.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_dropout_acts_in_training_only(make_model: Make, tokens: torch.Tensor) -> None:
    model, plain = make_model(dropout=0.3), make_model()
    expected = plain(tokens)
    assert torch.equal(model.eval()(tokens), expected)
    model.train()
    torch.manual_seed(0)
    first, second = model(tokens), model(tokens)
    torch.manual_seed(0)
    assert torch.equal(model(tokens), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("place", ["attention", "residual"])
def test_dropout_acts_in_both_places(make_model: Make, tokens: torch.Tensor, place: str) -> None:
    model = make_model(dropout=0.3)
    for block in model.blocks:
        if place == "attention":
            block.attention_dropout.p = block.mlp_dropout.p = 0.0
        else:
            block.attention.dropout.p = 0.0
    torch.manual_seed(0)
    assert not torch.equal(model(tokens), model(tokens))


def test_other_parts_are_given_as_classes() -> None:
    class Loud(Attention):
        def forward(self, *arguments: object, **named: object) -> torch.Tensor:
            return 2.0 * super().forward(*arguments, **named)

    model = Transformer(
        64, n_layers=2, d_model=32, n_heads=4, d_ff=128, attention=Loud, mlp=ReLUSquared
    )
    model.init_weights(generator(0, "init"))
    assert all(isinstance(block.attention, Loud) for block in model.blocks)
    kinds = {role.kind for role in model.roles().values()}
    assert kinds == {"embed", "gain", "q", "k", "v", "o", "up", "down", "head"}
    x = torch.randn(2, 3, 32, generator=generator(0, "data"))
    mlp = model.blocks[0].mlp
    torch.testing.assert_close(
        mlp(x), ((x @ mlp.up.weight.T).clamp(min=0) ** 2) @ mlp.down.weight.T
    )


REFUSALS = {
    "d_model=33 is not a multiple of n_heads=4": {"d_model": 33},
    "d_model=36 / n_heads=4 gives an odd head size of 9": {"d_model": 36},
    "n_heads=4 is not a multiple of n_kv_heads=3 (possible: 1, 2, 4)": {"n_kv_heads": 3},
    "n_heads=4 is not a multiple of n_kv_heads=8": {"n_kv_heads": 8},
    "n_kv_heads=0 must be at least 1": {"n_kv_heads": 0},
    "head_size=5 must be even and at least 2": {"head_size": 5},
    "n_layers=0 must be at least 1": {"n_layers": 0},
    "n_heads=-4 must be at least 1": {"n_heads": -4},
    "max_seq_len=0 must be at least 1": {"max_seq_len": 0},
    "d_ff=0 must be at least 1": {"d_ff": 0},
    "dropout=1.0 must be at least 0 and below 1": {"dropout": 1.0},
    "dropout=nan must be at least 0 and below 1": {"dropout": math.nan},
    "rope_theta=0.0 must be a positive number": {"rope_theta": 0.0},
    "norm_eps=-1.0 must be a positive number": {"norm_eps": -1.0},
}


@pytest.mark.parametrize(("message", "wrong"), REFUSALS.items(), ids=REFUSALS)
def test_refusals_name_keys_and_values(message: str, wrong: dict) -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="^" + re.escape(message)),
    ):
        Transformer(**{"vocab_size": 64, "n_layers": 2, "d_model": 32, "n_heads": 4, **wrong})


def test_too_long_a_sequence_is_refused(make_model: Make) -> None:
    model = make_model(max_seq_len=8)
    tokens = torch.zeros(1, 9, dtype=torch.int64)
    with pytest.raises(ValueError, match="9 tokens are longer than max_seq_len=8"):
        model(tokens)
    cache = model.new_cache()
    model(tokens[:, :8], cache=cache)
    with pytest.raises(ValueError, match="9 tokens are longer than max_seq_len=8"):
        model(tokens[:, :1], cache=cache)
    cache.clear()
    model(tokens[:, :2], cache=cache)
    with pytest.raises(ValueError, match="documents cannot be combined"):
        model(tokens[:, :2], documents=tokens[:, :2], cache=cache)


def test_no_module_holds_buffers(make_model: Make) -> None:
    model: nn.Module = make_model(qk_norm=True)
    assert not list(model.buffers())
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def drawn(**arguments: Any) -> Transformer:
    model = Transformer(96, n_layers=2, max_seq_len=8, **arguments)
    model.init_weights(generator(0, "init"))
    return model


def test_mup_at_the_base_width_is_the_standard_parametrization() -> None:
    standard, mup = (
        drawn(d_model=128, n_heads=4, parametrization=kind) for kind in ("standard", "mup")
    )
    assert all(map(torch.equal, standard.parameters(), mup.parameters()))
    assert standard.roles() == mup.roles()


def test_mup_starts_wide_matrices_smaller_and_tells_the_optimizer_their_width() -> None:
    standard, mup = (
        drawn(d_model=512, n_heads=4, parametrization=kind) for kind in ("standard", "mup")
    )
    roles = mup.roles()
    for (name, wide), usual in zip(mup.named_parameters(), standard.parameters(), strict=True):
        smaller, width = {"hidden": (2.0, 4.0), "head": (4.0, 4.0)}.get(
            roles[name].name, (1.0, 1.0)
        )
        torch.testing.assert_close(wide * smaller, usual)
        assert roles[name].width_multiplier == width


def test_mup_needs_an_untied_head_and_a_known_name() -> None:
    with pytest.raises(ValueError, match="tie_embeddings=true with parametrization=mup"):
        Transformer(96, 1, 128, 4, tie_embeddings=True, parametrization="mup")
    with pytest.raises(ValueError, match="parametrization='np'"):
        Transformer(96, 1, 128, 4, parametrization="np")  # type: ignore[arg-type]


@pytest.mark.parametrize("autocast", [False, True])
def test_activation_checkpointing_changes_no_bit(
    make_model: Make, tokens: torch.Tensor, autocast: bool
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


class Looped(Transformer):
    """All blocks twice, by a `hidden` of its own."""

    def hidden(self, tokens: torch.Tensor, documents: Any = None, cache: Any = None) -> Any:
        rope = rope_table(0, tokens.shape[1], self.head_size, self.rope_theta, tokens.device)
        x = self.embed(tokens)
        for block in [*self.blocks, *self.blocks]:
            x = block(x, rope, None, None)
        return self.final_norm(x)


def test_activation_checkpointing_holds_where_hidden_is_overridden(tokens: torch.Tensor) -> None:
    model, calls = Looped(96, n_layers=2, d_model=32, n_heads=4), []
    model.init_weights(generator(0, "init"))
    model.activation_checkpointing = True
    model.blocks[1].attention.register_forward_hook(lambda *_: calls.append(1))
    model(tokens, tokens).backward()
    assert len(calls) == 2 * 2


def test_a_block_that_would_keep_all_is_refused() -> None:
    model = Transformer(96, n_layers=2, d_model=32, n_heads=4)
    model.blocks[1] = nn.Identity()
    model.activation_checkpointing = False
    with pytest.raises(ValueError, match="Identity is no TransformerBlock and would keep all"):
        model.activation_checkpointing = True
