"""Doubts that a reader must be told, and times that are not comparable."""

import math
import re
from typing import Any

import pytest
from studies import Compare, Study


def wobble(seed: int, own: float = 0.0) -> float:
    return 0.01 * math.sin(seed * 12.9898) + 0.003 * math.sin(seed * 78.233 + own)


def pairs(study: Study, **muon: Any) -> None:
    for seed in range(100, 108):
        for steps in (100, 200):
            study.run("adamw", seed, 4.0 - 0.1 * math.log2(steps) + wobble(seed), steps=steps)
            loss = 3.95 - 0.1 * math.log2(steps) + wobble(seed, 1)
            study.run("muon", seed, loss, steps=steps, **muon)


def ratios(compare: Compare) -> list[str]:
    """tokens, steps, FLOPs, seconds of the longest budget."""
    lines = compare.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Budget to"))
    return [part.strip() for part in lines[start + 2].split("  ") if part.strip()][2:6]


def test_flops_and_seconds_follow_from_tokens(study: Study, compare: Compare) -> None:
    pairs(study, step_time_s=0.02)
    assert compare("--by", "optim") == 0
    tokens, steps, flops, seconds = (float(text.partition("x")[0]) for text in ratios(compare))
    assert tokens == pytest.approx(2**-0.5, abs=0.02)
    assert steps == tokens
    assert flops == pytest.approx(1.25 * tokens, abs=0.02)  # the optimizer adds a quarter
    assert seconds == pytest.approx(2 * tokens, abs=0.03)  # a step takes twice as long
    assert "no seconds" not in compare.out


def test_runs_that_shared_the_machine_give_no_seconds(study: Study, compare: Compare) -> None:
    pairs(study, overlapping=True)
    assert compare("--by", "optim") == 0
    assert ratios(compare)[3] == "unknown"
    assert "no seconds: no run had its machine to itself; run one of each arm alone" in compare.out


CHOSEN = {
    "device": "cpu",
    "precision": "fp32",
    "compile": False,
    "deterministic": False,
    "threads": 1,
    "micro_batch_size": 8,
}


@pytest.mark.parametrize(
    ("key", "value"), [("threads", 2), ("precision", "bf16"), ("device", "cuda")]
)
def test_another_path_gives_no_seconds_and_is_named(
    study: Study, compare: Compare, key: str, value: object
) -> None:
    pairs(study, record={"chosen": CHOSEN | {key: value}})
    assert compare("--by", "optim") == 0
    assert ratios(compare)[3] == "unknown"
    assert f"different {key} (" in compare.out
    assert f"paths differ in {key}" in compare.out


def test_another_host_gives_no_seconds(study: Study, compare: Compare) -> None:
    pairs(study, record={"hardware": {"host": "other", "device": "x86_64"}})
    assert compare("--by", "optim") == 0
    assert ratios(compare)[3] == "unknown"
    assert "different hosts (other, vm)" in compare.out


def test_changed_code_is_named_and_other_optimizers_are_not(study: Study, compare: Compare) -> None:
    pairs(study)
    assert compare("--by", "optim") == 0
    assert "changed code" not in compare.out
    source = {"minigpt.train.loop": "9" * 16, "minigpt.optim.muon": "2" * 16}
    changed = study.run("muon", 108, 3.0, record={"source": source})
    assert compare("--by", "optim") == 0
    modules = "minigpt.optim.muon, minigpt.train.loop"
    assert f"changed code: runs were computed by different versions of {modules}" in compare.out
    assert changed.name in compare.out


def test_mixed_unfinished_and_failed_runs_are_named(study: Study, compare: Compare) -> None:
    pairs(study)
    mixed = study.run("muon", 108, 3.0, record={"mixed": ["code changed: minigpt/train/loop.py"]})
    unfinished = study.run("muon", 109, None)
    failed = study.run("adamw", 110, None)
    (failed / "failed.json").write_text(
        '{"error": "out of memory", "exit_code": 1, "time": "2026-01-01T00:00:00"}'
    )
    assert compare("--by", "optim") == 0
    change = "code changed: minigpt/train/loop.py"
    assert f"mixed runs, went on after a change ({change}): {mixed.name}" in compare.out
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
    assert compare("--by", "optim") == 0
    assert "adamw: its grid is coarse: between two of its points" in compare.out
    assert "the loss may be 0.0400 lower" in compare.out
    for seed in (0, 1):
        for doublings in (-1, 1):
            study.run("adamw", seed, 4.0 + 0.01, lr=0.01 * 2.0**doublings)
    assert compare("--by", "optim") == 0
    assert "its grid is coarse" not in compare.out


