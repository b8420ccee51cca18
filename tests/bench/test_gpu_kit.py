"""The kit for a GPU: it goes on where it was, tells each failure, and is rehearsed on a CPU."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, in_a_line, load_script

from minigpt.bench import __main__ as bench
from minigpt.bench import gpu, processes
from minigpt.bench.model import Model
from minigpt.cli import process
from minigpt.config.budget import Budget
from minigpt.errors import ConfigError

MACHINE = {"name": "Some GPU 80GB", "device": "cuda", "commit": "abc", "torch": "2.9",
           "bf16 peak, FLOP/s": 1e15}  # fmt: skip
REPORT = "some-gpu-80gb.md"
SPEED = {
    "micro_batches": {"8": {"tokens_per_s": 1e5, "memory": 2**31, "memory_estimated": 2**30}},
    "micro_batch_size": 8, "tokens_per_s": 2e5, "flops_per_token": 1e9, "compile_speedup": 1.5,
    "compiled": {"tokens_per_s": 3e5, "memory": 2**31},
}  # fmt: skip


class Stubs:
    """Stages that end at once. `broken`: of which stage what fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine, self.done, self.broken = dict(MACHINE), list[str](), dict[str, str]()
        for name in ("told_by", "measure", "outcome"):
            monkeypatch.setattr(gpu, name, getattr(self, name))

    def told_by(self, command: list[str], seconds: float) -> tuple[dict[str, Any], str]:
        if "minigpt.bench.machine" in command:
            return self.machine, ""
        self.done.append("muon")
        return {"rows": [{"model": "small", "ours, ms": 1.25}]}, self.broken.get("muon", "")

    def measure(self, name: str, *more: Any, **keys: bool) -> dict[str, Any]:
        self.done.append(name)
        if why := self.broken.get(name):
            raise ConfigError(why)
        return json.loads(json.dumps(SPEED))

    def outcome(self, command: list[str], seconds: float, environment: dict[str, str]) -> Any:
        chosen = command[command.index("-k") + 1]
        (stage,) = (name for name, value in gpu.CHOSEN.items() if value == chosen)
        self.done.append(stage)
        assert "MINIGPT_REHEARSAL" not in environment
        result = self.broken.get(stage, "passed")
        row = {"test": "test_tf32", "result": result}
        Path(environment["MINIGPT_FIGURES"]).write_text(json.dumps(row) + "\n{torn")
        return "", "" if result == "passed" else "exit code 1"


STAGES = [name.removeprefix("speed ") for name in gpu.SHARES if name != "machine"]


def test_it_goes_on_where_it_was_and_says_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stubs = Stubs(monkeypatch)
    stubs.broken = {"small Llama": "no transformers here", "losses": "FAILED: beyond"}
    command = ["gpu", "--out", str(tmp_path)]
    assert bench.main(command) == 1
    assert sorted(stubs.done) == sorted(STAGES), "a failure ends its stage alone"
    said = capfd.readouterr().err
    assert " of 8, tests, programs, resume, losses: at most" in said
    assert "8 of 8, muon: at most" in said
    report = (tmp_path / REPORT).read_text()
    assert "- speed small Llama FAILED: no transformers here" in report
    assert "- losses FAILED: test_tf32: FAILED: beyond" in report
    assert "| cuda | small | minigpt | eager, micro-batch 8 | 200,000 | 20 | 2 | 1 |" in report
    assert "| cuda | medium | Llama | compiled, micro-batch 8 | 300,000 | 30 | 2 |  |" in report
    assert "rehearsal" not in report.lower()

    stubs.done, stubs.broken = [], {}
    assert bench.main(command) == 0
    assert stubs.done == ["losses", "small Llama"]
    assert "FAILED" not in (tmp_path / REPORT).read_text()
    stubs.done = []
    assert bench.main(command) == 0
    assert stubs.done == []

    stubs.machine["commit"] = "def"
    assert bench.main([*command, "--only", "muon", "--only", "losses"]) == 0
    assert stubs.done == ["losses", "muon"]
    ran = re.findall(r"(\w+): 0 s, ended \S+, at commit (\w+)", (tmp_path / REPORT).read_text())
    kinds = ["machine", "tests", "programs", "measures", "resume", "minigpt", "Llama"]
    assert dict(ran) == dict.fromkeys(kinds, "abc") | {"losses": "def", "muon": "def"}
    stubs.machine["torch"], stubs.done = "2.10", []
    assert bench.main(command) == 6
    assert "2.9 -> 2.10 (--again, or another --out)" in capfd.readouterr().err
    assert bench.main([*command, "--again"]) == 0
    assert sorted(stubs.done) == sorted(STAGES)


