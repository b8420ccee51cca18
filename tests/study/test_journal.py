"""The folder of a study: one declaration, decisions that stay, changes only with a reason."""

import json
import re
from pathlib import Path

import pytest
from declared import declared
from processes import locked

from minigpt.errors import BusyError, CheckpointError, ConfigError
from minigpt.study.declaration_file import digest, read_declaration, study_folder
from minigpt.study.journal import Journal

BASE = {"muon": {"model": {"d_model": 32}}}
CHOICE = {"what": "choose", "arm": "muon", "cell": "", "setting": {}, "trials": 1, "loss": 4.0}

LOOKED = b'{"what": "look", "cell": "", "pairs": 8, "verdicts": {"muon": {"word": "better", %s}}}'


def lines(output: Path) -> list[dict[str, object]]:
    text = (study_folder(output, "a_study") / "journal.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_declaration_is_written_once(tmp_path: Path) -> None:
    with Journal(tmp_path, declared(), BASE):
        pass
    path = study_folder(tmp_path, "a_study") / "declaration.yaml"
    before = path.read_bytes()
    with Journal(tmp_path, declared(), BASE):
        pass
    assert path.read_bytes() == before
    found = read_declaration(path.parent)
    assert found is not None
    assert found[0].node == declared().node
    assert found[1]["sha256"] == digest(found[1])


def test_a_changed_declaration_is_refused_with_the_difference(tmp_path: Path) -> None:
    with Journal(tmp_path, declared(), BASE) as journal:
        journal.note(CHOICE)
    with pytest.raises(ConfigError) as error, Journal(tmp_path, declared(margin=0.02), BASE):
        pass
    assert "verdict.margin: 0.01 -> 0.02" in str(error.value)
    assert 'verdict.amend="why"' in str(error.value)
    other = {"muon": {"model": {"d_model": 64}}}
    with pytest.raises(ConfigError, match=r"run\.muon\.model\.d_model: 32 -> 64"):
        Journal(tmp_path, declared(), other).__enter__()
    assert len(lines(tmp_path)) == 1


def test_an_arm_that_came_is_named_once(tmp_path: Path) -> None:
    base = {"muon": {"optim": {"lr": 1}}, "adamw": {"optim": {"lr": 1}}}
    with Journal(tmp_path, declared(), base):
        pass
    more = base | {"lion": {"optim": {"lr": 2}}, "lion in a=1": {"seed": 0}}
    more["muon"] = {"optim": {"lr": 3}}
    changes = Journal(tmp_path, declared(arms=["muon", "adamw", "lion"], amend="a third"), more)
    assert changes.changes() == [
        "verdict.arms: ['muon', 'adamw'] -> ['muon', 'adamw', 'lion']",
        "run.muon.optim.lr: 1 -> 3",
    ]


def test_an_amendment_is_kept_for_ever(tmp_path: Path) -> None:
    with Journal(tmp_path, declared(), BASE) as journal:
        journal.note(CHOICE)
    amended = declared(confirm__looks=[8, 16, 32], amend="the spread was larger than planned")
    for _ in range(2):
        with Journal(tmp_path, amended, BASE) as journal:
            (kept,) = journal.content["amendments"]
            journal.note(CHOICE | {"loss": 5.0})
    assert kept["why"] == "the spread was larger than planned"
    assert kept["before"] != journal.content["sha256"]
    assert kept["changes"] == ["verdict.confirm.looks: [8, 16] -> [8, 16, 32]"]
    assert [line["what"] for line in lines(tmp_path)] == ["choose", "amendment", "choose"]
    with Journal(tmp_path, declared(confirm__looks=[8, 16, 32]), BASE) as journal:
        assert len(journal.content["amendments"]) == 1, (
            "typed again without the reason it is the same study"
        )


LOOK = {"what": "look", "cell": "", "pairs": 8, "verdicts": {"muon": {"word": "undecided"}}}


def test_an_amendment_keeps_the_looks_before_it(tmp_path: Path) -> None:
    """Also those before an amendment that a kill left half made."""
    with Journal(tmp_path, declared(), BASE) as journal:
        journal.note(LOOK)
        journal.note({"what": "amendment", "why": "killed while it was declared"})
    more = {"confirm__looks": [8, 16, 32]}
    with Journal(tmp_path, declared(**more, amend="more"), BASE) as journal:
        (kept,) = journal.content["amendments"]
    assert [(look["pairs"], look["verdicts"]) for look in kept["looks"]] == [(8, LOOK["verdicts"])]
    assert kept["declared_looks"] == [8, 16]
    assert kept["after_decisions"] == 1


def test_the_hash_is_of_the_base_and_of_amendments_too(tmp_path: Path) -> None:
    def sha256(margin: float, base: dict[str, object], amend: str | None = None) -> str:
        with Journal(tmp_path, declared(margin=margin, amend=amend), base) as journal:
            return str(journal.content["sha256"])

    first, other = sha256(0.01, BASE), {"muon": {"model": {"d_model": 64}}}
    found = [first, sha256(0.01, other, "wider"), sha256(0.01, BASE, "back")]
    assert len(set(found)) == 3
    assert sha256(0.01, BASE) == found[-1]


def test_decisions_are_noted_once_and_must_not_change(tmp_path: Path) -> None:
    with Journal(tmp_path, declared(), BASE) as journal:
        journal.note(CHOICE)
    with Journal(tmp_path, declared(), BASE) as journal:
        journal.note(CHOICE)
        with pytest.raises(CheckpointError, match=r"decided otherwise before.*loss: 4.0 -> 3.0"):
            journal.note(CHOICE | {"loss": 3.0})
    assert len(lines(tmp_path)) == 1


def test_a_torn_line_goes_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path, declared(), BASE) as journal:
        journal.note(CHOICE)
    path = study_folder(tmp_path, "a_study") / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"what": "loo')
    with Journal(tmp_path, declared(), BASE) as journal:
        journal.note(CHOICE)
    assert path.read_bytes() == whole
    for line, words in (
        (b"{x", "not JSON"),
        (b'{"what": NaN}', "NaN is not a finite number"),
        (b'{"what": 3}', "3"),
        (b'{"what": "choose"}', "arm is missing"),
        (b'{"what": "look", "cell": "", "pairs": 8}', "verdicts is missing"),
        (LOOKED % b'"spread": "wide"', "verdicts.muon.spread is not a number"),
        (LOOKED % b'"interval": [1]', "verdicts.muon.interval is not two numbers"),
    ):
        path.write_bytes(line + b"\n" + whole)
        with pytest.raises(CheckpointError, match=f"line 1: .*{words}"):
            Journal(tmp_path, declared(), BASE).__enter__()