def test_a_branched_run_spent_only_its_own_steps(study: Study, compare: Compare) -> None:
    for seed in (100, 101):
        study.run("adamw", seed, 4.0 + seed / 1000, steps=5_000)  # 50 s each
        study.run(
            "muon",
            seed,
            3.9 + seed / 999,
            steps=5_000,
            record={"branched_from": {"run": "x", "step": 4_000}},
        )
    assert compare("--by", "optim") == 0
    lines = [
        line for line in compare.out.splitlines() if line.startswith(("  adamw (b", "  muon  "))
    ]
    assert [line.split()[-2:] for line in lines] == [["(100", "s)"], ["(20", "s)"]]


def test_seconds_of_one_seed_have_no_interval(study: Study, compare: Compare) -> None:
    for steps in (100, 200):
        study.run("adamw", 100, 4.0 - 0.1 * math.log2(steps), steps=steps)
        study.run("muon", 100, 3.95 - 0.1 * math.log2(steps), steps=steps)
    assert compare("--by", "optim") == 0
    assert [text.endswith("(one seed, no interval)") for text in ratios(compare)] == [True] * 4


def test_an_interval_never_shows_a_ratio_that_was_not_measured(
    study: Study, compare: Compare
) -> None:
    for seed in range(100, 108):
        for steps in (100, 200):
            study.run(
                "adamw", seed, 4.0 - 0.1 * math.log2(steps / 100) + 4 * wobble(seed, 5), steps=steps
            )
            # Almost as good as the baseline at twice the budget: the ratio is near the shortest one
            # measured.
            study.run(
                "muon", seed, 3.905 - 0.1 * math.log2(steps / 100) + 4 * wobble(seed), steps=steps
            )
    assert compare("--by", "optim") == 0
    assert ratios(compare)[0].startswith("0.5")
    assert "(below 0.50 to 0." in ratios(compare)[0]


def test_a_restless_machine_is_named(study: Study, compare: Compare) -> None:
    for seed in range(100, 104):
        study.run("adamw", seed, 4.0 + seed / 1000, step_time_s=0.01)
        study.run("muon", seed, 3.9 + seed / 999, step_time_s=0.01 if seed % 2 else 0.02)
    assert compare("--by", "optim") == 0
    assert "muon: its step times differ by 40 % from run to run" in compare.out
    assert "adamw: its step times" not in compare.out


def test_flops_of_an_optimizer_that_does_not_tell_are_no_number(
    study: Study, compare: Compare
) -> None:
    pairs(study, summary={"optimizer_flops_share": None})
    assert compare("--by", "optim") == 0, compare.err
    tokens, steps, flops, _ = ratios(compare)
    assert tokens.startswith(steps.partition("x")[0])
    assert flops == "unknown"
    assert "muon: its FLOPs are unknown" in compare.out
    assert "adamw: its FLOPs" not in compare.out


def test_a_step_time_lies_in_its_own_interval(study: Study, compare: Compare) -> None:
    """Fast runs and slow ones: their median is far from the mean that the interval is around."""
    for seed, ms in zip(range(100, 109), (18, 18, 18, 18, 18, 24, 24, 24, 24), strict=True):
        for arm in ("muon", "adamw"):
            study.run(arm, seed, 3.0 + wobble(seed), step_time_s=ms / 1000, steps=100)
    report = study.folder / "report"
    assert compare("--by", "optim", "--out", str(report)) == 0, compare.err
    table = (report / "report.md").read_text().partition("What a run costs")[2]
    row = next(line for line in table.splitlines() if line.startswith("| muon"))
    cells = re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", row)
    assert cells
    for value, low, high in cells:
        assert float(low) <= float(value) <= float(high)
