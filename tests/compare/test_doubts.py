"""Doubts that a reader must be told, and times that are not comparable."""

import json
import math
import re
import shutil
from typing import Any

import pytest
from studies import Compare, Study, wobble

from minigpt.compare.__main__ import main


def pairs(study: Study, **muon: Any) -> None:
    for seed in range(100, 108):
        for steps in (100, 200):
            study.run("adamw", seed, 4.0 - 0.1 * math.log2(steps) + wobble(seed), steps=steps)
            loss = 3.95 - 0.1 * math.log2(steps) + wobble(seed, 1)
            study.run("muon", seed, loss, steps=steps, **muon)


def ratios(compare: Compare) -> dict[str, str]:
    """What muon needs for the baseline's loss, by cost."""
    return dict(re.findall(r"^  muon +(\w+) +(\S+)x \(", compare.out, re.MULTILINE))


def test_flops_and_seconds_follow_from_tokens(study: Study, compare: Compare) -> None:
    pairs(study, step_time_s=0.02)
    assert compare("--by", "optim") == 0
    found = {cost: float(ratio) for cost, ratio in ratios(compare).items()}
    assert found["tokens"] == pytest.approx(2**-0.5, abs=0.02)
    # the optimizer adds a quarter
    assert found["FLOPs"] == pytest.approx(1.25 * found["tokens"], abs=0.02)
    # a step takes twice as long
    assert found["seconds"] == pytest.approx(2 * found["tokens"], abs=0.02)
    assert "no seconds" not in compare.out


def test_runs_that_shared_the_machine_have_rough_seconds(study: Study, compare: Compare) -> None:
    pairs(study, overlapping=True)
    assert compare("--by", "optim") == 0
    shared = "seconds are of runs side by side" in compare.out
    assert shared or "no seconds: arms shared the machine" in compare.out


CHOSEN = {"device": "cpu", "precision": "fp32", "compile": False, "threads": 1}


@pytest.mark.parametrize(
    ("key", "value", "plural"),
    [("threads", 2, "threads"), ("precision", "bf16", "precisions"), ("device", "cuda", "devices")],
)
def test_another_path_gives_no_seconds_and_is_named(
    study: Study, compare: Compare, key: str, value: object, plural: str
) -> None:
    pairs(study, record={"chosen": CHOSEN | {key: value}})
    assert compare("--by", "optim") == 0
    assert ratios(compare).keys() == {"tokens", "FLOPs"}
    assert f"no seconds: runs of different {plural}" in compare.out
    aligned = f"muon: train.{key} differs with the arm ({value} for muon, {CHOSEN[key]} for adamw)"
    assert (aligned in compare.out) == (key != "threads")


def test_another_host_gives_no_seconds(study: Study, compare: Compare) -> None:
    pairs(study, record={"hardware": {"host": "other", "device": "x86_64"}})
    assert compare("--by", "optim") == 0
    assert "no seconds: runs of different hosts" in compare.out


def test_changed_code_is_named_and_other_optimizers_are_not(study: Study, compare: Compare) -> None:
    pairs(study)
    assert compare("--by", "optim") == 0
    assert "differ in" not in compare.out
    source = {"minigpt.train.loop": "9" * 16, "minigpt.optim.muon": "2" * 16}
    for steps in (100, 200):
        study.run("adamw", 108, 4.0, steps=steps)
        changed = study.run("muon", 108, 3.9, steps=steps, record={"source": source})
    assert compare("--by", "optim") == 0
    modules = "code of minigpt.optim.muon, code of minigpt.train.loop"
    assert f"judged runs differ in {modules}; one side: " in compare.out
    assert changed.name in compare.out


def test_code_that_changed_with_the_arm_is_named(study: Study, compare: Compare) -> None:
    pairs(study, record={"source": {"minigpt.train.loop": "9" * 16}})
    assert compare("--by", "optim") == 0
    assert "muon: code of minigpt.train.loop differs with the arm" in compare.out