def test_what_was_measured_before_it_was_killed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs = Stubs(monkeypatch)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "measure", interrupted)
    assert bench.main(["gpu", "--out", str(tmp_path)]) == 130
    report = (tmp_path / REPORT).read_text()
    assert "- speed medium Llama was not reached" in report
    monkeypatch.setattr(gpu, "measure", stubs.measure)
    assert bench.main(["gpu", "--out", str(tmp_path)]) == 0
    assert sorted(stubs.done) == sorted(STAGES)


def test_foreign_figures_and_impossible_times_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Stubs(monkeypatch)
    assert bench.main(["gpu", "--seconds", "5"]) == 2
    foreign = tmp_path / "some-gpu-80gb.json"
    foreign.write_text('{"my": "thesis"}')
    assert bench.main(["gpu", "--out", str(tmp_path)]) == 6
    assert "no figures of minigpt.bench" in capfd.readouterr().err
    assert foreign.read_text() == '{"my": "thesis"}'


@pytest.mark.parametrize(
    ("code", "told", "why"),
    [
        ("print('{\"rows\": 1}')", {"rows": 1}, ""),
        ("print('{\"rows\": NaN}\\n{\"ro', end='')", {"rows": "NaN"}, ""),
        ('print(\'{"stopped": "no room"}\'); exit(1)', {}, "no room"),
        (
            "import time; print('{\"rows\": 2}', flush=True); time.sleep(60)",
            {"rows": 2},
            "not done",
        ),
        ("import os; os.abort()", {}, "exit code -6"),
    ],
)
def test_what_a_process_told_before_it_ended(
    monkeypatch: pytest.MonkeyPatch, code: str, told: dict[str, Any], why: str
) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.0)
    found, ended = processes.told_by(["-c", code], 1.0 if why == "not done" else 60.0)
    assert found == told
    assert ended.startswith(why)
    assert bool(ended) == bool(why)


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ("assert 1 == 2\n  +  where", "assert 1 == 2"),
        ("AssertionError: Trace\nRuntimeError: no kernel\nassert 1", "RuntimeError: no kernel"),
        ("AssertionError: x\nerror: out of memory: train\nassert", "error: out of memory: train"),
        ("", "it crashed"),
    ],
)
def test_why_a_test_failed_in_a_line(failure: str, line: str) -> None:
    assert in_a_line(failure) == line


def test_checks_for_a_gpu_fit_the_code_that_they_check() -> None:
    """Two of them, on the CPU."""
    checks = load_script(ROOT / "tests/train/gpu_checks.py")
    process.set_up_composing()
    found = checks.copies("cpu")
    assert (found["micro-batches"], found["wrong"]) == (40, 0)
    assert checks.adamw("cpu")["apart"] < 1e-5


def rival() -> Model:
    process.set_up_composing()
    return Model(["model=medium", "data=fineweb_edu", "optim=adamw", *gpu.SHRUNK], rival=True)


def test_missing_transformers_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="no transformers here"):
        rival()


@pytest.mark.slow
def test_transformers_llama_steps_in_our_loop() -> None:
    model = rival()
    assert sum(p.numel() for p in model.trained.parameters()) == model.parameters
    losses = model.watched(model.chosen, Budget(20, 8, 8, model.seq_len), 1.0).losses
    assert losses[-1] < losses[0] - 0.3


def test_each_entry_of_the_list_in_the_docs_has_its_test() -> None:
    """An entry "fused AdamW on CUDA" is tried by test_fused_adamw_on_cuda."""
    section = (ROOT / "docs/cluster.md").read_text().split("## On a GPU")[1]
    lists = re.findall(r"(?:Held there|Not yet seen to hold): (.*?)\.\s", section, re.DOTALL)
    assert len(lists) == 2
    tests = (ROOT / "tests/train/test_on_a_gpu.py").read_text()
    for entry in " ".join(", ".join(lists).split()).split(", "):
        name = re.sub(r"[^a-z0-9]+", "_", entry.lower().replace("'", "")).strip("_")
        assert f"def test_{name}(" in tests, f"docs/cluster.md lists {entry!r}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_rehearsal(tmp_path: Path) -> None:
    """Each stage really runs; the report says that this was no GPU."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "minigpt.bench", "gpu", "--out", str(tmp_path), "--seconds", "800"],
        check=False, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 820
    results = json.loads((tmp_path / "cpu.json").read_text())
    assert list(results) == sorted(gpu.SHARES)
    assert all(result["rows"] and not result["failed"] for result in results.values())
    report = (tmp_path / "cpu.md").read_text()
    assert report.startswith("# Rehearsal on a CPU\n")
    assert "**This is a rehearsal on a CPU.**" in report
    assert "weights and optimizer state" in report
    assert "compiled, micro-batch" in report
