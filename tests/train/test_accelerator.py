"""What only a GPU does, as far as a CPU shows it: memory that ends, clocks that run behind."""

import json
import os
import time
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from runs import SMALL, Shell, rows

from minigpt.config import precision
from minigpt.config.budget import memory_problem
from minigpt.config.precision import Precision
from minigpt.model import transformer
from minigpt.model.dropout import sequences
from minigpt.model.rope import rope_table
from minigpt.model.transformer import Transformer
from minigpt.optim.muon import Muon
from minigpt.optim.normuon import NorMuon
from minigpt.run.changes import path_changes
from minigpt.train import bar, clocks, training
from minigpt.train.assemble import path_of
from minigpt.train.clocks import Clocks
from minigpt.train.run import Run


def test_a_step_that_did_not_fit_says_what_does_and_the_retry_trains(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(run: Run) -> bool:
        if run.budget.micro_batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(run)

    real = training.fit
    monkeypatch.setattr(training, "fit", fit)
    assert shell("train", *SMALL, "train.micro_batch_size=4") == 2
    problem = (
        "out of memory: train.micro_batch_size=4 "
        "(less is needed by train.micro_batch_size=2 or train.activation_checkpointing=true)"
    )
    assert f"error: {problem}\n" in shell.err
    assert "Traceback" not in shell.err
    assert json.loads((shell.run_folder() / "failed.json").read_text())["error"] == problem
    assert shell("train", *SMALL, "train.micro_batch_size=2", "train.stop_after=3") == 0, shell.err
    record = json.loads((shell.run_folder() / "run.json").read_text())
    assert (record["chosen"]["micro_batch_size"], record["mixed"]) == (2, [])
    assert shell("train", *SMALL, "train.micro_batch_size=1") == 4, "there is a checkpoint now"
    assert "micro_batch_size: 2 -> 1" in shell.err


def test_what_needs_less_memory_is_what_is_left_to_try() -> None:
    train: dict[str, Any] = {"batch_size": 12, "micro_batch_size": None}
    say = lambda **keys: memory_problem(train | {"activation_checkpointing": True} | keys)
    assert "train.micro_batch_size=12 (less is needed by train.micro_batch_size=6)" in say()
    assert "by train.micro_batch_size=3)" in say(micro_batch_size=4)
    assert "by a smaller model" in say(micro_batch_size=1)


def test_a_gpu_is_named_and_threads_count_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(device: Any, name: str = "") -> dict[str, Any]:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
        chosen = path_of(Precision(device, "bf16", False, "", "", ""))
        return {"chosen": chosen, "versions": {"torch": "2"}}

    a100, h100, cpu = record("cuda", "A100"), record("cuda", "H100"), record("cpu")
    assert path_changes(a100, h100) == ["gpu: A100 -> H100"]
    assert path_changes(cpu, a100) == ["device: cpu -> cuda"]
    assert "threads" in cpu["chosen"].keys() - a100["chosen"].keys()


def test_deterministic_products_are_asked_of_cublas(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that PyTorch refuses each product on CUDA."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "restored afterwards")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    assert shell("train", *SMALL, "train.deterministic=true", "train.stop_after=1") == 0, shell.err
    torch.use_deterministic_algorithms(False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("documents", [False, True])
def test_a_step_elsewhere_leaves_nothing_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, documents: bool
) -> None:
    """On `meta`, which computes nothing, and refuses tensors of another device."""
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: torch.ones(()))
    model = Transformer(64, 2, 32, 4, 2, max_seq_len=16, dropout=0.1, qk_norm=True).to("meta")
    model.activation_checkpointing = documents
    tokens = torch.zeros(4, 16, dtype=torch.int64, device="meta")
    with sequences(torch.arange(4, device="meta")):
        model(tokens, tokens, tokens if documents else None).backward()
    hidden = [p for p in model.blocks.parameters() if p.dim() == 2]
    for optimizer in (Muon(hidden), NorMuon(hidden), torch.optim.AdamW(model.parameters())):
        optimizer.step()
        optimizer.step()
    monkeypatch.setattr(transformer, "rope_table", lambda *where: rope_table(*where[:-1], "cpu"))
    with pytest.raises(RuntimeError, match="device"):
        model(tokens, tokens)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "missing_compiler", lambda device: None)


