"""The rule behind `auto`, device by device, and what is refused."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

import minigpt.config.precision as module
from minigpt import formats
from minigpt.config.precision import choose
from minigpt.errors import ConfigError

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretend: which devices, whether CPU or GPU have bf16, whether a compiler is missing."""

    def pretend(*devices: str, bf16: bool = True, missing: str | None = None) -> None:
        monkeypatch.setattr(module, "_present_devices", lambda: list(devices))
        monkeypatch.setattr(formats, "native_bf16", lambda device: bf16)
        monkeypatch.setattr(module, "missing_compiler", lambda device: missing)

    return pretend


RULE = {
    "narrow on a CPU": (("cpu",), {}, 127, ("cpu", "fp32", False)),
    "from 128 on a CPU": (("cpu",), {}, 128, ("cpu", "bf16", False)),
    "wide on a CPU with bf16": (("cpu",), {}, 512, ("cpu", "bf16", False)),
    "wide on a CPU without bf16": (("cpu",), {"bf16": False}, 512, ("cpu", "fp32", False)),
    "just below wide on a GPU": (("cpu", "cuda"), {}, 511, ("cuda", "bf16", False)),
    "wide on a GPU": (("cpu", "cuda"), {}, 512, ("cuda", "bf16", True)),
    "wide on a GPU without Triton": (
        ("cpu", "cuda"),
        {"missing": "no Triton"},
        512,
        ("cuda", "bf16", False),
    ),
    "on an old GPU": (("cpu", "cuda"), {"bf16": False}, 512, ("cuda", "fp16", True)),
    "on MPS": (("cpu", "mps"), {}, 512, ("mps", "fp32", False)),
}


@pytest.mark.parametrize(("devices", "has", "d_model", "expected"), RULE.values(), ids=RULE)
def test_rule(machine: Machine, devices: tuple, has: dict, d_model: int, expected: tuple) -> None:
    machine(*devices, **has)
    chosen = choose(d_model=d_model)
    assert (chosen.device, chosen.precision, chosen.compile) == expected
    assert "asked for" not in chosen.describe()
    assert chosen.device_reason
    assert chosen.precision_reason
    assert chosen.compile_reason


def test_what_is_asked_for_is_taken(machine: Machine) -> None:
    machine("cpu", "cuda")
    chosen = choose("cpu", "bf16", True, d_model=64)
    assert (chosen.device, chosen.precision, chosen.compile) == ("cpu", "bf16", True)
    assert chosen.describe() == "cpu (asked for), bf16 (asked for), compiled (asked for)"
    with pytest.raises(FrozenInstanceError):
        chosen.precision = "fp32"


@pytest.mark.faults(44)
def test_refusals_name_the_keys_and_come_together(machine: Machine) -> None:
    machine("cpu")
    with pytest.raises(ConfigError, match=r"train\.device=cuda, present: cpu"):
        choose("cuda", d_model=64)
    with pytest.raises(ConfigError) as caught:
        choose("tpu", "fp8", "maybe", d_model=64)
    assert len(caught.value.problems) == 3
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match=r": device=cuda:3 \(put CUDA_VISIBLE_DEVICES=3 before"):
        choose("cuda:3", d_model=64, node="")

    machine("cpu", "cuda", bf16=False, missing="Triton is not installed")
    with pytest.raises(ConfigError) as caught:
        choose("cuda", "bf16", True, d_model=64)
    assert caught.value.problems == (
        "not supported by cuda: train.precision=bf16 (use auto, fp32, fp16)",
        "cannot compile: train.compile=true, but Triton is not installed (use train.compile=false)",
    )


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        ("nothing", None),
        ("Triton", "Triton is not installed"),
        ("Volta", "Triton needs compute capability 7.0, this GPU has 6.1"),
        ("gcc", "there is no C compiler (gcc)"),
        ("Python.h", "there is no Python.h in "),
    ],
)
def test_auto_is_eager_with_a_reason_where_triton_cannot_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacks: str, reason: str | None
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(module, "_present_devices", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(formats, "native_bf16", lambda device: True)
    monkeypatch.setattr(module, "find_spec", lambda name: None if lacks == "Triton" else name)
    capability = (6, 1) if lacks == "Volta" else (9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(module.shutil, "which", lambda name: None if lacks == "gcc" else name)
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    if lacks != "Python.h":
        (tmp_path / "Python.h").touch()
    chosen = choose(d_model=512)
    assert chosen.compile == (reason is None)
    assert chosen.compile_reason.startswith(reason or "CUDA and d_model 512")


def test_a_short_run_is_not_compiled_unless_asked(machine: Machine) -> None:
    machine("cpu", "cuda")
    chosen = choose(d_model=512)
    assert chosen.compile
    assert chosen.for_run(60.0) == chosen
    short = chosen.for_run(6.0)
    assert not short.compile
    assert short.compile_reason == "6 s at the device's peak < 45"
    assert choose("cuda", compile=True, d_model=512).for_run(6.0).compile


def test_this_machine_can_do_what_auto_chooses() -> None:
    for d_model in (64, 1024):
        chosen = choose(d_model=d_model)
        with chosen.autocast():
            layer = torch.nn.Linear(4, 4).to(chosen.device)
            layer(torch.ones(2, 4, device=chosen.device)).sum().backward()
        assert layer.weight.grad is not None
        assert (layer.weight.grad == 2).all()  # the sum of two rows of ones


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_one_path_for_all_formats(precision: str) -> None:
    """The loop's five lines; only fp16 scales, and always does."""
    chosen = choose("cpu", precision, False, d_model=64)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    linear = torch.nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0)
    scaler = chosen.grad_scaler()
    before = linear.weight.detach().clone()
    with chosen.autocast():
        y = linear(torch.ones(2, 4))
    assert y.dtype == dtypes[precision]
    scaler.scale(y.float().sum() / 4).backward()  # 65,536 / 4 fits into fp16
    assert (linear.weight.grad == 0.5).all() == (precision != "fp16")
    scaler.unscale_(optimizer)
    assert torch.equal(linear.weight.grad, torch.full_like(before, 0.5))
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(linear.weight.detach(), before - 0.5)
    assert scaler.is_enabled() == (precision == "fp16")


def test_fp32_stays_fp32_off_cuda() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        choose("cpu", d_model=64).activate()
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_freed_memory_is_kept() -> None:
    """Freed blocks of 16 MB and more come back without page faults; in a process of its own, since
    the switch stays.
    """
    code = """
import resource, torch
from minigpt.config.precision import Precision
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        tensors = [torch.ones(2**22 + 2**20 * i) for i in range(6)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
before = faults()
Precision("cpu", "fp32", False, "", "", "").activate()
faults()
assert faults() < before / 10 or before < 1_000, before  # few where the system gives huge pages
"""
    subprocess.run([sys.executable, "-c", code], check=True)
