"""`python -m minigpt.runs`: every run has a row, whatever the others are."""

import importlib
import json
import shutil
import time

import pytest
from studies import Study

runs = importlib.import_module("minigpt.runs")


def test_runs_are_listed_selected_sorted_and_a_bad_folder_says_why(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, loss in ((0, 3.2), (1, 3.1), (2, None)):
        typed = {"overrides": ["data=one_play", f"seed={seed}", "log.every=3"]}
        study.run("muon", seed, loss, record=typed)
    weak = {"worse_than_unigram": True, "unigram_loss": 2.0}
    study.run("adamw", 0, 3.3, study="other", summary=weak, record={"overrides": ["optim=adamw"]})
    (study.folder / "bad").mkdir()
    (study.folder / "bad" / "run.json").write_text("{")
    outputs = str(study.folder)

    def listed(*options: str) -> list[dict[str, object]]:
        assert runs.main([outputs, *options, "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    rows = listed("--sort", "val_loss")
    assert [row.get("val_loss") for row in rows] == [3.1, 3.2, 3.3, None, None]
    assert [row["status"] for row in rows[-2:]] == ["unfinished", "unreadable"]
    assert rows[0]["differs"] == "data=one_play seed=1"
    assert [row["val_loss"] for row in listed("--where", "optim=adamw")] == [3.3]
    assert [row["val_loss"] for row in listed("--where", "study=other")] == [3.3]
    assert len(listed("--where", "status=finished", "optim.hidden.lr=0.02", "seed=0")) == 2
    assert "-s2-" in str(listed("--sort=-seed")[0]["run"])
    assert runs.main([outputs]) == 0
    text = capsys.readouterr().out
    assert "  bad: run.json: not JSON" in text
    assert "finished (worse than unigram)" in text
    assert runs.main([outputs, "--csv"]) == 0
    assert capsys.readouterr().out.startswith("run,differs,study,status,step,steps,val_loss,")
    for wrong in (["--sort", "sead"], ["--where", "sead=1"], ["--where", "seed=9"]):
        assert runs.main([outputs, *wrong]) == 2
    assert "sead" in capsys.readouterr().err


@pytest.mark.slow
def test_a_thousand_runs_are_listed_in_two_seconds(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study.run("muon", 0, 3.2)
    for number in range(1000):
        shutil.copytree(folder, study.folder / f"copy-{number:08x}")
    begin = time.process_time()
    assert runs.main([str(study.folder)]) == 0
    assert time.process_time() - begin < 2
    assert len(capsys.readouterr().out.splitlines()) == 1002
