"""minigpt.bench measures the product's own step, ends in time, and writes nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ROOT

from minigpt.bench import __main__ as bench
from minigpt.bench import processes, report
from minigpt.bench.machine import peak_memory
from minigpt.bench.model import Model, StepTime
from minigpt.cli import composition, process
from minigpt.config.plan import plan_of
from minigpt.errors import ConfigError
from minigpt.terminal import duration

TINY = [
    "model.d_model=32", "model.max_seq_len=16", "model.n_layers=1", "train.batch_size=4",
    "data=shakespeare_char",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _registered() -> None:
    process.set_up_composing()


def test_the_whole_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Figures, advice that train.py accepts, a JSON file, and nothing else anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    begin = time.monotonic()
    options = ["--only", "tiny", "--seconds", "40", "--tokens", "1_000_000", "--json", "f.json"]
    code = bench.main([*options, *TINY, "train.compile=false"])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert time.monotonic() - begin < 40 + processes.GRACE_S + 5
    figures = json.loads((tmp_path / "f.json").read_text())
    tiny = figures["models"]["tiny"]
    assert tiny["tokens_per_s"] > 0
    assert tiny["step_s"] == pytest.approx(4 * 16 / tiny["tokens_per_s"])
    assert tiny["mfu"] == pytest.approx(
        tiny["tokens_per_s"] * tiny["flops_per_token"] / tiny["peak_flops"]
    )
    assert tiny["peak_flops"] == max(
        figures["product_flops"][f"{tiny['precision']} {tiny['threads']}"]
    )
    assert 0 < tiny["memory"] < 2**31
    assert tiny["generation"].keys() == {"fp32", "bf16"}
    assert set(tiny["formats"]) <= set(figures["product_flops"])
    assert "~" not in out
    assert duration(1e6 / tiny["tokens_per_s"]) in out
    (advice,) = (line for line in out.splitlines() if line.strip().startswith("python train.py"))
    arguments = advice.split()[2:]
    assert Model(arguments).config["train"]["precision"] == tiny["precision"]
    assert f"train.micro_batch_size={tiny['micro_batch_size']}" in arguments
    assert [path.name for path in tmp_path.rglob("*")] == ["f.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "1"], "--seconds 1 (5 to 86400)"),
        (["--seconds", "soon"], "argument --seconds"),
        (["--only", "giant"], "giant"),
        (["--tokens", "0"], "--tokens 0"),
        (["--json", "nowhere/at/all.json"], "no such folder: --json nowhere/at/all.json"),
        (["tiny"], "models are chosen with --only"),
        (["model.depth=3"], "unknown key: model.depth"),
        (["train.device=cuda"], "train.device=cuda"),
        (["train.batch_size=4", "train.micro_batch_size=3"], "train.batch_size=4"),
    ],
)
def test_refusals_are_one_line_and_exit_2(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--seconds", "10", "--only", "tiny", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert words in err


def test_what_only_constructors_know_comes_from_the_worker() -> None:
    with pytest.raises(ConfigError, match="d_model=30"):
        bench.measure("tiny", ["model=tiny", "model.d_model=30"], [("fp32", 1)], 60)


def test_a_worker_that_overruns_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.0)
    result = bench.measure("tiny", ["model=tiny"], [("fp32", 1)], 0.2)
    assert result["skipped"].startswith("not done within 0 s")


def test_a_step_is_the_loops_own_and_learns_nothing() -> None:
    """With accumulation the time is cut by the loop's clocks, and the optimizer really steps."""
    model = Model(["model=tiny", *TINY, "train.precision=fp32"])
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    times = model.steps(model.chosen, micro_batch=2, count=3, micro_batches=2)
    assert len(times) == 3
    for t in times:
        assert 0 < t.forward_backward + t.optimizer + t.data <= t.total
    assert all(torch.equal(before[name], p) for name, p in model.model.named_parameters())
    assert model.optimizer.state_bytes() > 0


def test_time_of_a_larger_batch_adds_micro_batches_only() -> None:
    t = StepTime(2, data=0.2, forward_backward=1.0, optimizer=3.0, total=4.5)
    assert t.of_batch(2) == 4.5
    assert t.of_batch(6) == pytest.approx(4.5 + 4 * 0.6)


