"""A declared study seen from outside: its phase and its decisions, from its journal alone."""

import json
import re

import pytest
from declared import (
    FolderRuns,
    Notes,
    SimulatedRuns,
    conclude,
    conclude_in_folder,
    declared,
    noisy,
    verdict,
)
from studies import Compare, Study

from minigpt.compare.study_ends import report_again
from minigpt.study.conduct import Unfinished
from minigpt.study.decisions import phase
from minigpt.study.declaration import declaration_of
from minigpt.study.declaration_file import read_declaration, study_folder
from minigpt.study.journal import Journal
from minigpt.study.planned import PlannedRun


def test_a_study_that_ended(study: Study, compare: Compare) -> None:
    best = {"muon": 2.0, "adamw": 1.0}
    conclude_in_folder(FolderRuns(declared(), study, noisy(0.08, best=best)))
    assert compare("--status", "--study", "a_study") == 0, compare.err
    lines = compare.out.splitlines()
    assert lines[0] == "a_study: Which optim ends lowest?"
    assert lines[1] == "  phase        ended"
    assert "  extended     muon: optim.lr_scale=4.0" in lines
    assert any(x.startswith("  chosen       muon: optim.lr_scale=2  (loss 3.8") for x in lines)
    assert any(x.startswith("  chosen       adamw: optim.lr_scale=1  (loss") for x in lines)
    assert any(x.startswith("   8 pairs     muon better -0.0") for x in lines)
    assert any(x.startswith("  best so far  muon: ") for x in lines), "its jobs come after"


def test_a_study_that_confirms(study: Study, compare: Compare) -> None:
    def loss(run: PlannedRun) -> float | None:
        return None if run.seed == 103 else noisy(0.08)(run)

    runs = FolderRuns(declared(), study, loss)
    with pytest.raises(Unfinished):
        conclude_in_folder(runs)
    with Journal(study.folder, declared(), {}) as journal:
        journal.note_folders(runs.names)
    assert compare("--status", "--study", "a_study") == 0, compare.err
    assert compare.out.splitlines()[1] == "  phase        confirm 8 pairs"
    assert compare.out.count("\n  chosen  ") == 2
    assert " pairs     muon " not in compare.out
    # what a killed command and another way to type it left
    (old,) = (study.folder / "sweeps").iterdir()
    jobs = json.loads(old.read_text())
    jobs["jobs"] = [{"overrides": ["seed=7"], "folder": "never-begun"}, *jobs["jobs"][:9]]
    old.with_name("a_study-1.json").write_text(json.dumps(jobs))
    old.unlink()
    assert compare("--status", "--study", "a_study") == 0, compare.err
    counts = re.findall(r"^  \d+ jobs: .*", compare.out, re.M)
    assert counts == ["  44 jobs: 40 done, 4 interrupted"]
    assert compare("--study", "a_study") == 1
    assert "confirm 8 pairs: 4 of 32 runs did not end" in compare.err, "the same 4"


def test_every_phase_in_order() -> None:
    """What the journal holds after each decision of an undecided study."""
    declaration, notes = declared(), Notes()
    conclude(declaration, SimulatedRuns(noisy(0.01, spread=0.05)), notes)
    assert [phase(declaration, notes[:number]) for number in range(len(notes) + 1)] == [
        "tune, 0 of 2 settings chosen",
        "tune, 1 of 2 settings chosen",
        "confirm 8 pairs",
        "confirm 16 pairs",
        "ended",
    ]


def test_other_studies_of_the_same_arms_are_named(study: Study) -> None:
    """Asked often enough, under other names, equal arms differ once."""
    runs = FolderRuns(declared(), study, noisy(0.3))
    conclude_in_folder(runs)
    for name, arms in (("again", ["adamw", "muon"]), ("other", ["lion", "adamw"])):
        with Journal(study.folder, declaration_of(name, verdict(arms=arms)), {}):
            pass
    content = read_declaration(study_folder(study.folder, "a_study"))
    assert content is not None
    said = report_again(study.folder, *content, None)
    assert "other studies here compare the same arms: again\n" in said


def test_a_study_of_another_name_is_not_shown(study: Study, compare: Compare) -> None:
    conclude_in_folder(FolderRuns(declared(), study, noisy(0.08)))
    study.run("muon", 0, 4.0, study="other", steps=7)
    assert compare("--status", "--study", "other") == 0, compare.err
    assert "phase" not in compare.out
