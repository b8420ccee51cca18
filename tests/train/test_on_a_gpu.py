"""What docs/cluster.md lists under "On a GPU", each by a test of that name.

With MINIGPT_REHEARSAL=1, which python -m minigpt.bench gpu sets where there is no GPU, a CPU does
what it can of it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, rows, tell, tensors

from minigpt.train.memory import CONTEXT_BYTES

pytestmark = pytest.mark.gpu
# Largest relative difference of 20 losses. On a CPU, with a model of this size, bf16 is 6.5e-5 from
# fp32. TF32 and fp16 round eight times finer; compiled code adds in another order.
TOLERANCE = 1e-3
KILLED = "a run that was killed and typed again"


@pytest.fixture(scope="module")
def environment(device: str) -> dict[str, str]:
    visible = os.environ["MINIGPT_TESTS_GPU"] if device == "cuda" else ""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def check(device: str, environment: dict[str, str]) -> Iterator[Callable[[str], Any]]:
    """What a check of gpu_checks.py finds, in another process, one for all until one fails.

    CUDA refuses everything after an error of a kernel.
    """
    command = [sys.executable, str(Path(__file__).with_name("gpu_checks.py")), device]
    pipe, processes = subprocess.PIPE, list[subprocess.Popen[str]]()

    def end() -> None:
        for process in processes:
            process.communicate()
        processes.clear()

    def run(name: str) -> Any:
        if not processes:
            keys: dict[str, Any] = {"cwd": ROOT, "env": environment, "text": True}
            processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, **keys))
        process = processes[0]
        print(name, file=process.stdin, flush=True)
        answer = process.stdout.readline() or '{"error": "the process of the checks died"}'
        found = json.loads(answer)
        if "error" in found:
            end()
        assert "error" not in found, found["error"]
        return found

    yield run
    end()


@pytest.fixture(scope="module")
def losses(check: Callable[[str], Any]) -> dict[str, list[float]]:
    """Of the same steps, by number format and whether they were compiled."""
    return check("losses")


def agree(device: str, losses: dict[str, list[float]], path: str, other: str) -> None:
    """Assert that two runs' losses are within the tolerance of the format; the figures are told."""
    if path not in losses:
        pytest.skip(f"{path} is not tried on {device} here")
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses[path], losses[other], strict=True))
    tell({
        "compared": f"{path} against {'the CPU in fp32' if other == 'reference' else other}",
        "first": losses[path][0], "last": losses[path][-1], "apart": apart, "tolerance": TOLERANCE,
    })  # fmt: skip
    assert losses[path][-1] < losses[path][0]
    assert apart <= TOLERANCE


def test_pinned_non_blocking_copies(device: str, check: Callable[[str], Any]) -> None:
    found = check("copies")
    assert (found["micro-batches"], found["wrong"]) == (40, 0), "a batch was overwritten"
    if device == "cuda":
        assert any("Pinned" in name for name in found["copies"]), found


def test_tf32(device: str, check: Callable[[str], Any], losses: dict[str, list[float]]) -> None:
    """It rounds the factors of a product to 11 bits: an error of about 3e-4, 1e-7 without."""
    found = check("tf32")
    if device == "cuda":
        assert found["switch"] == "high"
        assert 5e-5 < found["errors"]["high"] < 2e-3, "is this GPU older than Ampere?"
    assert found["errors"]["highest"] < 1e-5
    agree(device, losses, "fp32 eager", "reference")


def test_bf16(device: str, losses: dict[str, list[float]]) -> None:
    agree(device, losses, "bf16 eager", "reference")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_compile_on_cuda(device: str, losses: dict[str, list[float]], precision: str) -> None:
    agree(device, losses, f"{precision} compiled", f"{precision} eager")


def test_fp16_with_the_loss_scaler_on_cuda(
    device: str, check: Callable[[str], Any], losses: dict[str, list[float]]
) -> None:
    found = check("fp16")
    assert found["finite"]
    assert 0 < found["skipped"] < 10, "its first scale overflows"
    assert found["scale"] == 2.0 ** (40 - 4 * found["skipped"])
    assert found["losses"][-1] < found["losses"][0]
    if device == "cuda":
        agree(device, losses, "fp16 eager", "reference")


def test_fused_adamw_on_cuda(check: Callable[[str], Any]) -> None:
    assert check("adamw")["apart"] < 1e-5


def test_muon_in_few_launches(check: Callable[[str], Any]) -> None:
    assert check("muon")["apart"] < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_documents_in_blocks(device: str, check: Callable[[str], Any], precision: str) -> None:
    """Not chosen by itself (`Transformer.documents_in_blocks`): in fp32 it stopped an H100 once."""
    if device == "cpu":
        pytest.skip("flex_attention has no backward pass on a CPU")
    found = check(f"documents {precision}")
    assert found["loss"] < TOLERANCE, found
    assert found["gradient"] < 0.02, found


def test_dropout(check: Callable[[str], Any]) -> None:
    found = check("dropout")
    assert found["bf16"] == pytest.approx(found["fp32"], rel=TOLERANCE)
    assert found["bf16"][-1] < found["bf16"][0], "it learns"
    assert found["bf16"] != pytest.approx(found["none"], rel=TOLERANCE), "something is dropped"


