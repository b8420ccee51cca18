"""A declaration is checked as a whole before anything runs."""

from typing import Any

import pytest
from declared import declared, verdict

from minigpt.errors import ConfigError
from minigpt.study.declaration import declaration_of


def test_what_a_declaration_says() -> None:
    declaration = declared(
        arms=["muon", "adamw", "sgd"],
        budgets={"train.tokens": [600, 300]},
        primary=300,
        cells={"train.batch_size": [4, 16], "model": ["tiny", "small"]},
        tune__per_arm={"muon": {"optim.hidden.momentum": [0.9, 0.95]}},
    )
    assert declaration.budget_key == "train.tokens"
    assert declaration.budgets == (300, 600)
    assert declaration.primary == 300
    assert declared().primary == 200, "the longest"
    assert declaration.tune.budget == 300
    assert declaration.tune.grid("muon") == {
        "optim.lr_scale": (0.5, 1, 2),
        "optim.hidden.momentum": (0.9, 0.95),
    }
    assert declaration.tune.grid("sgd") == {"optim.lr_scale": (0.5, 1, 2)}
    assert declaration.seeds(3) == (100, 101, 102)
    assert declaration.cells[1] == (("train.batch_size", 4), ("model", "small"))
    assert len(declaration.cells) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": "sgd"}, "unknown arm: verdict.baseline=sgd (one of muon, adamw)"),
        ({"tune__per_arm": {"sgd": {"optim.lr": [1, 2]}}}, "unknown arm: verdict.tune.per_arm.sgd"),
        ({"arms": ["muon"]}, "too few: verdict.arms"),
        ({"arms": ["muon", "adamw", "muon"]}, "named twice: verdict.arms has muon"),
        ({"baseline": None}, "missing value: verdict.baseline (one of muon, adamw)"),
        ({"margin": -1}, "out of range: verdict.margin=-1 (at least 0)"),
        ({"margin": float("inf")}, "not finite: verdict.margin=inf"),
        ({"metric": "loss"}, "unknown value: verdict.metric=loss (one of val_loss"),
        ({"tune__method": "randm"}, "unknown value: verdict.tune.method=randm (one of grid,"),
        ({"tune__trials": 0}, "out of range: verdict.tune.trials=0 (at least 2)"),
        ({"tune__extend": -1}, "out of range: verdict.tune.extend=-1 (at least 0)"),
        ({"confirm__looks": [1, 8]}, "out of range: verdict.confirm.looks has 1 (at least 2)"),
        ({"spread": 0}, "out of range: verdict.spread=0 (above 0"),
        ({"by": "seed"}, "not an arm: verdict.by=seed"),
        ({"margin": None}, "missing value: verdict.margin"),
        ({"budgets": {}}, "budgets: verdict.budgets has nothing"),
        ({"budgets": {"train.stepz": [1]}}, "give one of train.tokens, train.steps, train.epochs"),
        ({"budgets": {"train.steps": [0]}}, "out of range: verdict.budgets.train.steps=[0]"),
        ({"budgets": {"train.steps": [5, 5]}}, "named twice: verdict.budgets.train.steps"),
        ({"budgets": {"train.steps": [9, 5]}}, "(write [5, 9], whose last is judged, or"),
        ({"primary": 150}, "unknown budget: verdict.primary=150 (one of [100, 200] train.steps)"),
        ({"tune__over": {"optim.lr_scale": [1]}}, "a grid of 1: verdict.tune.over.optim.lr_scale"),
        ({"tune__over": {"seed": [1, 2]}}, "not to be varied: verdict.tune.over.seed"),
        ({"tune__over": {"optim.lr": 3}}, "no list: verdict.tune.over.optim.lr=3"),
        ({"tune__seeds": [0, 103]}, "seeds that tune must not confirm: [103]"),
        ({"tune__seeds": [0, 0]}, "out of range: verdict.tune.seeds"),
        ({"tune__seeds": [-1]}, "out of range: verdict.tune.seeds"),
        ({"confirm__looks": [16, 8]}, "out of range: verdict.confirm.looks=[16, 8] (rising"),
        ({"confirm__looks": []}, "out of range: verdict.confirm.looks=[]"),
        ({"confirm__looks": [8, 100_000]}, "too many runs: verdict asks for 400,0"),
        ({"tune__method": "random", "tune__trials": 10**9}, "too many runs: verdict asks for"),
        ({"tune__over": {"optim.lr_scale": [1, 1.0]}}, "named twice: verdict.tune.over.optim.lr"),
        ({"cells": {"train.steps": [1, 2]}}, "not to be varied: verdict.cells.train.steps"),
        (
            {"tune__method": "random", "tune__over": {"optim.lr": [0, 1]}},
            "no ends: verdict.tune: optim.lr=[0, 1]",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        declaration_of("a_study", verdict(**changes))
    assert any(words in problem for problem in error.value.problems), error.value.problems


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        declaration_of(None, verdict(margin=None, baseline="x", tune__seeds=[]))
    assert len(error.value.problems) == 4


def test_the_hash_is_of_what_decides() -> None:
    one = declared()
    assert declared().sha256 == one.sha256
    assert declared(amend="why").sha256 == one.sha256
    assert declared(margin=0.02).sha256 != one.sha256
    assert declaration_of("another", verdict()).sha256 != one.sha256