def test_mixed_unfinished_and_failed_runs_are_named(study: Study, compare: Compare) -> None:
    pairs(study, record={"mixed": ["code changed: minigpt/train/loop.py"]})
    unfinished = study.run("muon", 109, None)
    failed = study.run("adamw", 110, None)
    (failed / "failed.json").write_text('{"error": "out of memory", "exit_code": 1}')
    assert compare("--by", "optim") == 0
    assert "runs went on after a change: code changed: minigpt/train/loop.py" in compare.out
    assert f"muon: 1 unfinished: {unfinished.name}" in compare.out
    assert f"adamw: 1 failed: {failed.name}" in compare.out


def test_an_axis_that_one_arm_alone_tuned_is_named(study: Study, compare: Compare) -> None:
    for seed in (0, 1):
        for lr in (0.01, 0.02, 0.04):
            study.run("adamw", seed, 4.0 + lr, lr=lr)
            for momentum in (0.9, 0.95):
                study.run("muon", seed, 4.0 + lr, lr=lr, config={"optim.hidden.momentum": momentum})
    assert compare("--by", "optim") == 0
    assert "adamw: not tuned over optim.hidden.momentum, which another arm was" in compare.out


def test_a_claim_smaller_than_what_a_coarse_grid_hides_is_doubted(
    study: Study, compare: Compare
) -> None:
    # Factors of 16 apart and a curvature of 0.01: half a step (2 doublings) from the best point may
    # hide 0.04.
    for arm, base in (("adamw", 4.0), ("muon", 3.97)):
        for doublings in (-4, 0, 4):
            for seed in (0, 1):
                study.run(arm, seed, base + 0.01 * doublings**2, lr=0.01 * 2.0**doublings)
        for seed in range(100, 108):
            study.run(arm, seed, base + wobble(seed, len(arm)), lr=0.01)
    doubt = "between the points of optim.lr an arm may end lower by more than the margin of 0.01"
    assert compare("--by", "optim", "--margin", "0.01") == 0
    assert f"{doubt} (adamw by up to 0.0400, muon by up to 0.0400)" in compare.out
    for seed in (0, 1):
        for doublings in (-1, 1):
            study.run("adamw", seed, 4.0 + 0.01, lr=0.01 * 2.0**doublings)
    assert compare("--by", "optim", "--margin", "0.01") == 0
    assert f"{doubt} (muon by up to 0.0400)" in compare.out


def test_one_seed_has_no_interval(study: Study, compare: Compare) -> None:
    for steps in (100, 200):
        study.run("adamw", 100, 4.0 - 0.1 * math.log2(steps), steps=steps)
        study.run("muon", 100, 3.95 - 0.1 * math.log2(steps), steps=steps)
    assert compare("--by", "optim") == 0
    assert compare.out.count("(no interval)") == 6, "ratios and differences of three costs"
    assert not re.search(r"\b(nan|inf)\b", compare.out)


def test_flops_of_an_optimizer_that_does_not_tell_are_no_number(
    study: Study, compare: Compare
) -> None:
    pairs(study, summary={"optimizer_flops_share": None})
    assert compare("--by", "optim") == 0, compare.err
    assert ratios(compare).keys() == {"tokens", "seconds"}
    assert "FLOPs unknown: muon" in compare.out


def lines_of(compare: Compare, words: str) -> list[str]:
    return [line for line in compare.out.splitlines() if words in line]


def test_seeds_without_a_pair_are_named(study: Study, compare: Compare) -> None:
    pairs(study)
    study.run("adamw", 108, 9.0, steps=200)
    study.run("muon", 109, 1.0, steps=200)
    assert compare("--by", "optim") == 0
    assert "muon ended lower than adamw: -0.0" in compare.out, "they move nothing"
    assert "muon has no ended run of seed 108, which adamw has" in compare.out
    assert "adamw has no ended run of seed 109, which muon has" in compare.out