def test_the_padded_head(check: Callable[[str], Any]) -> None:
    """With TF32 in its products."""
    found = check("head")
    assert found["loss"] < TOLERANCE, found
    assert max(found["x"], found["weight"]) < 5e-3, found


def test_checkpoints_written_beside_training(device: str, check: Callable[[str], Any]) -> None:
    found = check("saving")
    assert found["equal"]
    if device == "cuda":
        assert found["pinned"]
        assert found["waited"] < 0.01, "the host must not wait"


def test_one_wait_a_step(device: str, check: Callable[[str], Any]) -> None:
    if device == "cpu":
        pytest.skip("a CPU is not waited for; tests/train/test_loop.py counts there")
    assert check("waits")["copies"] == 10 + 2


def test_mfu_against_the_table_of_known_gpus(device: str, check: Callable[[str], Any]) -> None:
    found = check("mfu")
    if device == "cpu":
        pytest.skip("no GPU")
    if not found["known"]:
        pytest.skip(f"{found['name']} is in no table")
    for precision in ("bf16", "fp32"):
        share = found[f"{precision} measured"] / found[f"{precision} peak"]
        assert 0.3 < share < 1.02, (precision, found)


def test_deterministic_kernels(tmp_path: Path, device: str, environment: dict[str, str]) -> None:
    """A run that is killed and typed again ends with the bits of one that was let be."""
    real = ["model=small", "model.n_layers=4", "train.batch_size=8", "train.compile=false"]
    command = [
        sys.executable, "train.py", *(real if device == "cuda" else ["debug=smoke"]),
        "data=one_play", "logger=none", "model.dropout=0.1", f"data_dir={tmp_path / 'tokens'}",
        f"train.device={device}", "train.deterministic=true", "train.steps=120", "log.every=1",
        "eval.every=50", "checkpoint.every=20", "checkpoint.keep_optimizer=true",
    ]  # fmt: skip
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    with subprocess.Popen(
        [*command, f"output_dir={killed}"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    ) as running:
        while running.poll() is None and len(list(killed.glob("*/checkpoints/step_*"))) < 2:
            time.sleep(0.005)
        running.kill()
    assert running.returncode == -9, "it ended by itself"
    ends = []
    for folder in (straight, killed):
        done = subprocess.run(
            [*command, f"output_dir={folder}"], check=False, cwd=ROOT, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (run,) = (path.parent for path in folder.glob("*/run.json"))
        ends.append((rows(run), tensors(run)))
    resumed_at = done.stderr.split("resuming at step ")[1].split()[0]
    equal = [a == b for a, b in zip(*ends, strict=True)]
    for what, same in zip(("logged rows", "weights and optimizer state"), equal, strict=True):
        tell({"compared": f"{what} of {KILLED}, from step {resumed_at}", "equal": str(same)})
    assert equal == [True, True]


def test_nccl_with_one_rank(check: Callable[[str], Any]) -> None:
    assert check("nccl") == {"summed": True, "gathered": True}


def test_cuda_events_as_clocks(device: str, check: Callable[[str], Any]) -> None:
    found = check("clocks")
    assert found["clock"] == pytest.approx(found["waited"], rel=0.3 if device == "cuda" else 0.9)
    if device == "cuda":
        assert found["queued"] < 0.5 * found["clock"], "the host must not wait"


def test_the_retry_after_a_step_that_did_not_fit(
    tmp_path: Path, device: str, environment: dict[str, str]
) -> None:
    """32,768 tokens at once do not fit into 2 GiB; 512 do."""
    if device == "cpu":
        pytest.skip("a CPU's memory has no bound to set")
    code = (
        "import runpy, torch\n"
        "share = 2**31 / torch.cuda.get_device_properties(0).total_memory\n"
        "torch.cuda.set_per_process_memory_fraction(share)\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    command = [
        sys.executable, "-c", code, "model=small", "data=one_play", "logger=none",
        "train.batch_size=64", "train.compile=false", "train.device=cuda", "train.stop_after=1",
        f"output_dir={tmp_path / 'outputs'}", f"data_dir={tmp_path / 'tokens'}",
    ]  # fmt: skip
    failed, retried = (
        subprocess.run(
            [*command, *more], check=False, cwd=ROOT, env=environment, capture_output=True,
            text=True,
        )
        for more in ([], ["train.micro_batch_size=1"])
    )  # fmt: skip
    assert failed.returncode == 2, failed.stderr
    assert "out of memory: train.micro_batch_size=64 (less is needed by" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert retried.returncode == 0, retried.stderr


def test_the_memory_that_cudas_context_takes(device: str, environment: dict[str, str]) -> None:
    if device == "cpu":
        pytest.skip("no GPU")
    command = [sys.executable, str(Path(__file__).with_name("gpu_checks.py")), device]
    done = subprocess.run(
        command, check=True, input="context", cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    found = json.loads(done.stdout)["context"]
    tell({"compared": "bytes of CUDA's context against the estimate",
          "first": found, "last": CONTEXT_BYTES, "apart": found / CONTEXT_BYTES - 1})  # fmt: skip
    assert 0.4 < found / CONTEXT_BYTES < 1.6
