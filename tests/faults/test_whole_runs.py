"""Numbers that go wrong, errors in mid-step, odd folders and clocks: as whole runs."""

import json
import os
import platform
from pathlib import Path
from statistics import linear_regression
from typing import Any

import pytest
import torch
from driver import SIX, Pool, goes_on, result, run_folder
from fault_table import Tries
from runs import rows
from safetensors.torch import load_file

from minigpt import verify
from minigpt.checkpoint.layout import step_of, steps_on_disk

POISONED = [*SIX, "model._target_=poisoned.Poisoned", "train.micro_batch_size=8"]  # one call a step


def finite(folder: Path) -> bool:
    """Whether all weights and all optimizer state of all checkpoints are finite."""
    files = list(folder.glob("checkpoints/*/*.safetensors"))
    assert {path.name for path in files} == {"model.safetensors", "optimizer.safetensors"}
    return all(torch.isfinite(t).all() for path in files for t in load_file(path).values())


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.faults(46)
@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bad_step_is_skipped_and_counted(
    pool: Pool, tmp_path: Path, tokens: list[str], kind: str, precision: str
) -> None:
    command = [*POISONED, *tokens, f"train.precision={precision}"]
    outcome = pool.run(tmp_path, command, environment={"POISON": f"{kind}:3:4"})
    assert outcome.code == 0, outcome.said
    folder = run_folder(tmp_path)
    assert summary_of(folder)["skipped_steps"] == 2
    assert finite(folder)
    assert verify.line_about(folder)[0], verify.line_about(folder)[1]


