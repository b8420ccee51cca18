"""A study from tuning to its verdict, over simulated runs."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from declared import FolderRuns, Notes, SimulatedRuns, conclude, conclude_in_folder, declared, noisy
from studies import Study

from minigpt.errors import ConfigError
from minigpt.study.conduct import Unfinished, known_search
from minigpt.study.decisions import lines, phase
from minigpt.study.declaration_file import study_folder
from minigpt.study.journal import Journal, read_decisions
from minigpt.study.launched import LaunchedRuns
from minigpt.study.planned import PlannedRun
from minigpt.study.recorded import RecordedRuns


def test_phases_in_order_and_a_verdict() -> None:
    runs, notes = SimulatedRuns(noisy(0.05)), Notes()
    conclusion = conclude(declared(), runs, notes)
    assert [phase for phase, _ in runs.phases] == ["tune", "confirm 8 pairs"]
    assert conclusion.rulings[()].words == {"muon": "better"}
    assert [entry["what"] for entry in notes] == ["choose", "choose", "look"]
    tuned, confirmed = (planned for _, planned in runs.phases)
    assert {run.seed for run in tuned} == {0, 1}
    assert {run.budget for run in tuned} == {200}
    assert {run.seed for run in confirmed} == set(range(100, 108))
    assert {run.budget for run in confirmed} == {100, 200}
    assert {run.setting for run in confirmed} == {(("optim.lr_scale", 1),)}


def test_it_stops_at_the_first_look_that_decides() -> None:
    undecided = SimulatedRuns(noisy(0.0, spread=0.1))
    conclusion = conclude(declared(confirm__looks=[8, 16, 32]), undecided)
    assert [phase for phase, _ in undecided.phases][1:] == [
        "confirm 8 pairs",
        "confirm 16 pairs",
        "confirm 32 pairs",
    ]
    assert [len(planned) for _, planned in undecided.phases][1:] == [32, 32, 64]
    assert conclusion.looks[()].pairs == 32


def test_each_arm_has_its_own_best_setting() -> None:
    runs, notes = SimulatedRuns(noisy(0.05, best={"muon": 4, "adamw": 0.5})), Notes()
    conclusion = conclude(declared(), runs, notes)
    chosen = {arm: dict(setting) for arm, setting in conclusion.looks[()].chosen.items()}
    assert chosen == {"muon": {"optim.lr_scale": 4}, "adamw": {"optim.lr_scale": 0.5}}
    assert {"what": "extend", "arm": "muon", "cell": "", "number": 1, "key": "optim.lr_scale",
            "value": 4} in notes  # fmt: skip


def diverging(*arms: str) -> SimulatedRuns:
    return SimulatedRuns(lambda run: math.inf if run.arm in arms else noisy(0.05)(run))


def test_an_arm_without_a_setting_that_ended_is_not_confirmed_and_the_others_are() -> None:
    runs, notes = diverging("sgd"), Notes()
    declaration = declared(arms=["muon", "adamw", "sgd"])
    conclusion = conclude(declaration, runs, notes)
    assert conclusion.rulings[()].words == {"muon": "better"}
    confirmed = [run for phase, planned in runs.phases if "confirm" in phase for run in planned]
    assert {run.arm for run in confirmed} == {"muon", "adamw"}
    stopped = {"what": "choose", "arm": "sgd", "cell": "", "setting": None, "trials": 3}
    assert stopped in notes
    assert phase(declaration, notes) == "ended"


def test_without_a_baseline_that_ended_nothing_is_judged() -> None:
    for arms in (["adamw"], ["muon"]):
        runs = diverging(*arms)
        with pytest.raises(Unfinished, match="nothing to compare"):
            conclude(declared(), runs)
        assert [phase for phase, _ in runs.phases] == ["tune"]


def test_a_value_that_cannot_be_ends_no_study(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lies beyond an edge is not tried where its configuration is refused, and compare, which
    builds nothing, comes to the same.
    """

    class Refuses:
        def all(self, jobs: list[list[str]]) -> list[Any]:
            return [SimpleNamespace(folder=study.folder / "none") for _ in jobs]

        def check(self, plan: Any) -> None:
            raise ConfigError("invalid value: a share of 4.0")

    declaration = declared()
    beyond = (("optim.lr_scale", 4.0),)
    launched = LaunchedRuns(declaration, [], Refuses(), None)  # type: ignore[arg-type]

    class Runs(FolderRuns):
        def loss(self, planned: PlannedRun) -> float | None:
            return launched.loss(planned) if planned.setting == beyond else super().loss(planned)

        def why(self, planned: PlannedRun) -> str:
            return launched.why(planned)

    runs = Runs(declaration, study, noisy(0.08, best={"muon": 2.0, "adamw": 1.0}))
    done = conclude_in_folder(runs)
    assert "not tried: muon, optim.lr_scale=4.0, seed 0: invalid value" in capsys.readouterr().err
    assert done.searches[(), "muon"].chosen == (("optim.lr_scale", 2),)
    assert done.searches[(), "muon"].extensions == []
    found = read_decisions(study_folder(study.folder, declaration.study))["edge muon 1"]
    assert (found["key"], found["value"]) == ("optim.lr_scale", 4.0)
    assert found["why"] == "invalid value: a share of 4.0"
    shown = lines(declaration, {"amendments": []}, [found])
    assert shown[-1] == f"  not tried    muon: optim.lr_scale=4.0: {found['why']}"
    with Journal(study.folder, declaration, {}) as journal:
        journal.note_folders(runs.names | launched.folders)
    recorded = known_search(declaration, RecordedRuns(declaration, study.folder), (), "muon", 9)
    assert recorded.chosen == (("optim.lr_scale", 2),)


