"""The scripts of experiments/calibration: they run, and find what they should."""

import csv
import json
import math
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from runs import ROOT, load_script
from studies import Study

FOLDER = ROOT / "experiments" / "calibration"


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def script(name: str) -> ModuleType:
    return load_script(FOLDER / f"{name}.py")


def test_equal_arms_are_claimed_different_in_five_percent_of_studies() -> None:
    simulate = script("simulate")
    p = simulate.Parameters(**json.loads((FOLDER / "parameters.json").read_text()))
    tally = simulate.simulate(simulate.replace(p, curvature=0.0), "equal", 0.0, 400, seed=1)
    assert tally.studies == 400
    assert 0.02 < (tally.lower + tally.higher) / 400 < 0.09
    assert 0.91 < tally.covered / 400 < 0.98
    strong = simulate.simulate(p, "strong", -5 * p.seed_sd, 60, seed=2)
    assert strong.lower / 60 > 0.95
    assert strong.ratio_covered / strong.ratios > 0.85


def test_the_simulation_writes_its_table_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate = script("simulate")
    monkeypatch.setattr(sys, "argv", ["simulate.py", "--studies", "4", "--out", str(tmp_path)])
    simulate.main()
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(rows) == 9
    assert rows[0]["scenario"] == "equal arms, settings do not matter"
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_measured_parameters_are_those_the_runs_were_made_with(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(0)
    shared = [draw.gauss(0, 0.006) for _ in range(140)]

    def loss(lr: float, seed: int, steps: int) -> float:
        doublings = math.log2(steps / 400)
        curve = 4.0 - 0.12 * doublings + 0.01 * doublings**2
        return curve + 0.5 * math.log2(lr / 0.02) ** 2 + shared[seed] + draw.gauss(0, 0.003)

    for arm in ("adamw", "muon"):
        study.tuned_and_confirmed(
            arm, loss, (0.01, 0.02, 0.04), 0.02, confirm=range(100, 140), steps=(100, 200, 400)
        )
    monkeypatch.setattr(sys, "argv", ["measure.py", str(study.folder), "--study", "s"])
    assert script("measure").main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seed_sd"] == pytest.approx(math.hypot(0.006, 0.003), rel=0.2)
    assert found["seed_sd_new"] == pytest.approx(math.hypot(0.006, 0.003), rel=0.2)
    assert found["seed_correlation"] == pytest.approx(0.8, abs=0.12)
    assert found["curvature"] == pytest.approx(0.5, abs=0.02)
    assert found["slope_per_doubling"] == pytest.approx(-0.12, abs=0.01)
    assert found["slope_flattening"] == pytest.approx(0.02, abs=0.01)
    assert found.keys() == json.loads((FOLDER / "parameters.json").read_text()).keys()


def test_null_pairs_are_read_from_runs(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw = random.Random(1)
    monkeypatch.setattr(sys, "argv", ["null_pairs.py", str(study.folder), "--out", str(tmp_path)])
    null_pairs = script("null_pairs")
    monkeypatch.setattr(null_pairs, "STUDIES", 400)
    for seed in range(100, 124):
        for eps in (1e-10, 1e-9):
            study.run("adamw", seed, draw.gauss(4.0, 0.005), config={"optim.hidden.eps": eps})
        if seed == 110:
            assert null_pairs.main() == 2
            assert "too few pairs: 11" in capsys.readouterr().err
    assert null_pairs.main() == 0
    out = capsys.readouterr().out
    assert "24 pairs, all together" in out
    assert "cut into 3 studies of 8" in out
    assert (tmp_path / "null_pairs.png").is_file()