def test_a_pilot_at_a_longer_budget_hides_no_pairs(study: Study, compare: Compare) -> None:
    pairs(study)
    study.run("muon", 100, 9.0, steps=900)
    study.run("adamw", 100, 1.0, steps=900)
    study.run("muon", 100, 9.0, steps=950)
    assert compare("--by", "optim") == 0
    assert "Exploratory, at 102,400 tokens: muon ended lower than adamw" in compare.out
    others = "budgets without a pair of the settings shown here: 486,400 tokens (muon)"
    assert others in compare.out


def test_an_arm_of_few_seeds_costs_the_others_nothing(study: Study, compare: Compare) -> None:
    pairs(study)
    assert compare("--by", "optim") == 0
    (alone,) = lines_of(compare, "muon ended lower")
    study.run("lion", 100, 1.0, steps=200)
    study.run("sgd", 200, 1.0, steps=200)
    assert compare("--by", "optim", "--baseline", "adamw") == 0
    assert lines_of(compare, "muon ended lower") == [alone]
    assert "lion against adamw is undecided" in compare.out
    left_out = "sgd: not judged: it has no ended seed in common with adamw at 102,400 tokens"
    assert left_out in compare.out


@pytest.mark.parametrize("more", [{}, {"optim.lr_scale": 1.0}])
def test_settings_tried_on_the_seeds_that_judge_were_chosen_by_them(
    study: Study, compare: Compare, more: dict[str, float]
) -> None:
    """A seed more of the winner does not make it the only setting that was tried."""
    for seed in range(100, 109):
        study.run("adamw", seed, 4.0 + wobble(seed))
        for lr in (0.01, 0.02, 0.04):
            if lr == 0.02 or seed < 108:
                study.run("muon", seed, 3.9 + wobble(seed, lr), lr=lr, config=more)
    assert compare("--by", "optim") == 0
    (line,) = lines_of(compare, "[")[:1]
    assert "muon against adamw is undecided" in line or "adamw against muon is undecided" in line
    assert "its seeds chose the settings" in line


def test_a_setting_that_has_only_the_easy_seed_is_not_chosen(
    study: Study, compare: Compare
) -> None:
    for arm in ("adamw", "muon"):
        for lr in (0.01, 0.02):
            for seed, level in ((0, 3.0), (1, 5.0)):
                study.run(arm, seed, level + lr, lr=lr)
        for seed in range(100, 108):
            study.run(arm, seed, 4.0 + wobble(seed, len(arm)), lr=0.01)
    study.run("muon", 0, 3.5, lr=0.04)
    assert compare("--by", "optim") == 0
    assert re.search(r"muon +optim.lr=0.01 +4.0100", compare.out)
    assert "muon: not chosen from, since not tried on seeds 0, 1: optim.lr=0.04" in compare.out


def test_a_run_that_a_sweep_recorded_and_that_is_gone_is_missed(
    study: Study, compare: Compare
) -> None:
    folders = [study.run(arm, seed, 3.0) for arm in ("muon", "adamw") for seed in (100, 101, 102)]
    (study.folder / "sweeps").mkdir()
    jobs = [{"overrides": ["seed=1"], "folder": folder.name} for folder in folders]
    jobs.append({"overrides": [], "folder": "x-00000000", "failed": None, "study": "other"})
    content = {"schema": 1, "study": "s", "command": ["train.py", "-m"], "jobs": jobs}
    (study.folder / "sweeps" / "s-abc.json").write_text(json.dumps(content))
    gone = "in records of sweeps, but not here (not begun, or deleted): "
    assert compare("--by", "optim", "--study", "s") == 0, compare.err
    assert gone not in compare.out
    for folder in (folders[2], folders[5]):
        shutil.rmtree(folder)
    assert compare("--by", "optim", "--study", "s") == 0, compare.err
    shown = ", ".join(sorted(folder.name for folder in (folders[2], folders[5])))
    assert f"  - {gone}{shown}\n" in compare.out
    assert main([*map(str, folders[:2]), *map(str, folders[3:5]), "--by", "optim"]) == 0
    assert gone not in compare.capsys.readouterr().out, "only these were asked for"