def test_equal_arms_within_the_margin() -> None:
    conclusion = conclude(declared(margin=0.05), SimulatedRuns(noisy(0.0, spread=0.002)))
    assert conclusion.rulings[()].words == {"muon": "equivalent"}


def test_a_cell_is_a_study_of_its_own() -> None:
    def loss(run: PlannedRun) -> float:
        cell = dict(run.cell)["train.batch_size"]
        return noisy(0.05 if cell == 64 else 0.0, spread=0.01)(run)

    runs = SimulatedRuns(loss)
    declaration = declared(cells={"train.batch_size": [4, 64]}, confirm__looks=[8, 16])
    conclusion = conclude(declaration, runs)
    easy, hard = declaration.cells[1], declaration.cells[0]
    assert conclusion.rulings[easy].words == {"muon": "better"}
    assert conclusion.looks[easy].pairs == 8, "decided cells train no more"
    assert conclusion.looks[hard].pairs == 16
    last = runs.phases[-1][1]
    assert {run.cell for run in last} == {hard}


def test_failed_runs_block_and_are_named() -> None:
    runs = SimulatedRuns(
        noisy(0.05), fails=lambda run: run.seed == 1 and ("optim.lr_scale", 2) in run.setting
    )
    notes = Notes()
    with pytest.raises(Unfinished) as error:
        conclude(declared(), runs, notes)
    assert "2 of 12 runs did not end" in str(error.value)
    assert "muon, optim.lr_scale=2, seed 1: it fell over" in str(error.value)
    assert notes == [], "nothing is chosen from a grid with a hole"


def test_killed_anywhere_it_comes_to_the_same() -> None:
    """Same decisions in the same order, same runs, same verdict, after a kill at every run."""
    loss = noisy(0.012, spread=0.02, best={"muon": 3, "adamw": 0.3})
    declaration = declared(cells={"train.batch_size": [4, 64]})
    whole, notes = SimulatedRuns(loss), Notes()
    expected = conclude(declaration, whole, notes)
    total = len(whole.ended)
    for stop in range(total):
        killed, journal = SimulatedRuns(loss, stop_after=stop), Notes()
        with pytest.raises(KeyboardInterrupt):
            conclude(declaration, killed, journal)
        killed.stop_after = math.inf
        again = conclude(declaration, killed, journal)
        assert journal == notes
        assert killed.ended.keys() == whole.ended.keys()
        assert [ruling.words for ruling in again.rulings.values()] == [
            ruling.words for ruling in expected.rulings.values()
        ]


def test_pairs_that_are_equal_to_the_bit_are_no_difference() -> None:
    def loss(run: PlannedRun) -> float:
        return 4 + random_of(run.seed) - run.budget / 1000

    conclusion = conclude(declared(tune__over={}), SimulatedRuns(loss))
    assert conclusion.rulings[()].words == {"muon": "no difference"}


def random_of(seed: int) -> float:
    return (seed * 7919 % 101) / 1000