def test_it_stops_at_the_step_after_its_time() -> None:
    model = Model(["model=tiny", *TINY])
    assert len(model.steps(model.chosen, 4, 1000, past=lambda: True)) == 1


def test_what_was_too_long_is_estimated_from_the_largest_measured() -> None:
    shape = {"seq_len": 8, "batch_size": 2, "budget_tokens": 160}
    results: dict[str, dict[str, Any]] = {
        "tiny": {
            **shape, "parameters": 1, "flops_per_token": 10**6, "precision": "fp32", "threads": 1,
            "tokens_per_s": 100.0, "step_s": 0.16, "spread": 0.0, "rounds": 2,
        },
        "small": {
            **shape, "parameters": 5, "flops_per_token": 10**7,
            "skipped": "not done within 99 s (give --seconds)",
        },
    }  # fmt: skip
    for name, result in results.items():
        result |= bench.derived(results, name, "cpu", {"fp32 1": [1e9, 2e8]})
    assert results["tiny"]["mfu"] == pytest.approx(0.1)  # 1e8 of 1e9 FLOP/s
    assert results["small"]["tokens_per_s"] == pytest.approx(10)
    rows = report.model_table(results, None)
    assert "~10" in rows[2]
    assert "~16 s" in rows[2]


@pytest.mark.parametrize(
    ("overrides", "tokens"),
    [
        (["train.steps=5"], 5 * 4 * 16),
        (["train.tokens=300"], 320),
        (["data=fineweb_edu", "data.max_tokens=100", "train.epochs=3"], 300),
        (["train.epochs=3"], None),
    ],
)
def test_own_budget(overrides: list[str], tokens: int | None) -> None:
    command = ["model=tiny", *TINY, *overrides]
    plan = plan_of(composition.compose("train", command, None, plan_of))
    assert bench.own_budget(plan) == tokens


def test_noise_and_load_are_told() -> None:
    machine = {"name": "x", "cores": 2, "cpus": 2, "device": "cpu", "torch": "2", "load": 1.5}
    assert any(line.startswith("BUSY") for line in report.machine_lines(machine))
    assert len(report.machine_lines(machine | {"load": 0.1})) == 1
    assert report.warnings({"fp32 1": [1.0, 1.05]}, {"tiny": {"spread": 0.1}}) == []
    (line,) = report.warnings({"fp32 1": [1.0, 1.5]}, {"tiny": {"spread": 0.3}})
    assert "matrix products fp32 1, tiny" in line


def test_advice() -> None:
    r = {
        "device": "cpu", "precision": "bf16", "threads": 2, "micro_batch_size": 8,
        "compile_speedup": 1.2,
    }  # fmt: skip
    assert report.overrides(r) == [
        "train.precision=bf16", "train.threads=2", "train.micro_batch_size=8", "train.compile=true"
    ]  # fmt: skip
    assert report.overrides(r | {"compile_speedup": 1.01})[-1] == "train.compile=false"
    assert "train.threads=2" not in report.overrides(r | {"device": "cuda"})


def test_quantities() -> None:
    assert [report.quantity(n) for n in (12, 76_800, 60e6, 1e9)] == ["12", "76.8k", "60M", "1G"]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_peak_memory_is_of_this_process() -> None:
    before = peak_memory("cpu")
    tensor = torch.ones(2**26)
    assert peak_memory("cpu") >= before
    del tensor
    assert 2**26 < peak_memory("cpu") < 2**35


@pytest.mark.gpu
def test_the_bench_measures_a_gpu(tmp_path: Path, gpu: dict[str, str]) -> None:
    command = ["-m", "minigpt.bench", "--only", "small", "--seconds", "40", "--json"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "f.json")],
        check=False, cwd=ROOT, env=gpu, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    small = figures["models"]["small"]
    assert figures["machine"]["device"] == "cuda", done.stderr
    assert {key.split()[0] for key in figures["product_flops"]} == {"fp32", "bf16", "fp16"}
    assert 0 < small["mfu"] < 1
    assert "train.threads" not in done.stdout
    assert "compile_speedup" in small or "compile_note" in small