@pytest.mark.faults(46)
def test_bad_steps_in_a_row_end_the_run_and_no_bad_weight_is_written(
    pool: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    command = [*POISONED, *tokens, "train.max_bad_steps=2"]
    outcome = pool.run(tmp_path, command, environment={"POISON": "nan:4:9"})
    assert outcome.code == 5, outcome.said
    error = "error: diverged: step 5: 2 non-finite steps in a row (train.max_bad_steps=2)"
    assert error in outcome.said
    assert "Traceback" not in outcome.said
    folder = run_folder(tmp_path)
    assert summary_of(folder)["status"] == "diverged"
    assert finite(folder)


@pytest.mark.faults(46)
def test_a_run_stopped_among_bad_steps_takes_them_again_from_the_last_good_checkpoint(
    pool: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    """Steps 3 and 4 are bad: nothing is saved there, and step 2 is where the run goes on."""
    command = [*POISONED, *tokens, "train.max_bad_steps=3"]
    assert pool.run(tmp_path / "straight", command, environment={"POISON": "nan:3:4"}).code == 0
    expected = result(run_folder(tmp_path / "straight"))
    for again, code in (("nan:1:2", 0), ("nan:1:3", 5)):
        folder, stop = tmp_path / again, [*command, "train.stop_after=4"]
        stopped = pool.run(folder, stop, environment={"POISON": "nan:3:4"})
        assert stopped.code == 0, stopped.said
        (saved,) = (run_folder(folder) / "checkpoints").iterdir()
        assert saved.name == "step_00000002"
        assert pool.run(folder, command, environment={"POISON": again}).code == code
        assert code or result(run_folder(folder)) == expected


@pytest.mark.faults(47)
def test_fp16_overflow_lowers_the_scale_and_no_optimizer_steps(
    pool: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    """Muon and AdamW in one run: both skip, both go on."""
    command = [*POISONED, *tokens, "train.precision=fp16"]
    outcome = pool.run(tmp_path, command, environment={"POISON": "inf:3:3"})
    assert outcome.code == 0, outcome.said
    scales = {row["step"]: row["scale"] for row in rows(run_folder(tmp_path)) if "scale" in row}
    assert scales[3] == scales[2] / 2
    assert summary_of(run_folder(tmp_path))["skipped_steps"] == 1
    assert finite(run_folder(tmp_path))


@pytest.mark.faults(47)
def test_a_scale_below_one_ends_the_run(pool: Pool, tmp_path: Path, tokens: list[str]) -> None:
    command = [*POISONED, *tokens, "train.precision=fp16", "train.steps=40"]
    command += ["train.max_bad_steps=100"]
    outcome = pool.run(tmp_path, command, environment={"POISON": "inf:3:99"})
    assert outcome.code == 5, outcome.said
    assert finite(run_folder(tmp_path))


@pytest.mark.faults(48)
@pytest.mark.parametrize("kind", ["zero", "ignored", "spike"])
def test_zero_gradients_and_a_spike_are_logged_and_gone_through(
    pool: Pool, tmp_path: Path, tokens: list[str], kind: str
) -> None:
    """Ignored: no target of a batch counts."""
    outcome = pool.run(tmp_path, [*POISONED, *tokens], environment={"POISON": f"{kind}:3:3"})
    assert outcome.code == 0, outcome.said
    (norm,) = (
        row["grad_norm"]
        for row in rows(run_folder(tmp_path))
        if row["step"] == 3 and "grad_norm" in row
    )
    assert norm > 100 if kind == "spike" else norm == 0
    assert finite(run_folder(tmp_path))


SPIKES = [
    *POISONED, "train.skip_spikes=5", "train.steps=24", "checkpoint.every=10", "eval.every=10",
    "sample.every=null",
]  # fmt: skip
SLOW = pytest.mark.slow


@pytest.mark.faults(48)
@pytest.mark.parametrize("stop", [pytest.param(8, marks=SLOW), 18, pytest.param(21, marks=SLOW)])
def test_a_skipped_spike_is_counted_and_a_resumed_run_skips_the_same(
    pool: Pool, tmp_path: Path, tokens: list[str], stop: int
) -> None:
    """Step 21 is one. Stopped before there are norms enough to judge by, later, and behind it."""
    command = [*SPIKES, *tokens]
    outcome = pool.run(tmp_path / "straight", command, environment={"POISON": "spike:21:21"})
    assert outcome.code == 0, outcome.said
    straight = run_folder(tmp_path / "straight")
    skipped = {row["step"]: row["skipped"] for row in rows(straight) if "skipped" in row}
    assert skipped == {21: 1}
    assert summary_of(straight)["skipped_steps"] == 1
    assert finite(straight)
    saved = 0  # no checkpoint is saved at a bad step: the one before serves
    for steps in [f"train.stop_after={stop}"], []:
        poison = f"spike:{21 - saved}:{21 - saved}"
        outcome = pool.run(tmp_path / "stopped", [*command, *steps], environment={"POISON": poison})
        assert outcome.code == 0, outcome.said
        saved = step_of(steps_on_disk(run_folder(tmp_path / "stopped") / "checkpoints")[-1])
    assert result(run_folder(tmp_path / "stopped")) == result(straight)


@pytest.mark.faults(48)
def test_spikes_without_end_end_the_run(pool: Pool, tmp_path: Path, tokens: list[str]) -> None:
    command = [*SPIKES, *tokens, "train.max_bad_steps=2"]
    outcome = pool.run(tmp_path, command, environment={"POISON": "spike:20:99"})
    assert outcome.code == 5, outcome.said
    error = "error: diverged: step 21: 2 skipped steps in a row (train.max_bad_steps=2)"
    assert error in outcome.said


def growth(pool: Pool, folder: Path, tokens: list[str], leak: int, steps: int) -> float:
    """Bytes of memory that a run gains with each step from step 500 on: a straight line's slope."""
    folder.mkdir()
    command = [
        *SIX, *tokens, "model._target_=poisoned.Weighed", "model.d_model=16",
        f"train.steps={steps}", "train.micro_batch_size=8",
        "eval.every=100", "checkpoint.every=100", "sample.every=null",
    ]  # fmt: skip
    environment = {"RSS": str(folder / "rss"), "LEAK": str(leak)}
    # root: the injector would keep every operation, which is a leak of 250 bytes a step.
    outcome = pool.run(folder, command, root="nowhere", environment=environment)
    assert outcome.code == 0, outcome.said
    bytes_at = [int(line) for line in (folder / "rss").read_text().split()]
    assert len(bytes_at) == steps // 100
    return linear_regression(range(500, steps + 1, 100), bytes_at[4:]).slope


@pytest.mark.slow
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="reads /proc and asks glibc to return free memory"
)
@pytest.mark.faults(49)
def test_memory_does_not_grow_with_the_steps(pool: Pool, tmp_path: Path, tokens: list[str]) -> None:
    """2,000 steps, each with a row, every hundredth with an evaluation and a checkpoint.

    Allowed are 1,000 bytes a step, what a kept row takes. Python fills arenas of 1 MiB: noise.
    """
    assert growth(pool, tmp_path / "run", tokens, 0, 2000) < 1000
    assert growth(pool, tmp_path / "leaking", tokens, 4096, 1000) > 3000, "a leak would be seen"


@pytest.mark.faults(9)
@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_running_out_of_memory_in_mid_step_keeps_the_last_good_checkpoint(
    pool: Pool, tmp_path: Path, tokens: list[str], at: int, tries: Tries
) -> None:
    """One line says what needs less; the same command goes on from the checkpoint."""
    # two calls a step: in the middle of accumulation
    command, poison = [*POISONED, *tokens, "train.micro_batch_size=4"], f"raise:{2 * at}:{2 * at}"
    assert pool.run(tmp_path / "straight", command).code == 0
    with tries.one():
        broken = pool.run(tmp_path / "broken", command, environment={"POISON": poison})
        assert broken.code == 2
        assert "out of memory: train.micro_batch_size=4 (less is needed by" in broken.said
        assert "Traceback" not in broken.said
        saved = sorted((run_folder(tmp_path / "broken") / "checkpoints").iterdir())
        last = (at - 1) // 2 * 2  # the one before it stays until a good step proves the last
        assert [path.name for path in saved] == [f"step_{n:08d}" for n in (last - 2, last) if n > 0]
        goes_on(pool, tmp_path / "broken", command, result(run_folder(tmp_path / "straight")))


@pytest.mark.faults(14)
@pytest.mark.parametrize(
    "name", ["with spaces", "Ünïcödé ✓", "line\nbreak", "quote's", "a,b=c", "${x}", "n" * 200]
)
def test_folders_of_any_name(pool: Pool, tmp_path: Path, tokens: list[str], name: str) -> None:
    command = [argument for argument in SIX if not argument.startswith("output_dir=")]
    outcome = pool.run(tmp_path, [*command, *tokens, f"output_dir={tmp_path / name}"], direct=False)
    assert "Traceback" not in outcome.said
    if "\n" in name:
        assert outcome.code in (0, 2), outcome.said
        return
    assert outcome.code == 0, outcome.said
    assert list((tmp_path / name).glob("*/summary.json"))


@pytest.mark.faults(14)
def test_a_name_too_long_for_the_disk(pool: Pool, tmp_path: Path, tokens: list[str]) -> None:
    command = [argument for argument in SIX if not argument.startswith("output_dir=")]
    too_long = f"output_dir={tmp_path / ('n' * 300)}"
    outcome = pool.run(tmp_path, [*command, *tokens, too_long], direct=False)
    assert outcome.code == 6, outcome.said
    assert "Traceback" not in outcome.said
    assert outcome.said.count("error: cannot write") == 1


@pytest.mark.faults(17, 18)
def test_times_of_files_and_leftovers_mean_nothing(
    pool: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    """Newer than tomorrow or older than 1980, in the wrong order, with strangers beside them."""
    command = [*SIX, *tokens, "checkpoint.keep=5"]
    assert pool.run(tmp_path / "straight", command).code == 0
    folder = tmp_path / "odd"
    assert pool.run(folder, [*command, "train.stop_after=5"]).code == 0
    run = run_folder(folder)
    for number, path in enumerate(sorted((run / "checkpoints").iterdir(), reverse=True)):
        os.utime(path, (number * 10**9, number * 10**9))
    (run / "checkpoints" / ".tmp-step_00000099-01234567").mkdir()
    (run / "checkpoints" / "step_00000099.bak").mkdir()
    (run / "checkpoints" / "step_99").mkdir()
    (run / ".tmp-summary.json-01234567").write_text("{")
    said = goes_on(pool, folder, command, result(run_folder(tmp_path / "straight")))
    assert "resuming at step 5" in said
