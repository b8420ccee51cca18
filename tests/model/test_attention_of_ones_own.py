"""An attention of one's own, as an example: windows in every second layer, and values that mix with
those of the first layer (Zhou et al. 2024, arXiv 2410.17897). No file of minigpt is edited:

    python train.py +model.attention._target_=mylab.WindowedValues +model.attention._partial_=true

The contract:

constructor   that of `Attention`; arguments of its own come behind and stand in the YAML
connect       optional: `layer` is its number, `attentions` are those of all layers, the first first
forward       x (B, T, D) -> (B, T, D)
    rope      for `rotate`: the positions of these T tokens, also behind a cache
    mask      (B or 1, 1, T, S) bool, True where a query may look; None means plainly causal
    cache     None in training; else the keys and values of the S - T tokens before these, which
              `attention_reference` extends. Batches of documents come without one. A recurrent
              block keeps its own (B, ...) in `cache.state` and counts in `cache.length`
roles         matrices of modules are `hidden` and go to Muon; what is below 2-D is `scalar`.
              `heads` names the heads of matrices, `parameter_roles` other roles of own parameters
start         matrices are drawn from N(0, 0.02^2), scalars start at 0, and at 1 if named `gain`
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from minigpt.generate.sampling import Sampling, generate
from minigpt.model.attention import Attention, attention_reference
from minigpt.model.cache import LayerCache
from minigpt.model.rope import RopeTable, rotate
from minigpt.model.transformer import Transformer
from minigpt.roles import Role

Make = Callable[..., Transformer]


class WindowedValues(Attention):
    """window: how many tokens a query of layers 1, 3, ... sees, itself included."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        dropout: float = 0.0,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
        window: int = 4,
    ) -> None:
        super().__init__(d_model, n_heads, n_kv_heads, 0.0, qk_norm, norm_eps)
        self.parameter_roles = {"mix": "scalar"}  # 2-D, and no matrix for Muon
        self.window = window

    def connect(self, layer: int, attentions: Sequence["WindowedValues"]) -> None:
        self.windowed = layer % 2 == 1
        self.first = [attentions[0]] if layer else []  # in a list: no module of this one
        if layer:  # the share of the first layer's values
            self.mix = nn.Parameter(torch.empty(self.n_kv_heads, 1))

    def forward(
        self,
        x: Tensor,
        rope: RopeTable,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        q, k, v = (y.unflatten(-1, (-1, self.head_size)) for y in (self.q(x), self.k(x), self.v(x)))
        q, k = rotate(q, rope), rotate(k, rope)
        if self.first:
            v = torch.lerp(v, self.first[0].values, self.mix.to(v.dtype))
        else:
            self.values = v  # of these tokens; layers behind this one read it in the same pass
        if self.windowed:
            before = 0 if cache is None else cache.length
            keys = torch.arange(before + x.shape[1], device=x.device)
            distance = keys[before:, None] - keys
            near = (distance >= 0) & (distance < self.window)  # (T, S)
            mask = near[None, None] if mask is None else near & mask
        return self.o(attention_reference(q, k, v, mask, cache).flatten(2))


class Recurrent(Attention):
    """A running mean of the values in place of attention."""

    def forward(
        self,
        x: Tensor,
        rope: RopeTable,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        v = self.v(x).repeat(1, 1, self.n_heads // self.n_kv_heads)
        sums, before = v.cumsum(1), 0
        if cache is not None:
            before = cache.length
            sums = sums if cache.state is None else sums + cache.state[:, None]
            cache.state, cache.length = sums[:, -1], before + x.shape[1]
        count = torch.arange(before + 1, before + 1 + x.shape[1])
        return self.o(sums / count[:, None])


@pytest.fixture
def model(make_model: Make) -> Transformer:
    own = make_model(n_layers=3, attention=WindowedValues)
    for block in own.blocks[1:]:
        nn.init.constant_(block.attention.mix, 0.5)
    return own


def test_its_layers_know_their_number_and_share_values(model: Transformer, tokens: Tensor) -> None:
    first, second, third = (block.attention for block in model.blocks)
    assert [part.windowed for part in (first, second, third)] == [False, True, False]
    roles = model.roles()
    assert roles["blocks.1.attention.mix"] == Role("scalar", "mix")
    assert roles["blocks.1.attention.q.weight"] == Role("hidden", "q", first.n_heads)
    before = model(tokens)
    second.window = 2
    after = model(tokens)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2:], after[:, 2:])


def test_token_by_token_is_the_whole_sequence(model: Transformer, tokens: Tensor) -> None:
    cache = model.new_cache(len(tokens))
    steps = [model(tokens[:, :5], cache=cache)]
    steps += [model(tokens[:, i : i + 1], cache=cache) for i in range(5, tokens.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens), rtol=0, atol=2e-5)


def test_a_recurrent_block_goes_on_from_its_state(make_model: Make) -> None:
    model, prompt = make_model(attention=Recurrent, max_seq_len=64), [5, 7, 11]
    greedy = Sampling(max_new_tokens=12, temperature=0, num_samples=2)
    texts = zip(*(step.tokens for step in generate(model, prompt, greedy, torch.Generator())))
    whole = list(prompt)
    for _ in range(12):
        whole.append(int(model(torch.tensor([whole]))[0, -1].argmax()))
    assert [list(text) for text in texts] == [whole[3:], whole[3:]]


def test_documents_stay_apart_and_checkpointed_gradients_are_the_same(
    model: Transformer, tokens: Tensor
) -> None:
    documents = torch.tensor([[0] * 7 + [1] * 10]).expand(3, -1)
    alone = torch.cat((model(tokens[:, :7]), model(tokens[:, 7:])), dim=1)
    torch.testing.assert_close(model(tokens, documents=documents), alone, rtol=0, atol=2e-5)
    gradients = []
    for model.activation_checkpointing in (False, True):
        model.zero_grad()
        model(tokens, tokens.roll(-1, 1)).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
