"""The search for a setting: which are tried, which wins, what lies beyond an edge."""

import math
from typing import Any

from declared import declared

from minigpt.study.declaration import Setting, Tuning
from minigpt.study.search import Search, drawn, search


def tuning(**changes: Any) -> Tuning:
    return declared(**{f"tune__{name}": value for name, value in changes.items()}).tune


def to_the_end(tune: Tuning, loss: Any, arm: str = "muon") -> tuple[Search, list[list[Setting]]]:
    """The search and what each of its waves wanted, with a loss for each setting."""
    known: dict[Setting, dict[int, float]] = {}
    waves = []
    for wave in range(1, 100):
        found = search(tune, arm, known.get, wave)
        if found.wanted:
            waves.append(found.wanted)
            known |= {s: {0: loss(dict(s)), 1: loss(dict(s))} for s in found.wanted}
            found = search(tune, arm, known.get, wave)
        if found.chosen is not None:
            return found, waves
    raise AssertionError("no end")


def bowl(best: float) -> Any:
    return lambda setting: (math.log2(setting["optim.lr_scale"]) - math.log2(best)) ** 2


def test_the_best_point_of_a_grid() -> None:
    found, waves = to_the_end(tuning(), bowl(1))
    assert dict(found.chosen or ()) == {"optim.lr_scale": 1}
    assert len(waves) == 1
    assert found.extensions == []


def test_a_best_value_on_an_edge_gets_values_beyond_it() -> None:
    found, waves = to_the_end(tuning(), bowl(4))
    assert found.extensions == [("optim.lr_scale", 4), ("optim.lr_scale", 8)]
    assert dict(found.chosen or ()) == {"optim.lr_scale": 4}
    assert [len(wave) for wave in waves] == [3, 1, 1]
    lower, _ = to_the_end(tuning(), bowl(0.25))
    assert lower.extensions == [("optim.lr_scale", 0.25), ("optim.lr_scale", 0.125)]


def test_extensions_end() -> None:
    found, _ = to_the_end(tuning(extend=1), bowl(64))
    assert dict(found.chosen or ()) == {"optim.lr_scale": 4}
    assert to_the_end(tuning(extend=0), bowl(64))[0].extensions == []


def test_nothing_lies_beyond_an_edge_where_no_run_can_be() -> None:
    """A share of a run beyond 1, say: no losses at all, where None is a run that has not ended."""

    def losses(setting: Setting) -> dict[int, float]:
        values: dict[str, Any] = dict(setting)
        share, scale = values["share"], values["optim.lr_scale"]
        return {} if share >= 1 or share + scale > 5 else {0: -share - scale}

    for method in ("grid", "coordinate"):
        tune = tuning(over={"share": [0.2, 0.5], "optim.lr_scale": [1, 2]}, method=method)
        found = search(tune, "muon", losses, 100)
        assert dict(found.chosen or ()) == {"share": 0.5, "optim.lr_scale": 4}
        assert found.extensions == [("optim.lr_scale", 4)]
        assert all(dict(setting)["share"] < 1 for setting in found.scores)


def test_what_is_no_size_is_not_extended() -> None:
    """0.95 is the upper end of 0.9, 0.95; 1.0028 would be no momentum."""
    tune = tuning(over={}, per_arm={"muon": {"optim.hidden.momentum": [0.9, 0.95]}})
    found, _ = to_the_end(tune, lambda setting: -setting["optim.hidden.momentum"])
    assert dict(found.chosen or ()) == {"optim.hidden.momentum": 0.95}
    tune = tuning(over={"model.qk_norm": [False, True]})
    assert to_the_end(tune, lambda setting: -setting["model.qk_norm"])[0].extensions == []


def test_several_keys_are_their_product_and_grow_by_rows() -> None:
    tune = tuning(over={"optim.lr_scale": [1, 2], "b": ["x", "y"]}, extend=1)

    def loss(setting: dict[str, Any]) -> float:
        return bowl(4)(setting) + (setting["b"] == "x")

    found, waves = to_the_end(tune, loss)
    assert [len(wave) for wave in waves] == [4, 2]
    assert dict(found.chosen or ()) == {"optim.lr_scale": 4, "b": "y"}


def test_a_setting_that_diverged_comes_last() -> None:
    found, _ = to_the_end(tuning(), lambda s: math.inf if s["optim.lr_scale"] == 1 else bowl(1)(s))
    assert dict(found.chosen or ())["optim.lr_scale"] != 1
    assert dict(found.ranking[-1]) == {"optim.lr_scale": 1}


def test_a_search_stops_only_where_every_run_diverged() -> None:
    known = {0: math.inf, 1: math.inf}
    found = search(tuning(), "muon", lambda setting: known, 1)
    assert found.stopped
    assert found.chosen is None
    found = search(tuning(), "muon", lambda setting: known | {1: 4.0}, 1)
    assert not found.stopped
    assert found.chosen is not None, "how often it diverges is for the seeds that judge"


def test_a_hole_blocks_the_choice() -> None:
    """A setting that lacks a seed's loss is wanted again, whatever the others say."""
    known: dict[Setting, dict[int, float]] = {(("optim.lr_scale", 1),): {0: 1.0, 1: 1.0}}
    found = search(tuning(), "muon", known.get, 1)
    assert found.chosen is None
    assert [dict(setting)["optim.lr_scale"] for setting in found.wanted] == [0.5, 2]


def test_one_key_at_a_time() -> None:
    tune = tuning(
        over={"optim.lr_scale": [0.5, 1, 2], "b": [1, 2, 4]}, method="coordinate", extend=0
    )

    def loss(setting: dict[str, Any]) -> float:
        return bowl(0.5)(setting) + (math.log2(setting["b"]) - 2) ** 2

    found, waves = to_the_end(tune, loss)
    assert dict(found.chosen or ()) == {"optim.lr_scale": 0.5, "b": 4}
    assert len(found.scores) < 9, "fewer than the product"
    assert [len(wave) for wave in waves] == [3, 2, 2]


def test_random_settings_are_the_same_every_time() -> None:
    grid = {"lr": (0.001, 0.1), "layers": (1, 8), "kind": ("a", "b")}
    one = drawn(grid, 16)
    assert one == drawn(grid, 20)[:16], "more trials are further ones"
    assert one != drawn(grid | {"lr": (0.001, 0.2)}, 16)
    assert len(one) == 16
    for setting in one:
        values = dict(setting)
        assert 0.001 <= values["lr"] <= 0.1  # type: ignore[operator]
        assert values["layers"] in range(1, 9)
        assert values["kind"] in ("a", "b")
    rates = sorted(dict(setting)["lr"] for setting in drawn(grid, 200))  # type: ignore[type-var]
    assert 0.007 < rates[100] < 0.014, "the median of a log-uniform draw"  # type: ignore[operator]


def test_fewer_settings_than_trials() -> None:
    assert len(drawn({"kind": ("a", "b")}, 16)) == 2


def test_nothing_to_tune_needs_no_runs() -> None:
    found = search(tuning(over={}), "muon", lambda setting: None, 1)
    assert found.chosen == ()
    assert found.wanted == []
