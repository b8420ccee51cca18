"""The shuffle is a permutation, depends on the seed, and looks random."""

import numpy as np
import pytest

from minigpt.data import permutation as permutation_module
from minigpt.data.permutation import Permutation


@pytest.mark.parametrize("small", [0, permutation_module.SMALL])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100, 1000, 4097, 20_000])
def test_each_item_once(n: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation_module, "SMALL", small)
    order = Permutation(n, seed=1)(np.arange(n))
    assert sorted(order.tolist()) == list(range(n))


@pytest.mark.parametrize("n", [1000, 50_000])
def test_items_do_not_depend_on_how_they_are_asked(n: int) -> None:
    permutation = Permutation(n, seed=3)
    whole = permutation(np.arange(n))
    assert permutation(np.array([[7], [999]])).tolist() == [[whole[7]], [whole[999]]]


def test_a_huge_range_needs_no_memory() -> None:
    n = 10**15 + 7
    items = Permutation(n, seed=0)(np.arange(100_000))
    assert items.min() >= 0
    assert items.max() < n
    assert len(set(items.tolist())) == 100_000
    assert abs(items.mean() / n - 0.5) < 0.005  # 5 standard deviations


def test_seeds_give_different_orders() -> None:
    orders = {tuple(Permutation(50, seed)(np.arange(50)).tolist()) for seed in range(20)}
    assert len(orders) == 20


@pytest.mark.parametrize(
    ("n", "small", "seeds"), [(2, 10**6, 3000), (5, 10**6, 3000), (12, 10**6, 3000), (300, 0, 1000)]
)
def test_every_item_goes_everywhere(
    n: int, small: int, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over many seeds, item i lands on place j about equally often (chi-squared, 5 sigma)."""
    monkeypatch.setattr(permutation_module, "SMALL", small)
    counts = np.zeros((n, n))
    for seed in range(seeds):
        counts[np.arange(n), Permutation(n, seed)(np.arange(n))] += 1
    chi_squared = ((counts - seeds / n) ** 2 / (seeds / n)).sum()
    degrees = (n - 1) ** 2
    assert chi_squared < degrees + 5 * (2 * degrees) ** 0.5


def test_neighbours_are_torn_apart() -> None:
    order = Permutation(100_000, seed=0)(np.arange(100_000))
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.02