def test_compilation_is_no_training(
    shell: Shell, other: Shell, monkeypatch: pytest.MonkeyPatch, compiler: None
) -> None:
    """Neither its seconds nor its rate, and no number changes by it."""
    late = [0.0]
    now = lambda: time.monotonic() + late[0]

    def compile(model: Any) -> Any:
        def forward(*arguments: Any) -> Any:
            late[0] = 1000.0
            return model(*arguments)

        return forward

    monkeypatch.setattr(clocks, "time", SimpleNamespace(perf_counter=now))
    monkeypatch.setattr(bar, "time", SimpleNamespace(monotonic=now))
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    command = [*SMALL, "model.dropout=0.1", "train.micro_batch_size=4"]
    assert shell("train", *command, "train.compile=true") == 0, shell.err
    assert " h\n" not in shell.err, "the time that is left"
    summary = json.loads((shell.run_folder() / "summary.json").read_text())
    assert summary["seconds"]["compilation"] > 1000
    assert summary["train_time_s"] < 500
    first = json.loads((shell.run_folder() / "metrics.jsonl").read_text().splitlines()[0])
    assert first["perf/tokens_per_s"] > 1
    assert other("train", *command) == 0, other.err
    assert rows(shell.run_folder()) == rows(other.run_folder())


class Event:
    """A mark of a device that is behind its host: it takes a second for each."""

    made: ClassVar[list["Event"]] = []
    waits: ClassVar[int] = 0
    passed: ClassVar[int] = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.made.append(self)
        self.at = len(self.made)

    def synchronize(self) -> None:
        Event.waits, Event.passed = self.waits + 1, max(self.passed, self.at)

    def elapsed_time(self, end: "Event") -> float:
        assert self.at < end.at <= self.passed
        return 1000.0 * (end.at - self.at)


def test_on_cuda_the_device_is_the_clock_and_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    seconds: dict[str, float] = {}
    timer = Clocks(seconds, "cuda")
    for _ in range(3):
        with timer.timed("optimizer"), timer.timed("saving"):
            pass
    assert (seconds, Event.waits) == ({}, 0)
    assert timer.training_seconds() == timer.training_seconds() == 9.0
    assert (seconds, Event.waits) == ({"saving": 3.0, "optimizer": 9.0}, 1)
    for _ in range(clocks.MOST_PENDING):
        with timer.timed("data"):
            pass
    assert Event.waits == 2, "what nobody asks for does not pile up"


def test_the_memory_of_a_failed_job_is_free_for_the_next(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Any]] = []

    def fit(run: Run) -> bool:
        assert all(model() is None for model in models)
        models.append(weakref.ref(run.model))
        run.model.loop = run  # type: ignore[assignment]
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "fit", fit)
    assert shell("train", "-m", *SMALL, "seed=0,1") == 2
    assert len(models) == 2
    assert "AssertionError" not in shell.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
def test_the_tenth_shape_of_a_sweep_is_compiled_as_the_first(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, compiler: None
) -> None:
    """Without a reset dynamo gives up at the ninth, silently, and run.json says compiled."""
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs[-1] += 1
        return graph.forward

    compile = partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", lambda model: (graphs.append(0), compile(model))[1])
    widths = ",".join(str(width) for width in range(32, 112, 8))
    quick = ["train.steps=2", "train.compile=true", f"model.d_model={widths}"]
    assert shell("train", "-m", *SMALL, *quick) == 0, shell.err
    assert len(graphs) == 10
    assert len({*graphs}) == 1, graphs
    assert graphs[0] > 0
