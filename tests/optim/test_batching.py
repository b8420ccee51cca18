"""The fast path gives what the plain loop gives."""

import pytest
import torch

from minigpt.optim import batching
from minigpt.optim.batching import batches, orthogonalise_batch
from minigpt.optim.newton_schulz import coefficients_of, orthogonalise

KELLER_5 = coefficients_of("keller")


def matrices(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def both(given, dtype, coefficients=KELLER_5):
    fast = [None] * len(given)
    for batch in batches(given, dtype):
        results = orthogonalise_batch(
            (given[i] for i in batch), [given[i].shape for i in batch], coefficients, dtype
        )
        for i, result in zip(batch, results, strict=True):
            fast[i] = result.clone()
    return fast, [orthogonalise(matrix, coefficients, dtype) for matrix in given]


SMALL = [(24, 40), (40, 24), (16, 16), (24, 40), (1, 7), (7, 1), (16, 16)]
MIXED = [*SMALL, (96, 352), (352, 96), (352, 96)]


@pytest.mark.parametrize("schedule", ["keller", "polar_express", "exact"])
def test_many_small_matrices_in_bf16_bit_for_bit(schedule):
    fast, plain = both(matrices(*MIXED), torch.bfloat16, coefficients_of(schedule))
    assert [torch.equal(a, b) for a, b in zip(fast, plain)] == [True] * len(MIXED)


@pytest.mark.parametrize("shape", [(512, 512), (640, 512), (512, 1376), (1376, 512), (515, 519)])
def test_large_matrices_in_bf16_bit_for_bit(shape):
    fast, plain = both(matrices(shape), torch.bfloat16)
    assert torch.equal(fast[0], plain[0])


@pytest.mark.parametrize("shape", [(1100, 64), (64, 1100), (1376, 100), (2048, 128)])
def test_long_matrices_in_bf16_bit_for_bit(shape):
    """A batched product sums long rows in another order, so these are not batched."""
    fast, plain = both(matrices(*[shape] * 7), torch.bfloat16)
    assert all(map(torch.equal, fast, plain))


def test_fp32_within_rounding():
    fast, plain = both(matrices(*MIXED, (512, 530)), torch.float32)
    for a, b in zip(fast, plain):
        assert (a - b).norm() / b.norm() < 1e-5


def test_every_index_comes_once_and_transposes_share_a_batch():
    given = matrices(*MIXED)
    assert sorted(i for batch in batches(given, torch.bfloat16) for i in batch) == list(
        range(len(MIXED))
    )
    assert [0, 1, 3] in batches(given, torch.bfloat16)


def test_batches_are_bounded(monkeypatch):
    monkeypatch.setattr(batching, "CPU_BATCH_ELEMENTS", 2 * 24 * 40)
    given = matrices(*[(24, 40)] * 5, (512, 512), (512, 512))
    assert sorted(batches(given, torch.bfloat16)) == [[0, 1], [2, 3], [4], [5], [6]]
    fast, plain = both(given[:5], torch.bfloat16)
    assert all(map(torch.equal, fast, plain))


def test_matrices_are_consumed_one_by_one_and_not_changed():
    given = matrices((8, 4), (4, 8), (8, 4))
    kept = [matrix.clone() for matrix in given]
    both(given, torch.float32)
    assert all(map(torch.equal, given, kept))


def fuzz(seed, draws, shortest):
    """(matrices that differ from the plain loop's, all matrices), in bf16 at random shapes."""
    draw = torch.Generator().manual_seed(seed)
    pick = lambda values: values[int(torch.randint(len(values), (1,), generator=draw))]
    different = matrices_seen = 0
    for _ in range(draws):
        m, n = pick(shortest), pick([16, 24, 32, 64, 96, 128, 352, 512, 1000, 1030])
        scale = 10.0 ** pick(range(-6, 3))
        given = [
            torch.randn((m, n) if pick((0, 1)) else (n, m), generator=draw) * scale
            for _ in range(pick(range(2, 17)))
        ]
        fast, plain = both(given, torch.bfloat16)
        different += sum(not torch.equal(a, b) for a, b in zip(fast, plain))
        matrices_seen += len(given)
    return different, matrices_seen


def test_short_matrices_in_bf16_bit_for_bit():
    """Batches of them round one matrix in a few hundred differently, so they are not batched."""
    different, seen = fuzz(0, 20, [2, 8, 15, 16])
    assert seen > 100
    assert different == 0
    fast, plain = both(
        [torch.randn(16, 64, generator=torch.Generator().manual_seed(i)) for i in range(800)],
        torch.bfloat16,
    )
    assert all(map(torch.equal, fast, plain))


@pytest.mark.slow
def test_any_shape_in_bf16_bit_for_bit():
    different, seen = fuzz(
        1, 1000, [1, 2, 3, 4, 8, 12, 15, 16, 17, 18, 20, 24, 28, 32, 48, 64, 96, 128, 200]
    )
    assert seen > 8000
    assert different == 0
