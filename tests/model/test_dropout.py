"""Dropout by sequence: how often, where, and independent of the batch."""

from functools import partial

import pytest
import torch

from minigpt.model.dropout import Dropout, kept, rounded, sequences, split
from minigpt.model.ensemble import Ensemble
from minigpt.model.ngram_embedding import NgramEmbedding
from minigpt.seeding import derive_seed, generator


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
    """Neither neighbours (four values share a number) nor sequences nor places are alike."""
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
    """Over consecutive seeds: a chi-squared test of 64 positions, and no pair is correlated."""
    mask = kept(torch.arange(20_000), 64, p).double()
    deviations = (mask.mean(0) - (1 - rounded(p))) / (p * (1 - p) / len(mask)) ** 0.5
    assert deviations.square().sum().item() < 64 + 4.5 * 128**0.5
    pairs = torch.corrcoef(mask.T).triu(1)
    assert pairs.abs().max().item() < 5.5 / len(mask) ** 0.5


def test_dropout_of_a_sequence_does_not_depend_on_its_batch() -> None:
    """Masks of residuals, probabilities and n-grams, of every member of an ensemble, to the bit."""
    embedding = partial(NgramEmbedding, longest=2, rows=97, dropout=0.3)
    sizes = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2}
    model = Ensemble(64, members=2, **sizes, dropout=0.3, embedding=embedding)
    model.init_weights(generator(0, "init"))
    drops = [module for module in model.modules() if isinstance(module, Dropout)]
    assert len(drops) == 2 * (1 + 2 * 3)
    assert len({module.place for module in drops}) == len(drops)
    tokens, seeds = torch.randint(64, (4, 150), generator=generator(0, "data")), [5, 6, 7, 8]
    with sequences(torch.tensor(seeds)):
        together = model.hidden(tokens)
    for i, seed in enumerate(seeds):
        with sequences(torch.tensor([seed])):
            alone = model.hidden(tokens[i : i + 1])
        assert torch.equal(alone[:, 0] == 0, together[:, i] == 0)
        torch.testing.assert_close(alone[:, 0], together[:, i], rtol=1e-5, atol=1e-5)
    again = []
    for _ in range(2):
        torch.rand(3)  # whatever somebody else draws
        with sequences(torch.tensor(seeds[:1])):
            again.append(model.hidden(tokens[:1]))
    assert torch.equal(*again)
    with sequences(torch.tensor([9])):
        assert not torch.allclose(model.hidden(tokens[:1])[:, 0], together[:, 0], atol=1e-2)
    with (
        sequences(torch.tensor([1, 2, 3])),
        pytest.raises(ValueError, match="4 rows that are not 3 sequences"),
    ):
        model.hidden(tokens)
    with sequences(torch.tensor([1])), pytest.raises(ValueError, match="without a place"):
        Dropout(0.5)(torch.ones(1, 2))
