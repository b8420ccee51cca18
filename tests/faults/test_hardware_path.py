"""Checkpoints cross between compiled and eager code, GPU and CPU: told, and loaded to the bit."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from driver import SIX, Outcome, Pool, run_folder
from fault_table import Tries
from runs import ROOT, rows
from safetensors.torch import load_file

from minigpt import verify
from minigpt.checkpoint.load import newest_checkpoint
from minigpt.config import precision
from minigpt.generate.load import load_run

# With dropout, whose masks compiled code shares; small, for the time that compiling takes.
PLAIN = [*SIX, "sample.every=null", "eval.every=null", "train.micro_batch_size=8"]


def crossing(go: Callable[..., Outcome], folder: Path, before: str, after: str) -> str:
    """Three steps one way, the rest the other. Returns the refusal without accept_changes.

    go: trains in the folder with more arguments.
    """
    stopped = go(before, "train.stop_after=3")
    assert stopped.code == 0, stopped.said
    saved = run_folder(folder) / "checkpoints" / "step_00000003"
    weights = load_file(saved / "model.safetensors")
    loaded = dict(load_run(run_folder(folder)).model.named_parameters())
    assert loaded.keys() == weights.keys(), "no name of a wrapper"
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    refused = go(after)
    assert refused.code == 4, refused.said
    assert "Traceback" not in refused.said
    accepted = go(after, "accept_changes=true")
    assert accepted.code == 0, accepted.said
    assert "resuming at step 3" in accepted.said
    trusted, line = verify.line_about(run_folder(folder))
    assert trusted, line
    assert "mixed" in line
    return refused.said


def losses(folder: Path) -> list[float]:
    return [row["train/loss"] for row in rows(run_folder(folder)) if "train/loss" in row]


@pytest.mark.slow
@pytest.mark.faults(28)
@pytest.mark.skipif(
    precision.missing_compiler("cpu") is not None, reason="there is no C++ compiler here"
)
def test_compiled_and_eager_runs_go_on_from_each_others_checkpoints(
    pool: Pool, tmp_path: Path, tokens: list[str], tries: Tries
) -> None:
    """With TorchInductor, as train.compile=true does it.

    Names, shapes and state are the same, and so are losses up to another order of additions.
    """
    environment = {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    compiled, eager = "train.compile=true", "train.compile=false"
    assert pool.run(tmp_path / "eager", [*PLAIN, *tokens, eager]).code == 0
    trees = []
    for before, after in (compiled, eager), (eager, compiled):
        folder = tmp_path / f"{before}-first"
        with tries.one():
            go = lambda *more, at=folder: pool.run(
                at, [*PLAIN, *tokens, *more], environment=environment
            )
            said = crossing(go, folder, before, after)
            assert f"compile: {before == compiled} -> {after == compiled}" in said
            assert losses(folder) == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)
            found = newest_checkpoint(run_folder(folder) / "checkpoints")
            assert found is not None
            tree = json.loads((found.folder / "state.json").read_text())["optimizer"]
            trees.append((tree, {name: tensor.shape for name, tensor in found.model.items()}))
    assert trees[0] == trees[1]


@pytest.mark.gpu
@pytest.mark.faults(29)
def test_a_run_saved_on_a_gpu_loads_on_the_cpu(
    tmp_path: Path, tokens: list[str], gpu: dict[str, str]
) -> None:
    same = ["train.precision=fp32", "train.compile=false"]

    def go(*more: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *PLAIN, *tokens, *same, *more],
            check=False, cwd=tmp_path, env=gpu, capture_output=True, text=True,
        )  # fmt: skip
        return Outcome(done.returncode, None, done.stdout + done.stderr)

    said = crossing(go, tmp_path, "train.device=cuda", "train.device=cpu")
    assert "device: cuda -> cpu" in said
