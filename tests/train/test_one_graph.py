"""That torch.compile finds no place to break, on the way that a GPU takes."""

from functools import partial
from typing import Any

import pytest
import torch

from minigpt.model.attention import Attention, read_blocks
from minigpt.model.dropout import sequences
from minigpt.model.transformer import Transformer
from minigpt.optim.muon import Muon
from minigpt.seeding import generator

pytestmark = [  # dynamo's own: of autograd.Function, and of functools.cache
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning"),
]
SIZES = {"n_layers": 1, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 32}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is traced from now on; a break is an error."""
    found: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    torch.compiler.reset()
    compile = partial(torch.compile, fullgraph=True, backend=backend)
    monkeypatch.setattr(torch, "compile", compile)
    return found


def test_model_and_loss_are_one_graph(graphs: list[Any]) -> None:
    """On `meta`, which is no CPU either; with dropout, and documents by a dense mask."""
    with torch.device("meta"):
        model = Transformer(257, **SIZES, dropout=0.1)
        tokens, seeds = torch.zeros(2, 32, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    with sequences(seeds), torch.autocast("cpu", torch.bfloat16):
        loss = torch.compile(model)(tokens, tokens, (tokens == 0).cumsum(1))
    loss.backward()
    assert len(graphs) == 1
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_documents_in_blocks_are_one_graph_and_equal_the_dense_mask(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward only: flex_attention has no backward pass on a CPU."""
    draw = generator(0, "data")
    model = Transformer(257, **SIZES)
    model.init_weights(draw)
    tokens = torch.randint(257, (3, 32), generator=draw)
    documents = (torch.rand(3, 32, generator=draw) < 0.2).cumsum(1)
    with torch.no_grad():
        dense, whole = model(tokens, tokens, documents), model(tokens, tokens)
        in_blocks = lambda model, tokens: read_blocks(model.blocks)
        monkeypatch.setattr(Transformer, "attends_in_blocks", in_blocks)
        blocks = torch.compile(model)(tokens, tokens, documents)
    assert len(graphs) == 1
    assert "flex_attention" in graphs[0].code
    torch.testing.assert_close(blocks, dense, rtol=1e-6, atol=0)
    assert abs(float(whole - dense)) > 1e-3, "the mask matters"


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_is_traced_has_the_gradients(graphs: list[Any], dropout: float) -> None:
    """PyTorch 2.11 traced a gradient of zero where a result had been written in place (#180642)."""
    draw = generator(0, "data")
    model = Transformer(257, **SIZES, dropout=dropout)
    model.init_weights(draw)
    tokens, found = torch.randint(257, (3, 32), generator=draw), []
    for forward in (torch.compile(model), model):
        model.zero_grad()
        with sequences(torch.arange(3)):
            forward(tokens, tokens).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for traced, eager in zip(*found, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5)


def test_blocks_come_to_our_attention_alone_and_never_with_dropout() -> None:
    """Else a mask is a tensor, as an attention of one's own was promised."""

    class Own(Attention):
        def forward(self, *arguments: Any) -> torch.Tensor:
            return super().forward(*arguments)

    plain, dropping = Transformer(9, **SIZES), Transformer(9, **SIZES, dropout=0.1)
    assert read_blocks(plain.blocks)
    assert not read_blocks(Transformer(9, **SIZES, attention=Own).blocks)
    assert not read_blocks(dropping.blocks)
    assert read_blocks(dropping.eval().blocks)


def test_a_step_of_muon_is_one_graph(graphs: list[Any]) -> None:
    model = Transformer(257, **SIZES)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    muon = Muon([p for p in model.blocks.parameters() if p.ndim == 2], ns_dtype="bf16")
    muon.checks_gradients = False
    muon.moves_together = lambda device: True  # type: ignore[method-assign]
    muon.step()  # makes the state
    before = model.blocks[0].attention.q.weight.detach().clone()
    torch.compile(muon.step)()
    assert len(graphs) == 1
    assert not torch.equal(before, model.blocks[0].attention.q.weight)