def test_two_processes_do_not_conduct_one_study(tmp_path: Path) -> None:
    folder = study_folder(tmp_path, "a_study")
    folder.mkdir(parents=True)
    with locked(folder, "study"), pytest.raises(BusyError):
        Journal(tmp_path, declared(), BASE).__enter__()
    with Journal(tmp_path, declared(), BASE):
        pass


@pytest.mark.parametrize("content", ["", "x: 1", "schema: 1\nstudy: a_study\n", "- 1"])
def test_a_foreign_declaration_is_refused(tmp_path: Path, content: str) -> None:
    folder = study_folder(tmp_path, "a_study")
    folder.mkdir(parents=True)
    (folder / "declaration.yaml").write_text(content)
    with pytest.raises(CheckpointError):
        Journal(tmp_path, declared(), BASE).__enter__()
    assert (folder / "declaration.yaml").read_text() == content


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("margin: 0.01", "margin: 0.001", "its hash is another one"),
        ("amendments: []", "amendments: [1]", "amendments[0] is not a mapping"),
        ("amendments: []", "amendments: [{why: x}]", "amendments[0].changes is missing"),
        ("schema: 1", "schema: 2", "schema 2, expected 1"),
        ("margin: 0.01", "margin: .nan", "nan is not a finite number"),
        ("declared: '", "declared: 'x", "declared is not a time"),
        ("base:\n", "x: &a [1]\ny: *a\nbase:\n", "an alias"),
        ("base:\n", "x: !!python/name:os.system ''\nbase:\n", "not YAML"),
    ],
)
def test_a_damaged_declaration_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    with Journal(tmp_path, declared(), BASE):
        pass
    path = study_folder(tmp_path, "a_study") / "declaration.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match=re.escape(words)):
        Journal(tmp_path, declared(margin=0.001), BASE).__enter__()
