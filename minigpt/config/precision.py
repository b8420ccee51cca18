"""Device, number format and compilation of a run: a fixed rule, never a measurement.

So two jobs of a sweep choose alike. The rule behind `auto`:

    device     CUDA if there is one, else MPS, else the CPU
    precision  CUDA: bf16 where the GPU has it (Ampere and later), else fp16.
               CPU: bf16 if the processor multiplies it natively (avx512_bf16, amx_bf16 or Arm's
               bf16) and d_model >= 128, else fp32. Narrower models gain less: 1.4x at d_model 64,
               2.1x at 128, 3.5x at 512 on a CPU with avx512_bf16.
               MPS: fp32
    compile    on CUDA from d_model 512 on, where Triton can work and the run is long enough to pay
               for it; never on a CPU, where it costs tens of seconds and gains little

bf16 and fp16 mean autocast: weights, gradients and optimizer state stay fp32. fp16 always comes
with a loss scaler.
"""

import ctypes
import os
import re
import shutil
import sysconfig
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from minigpt import formats
from minigpt.errors import ConfigError
from minigpt.formats import PRECISIONS, PrecisionName

if TYPE_CHECKING:
    import torch

DeviceName = Literal["cpu", "cuda", "mps"]
DEVICES: tuple[DeviceName, ...] = ("cpu", "mps", "cuda")
BF16_FROM = 128  # d_model from which bf16 is chosen on a CPU
COMPILE_FROM = 512  # d_model from which compilation is chosen on a GPU
# Seconds of planned FLOPs at the device's peak from which compilation pays. An estimate: eager code
# reaches 30 % of the peak and loses 30 % of its time, which is as long as compiling takes.
COMPILE_FROM_S = 45.0
WITHOUT_BF16 = ("V100", "T4")  # of the GPUs that train/gpus.py knows
ASKED = "asked for"
TRITON_FROM = (7, 0)  # compute capability: Volta


@dataclass(frozen=True)
class Precision:
    """What was chosen, and why."""

    device: DeviceName
    precision: PrecisionName
    compile: bool
    device_reason: str
    precision_reason: str
    compile_reason: str

    def describe(self) -> str:
        compiled = "compiled" if self.compile else "eager"
        return (
            f"{self.device} ({self.device_reason}), {self.precision} ({self.precision_reason}), "
            f"{compiled} ({self.compile_reason})"
        )

    def for_run(self, seconds: float) -> "Precision":
        """Eager, if `auto` chose to compile a run of so few seconds at the device's peak."""
        if not self.compile or self.compile_reason == ASKED or seconds >= COMPILE_FROM_S:
            return self
        reason = f"{seconds:.2g} s at the device's peak < {COMPILE_FROM_S:g}"
        return replace(self, compile=False, compile_reason=reason)

    def activate(self) -> None:
        """Set this process's switches: fp32 products may use TF32 on CUDA; a CPU keeps memory."""
        import torch

        if self.device == "cpu":
            keep_freed_memory()
        torch.set_float32_matmul_precision("high" if self.device == "cuda" else "highest")

    def autocast(self) -> AbstractContextManager[None]:
        """The context for forward passes; does nothing for fp32."""
        import torch

        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device, dtype, enabled=self.precision != "fp32")

    def grad_scaler(self) -> "torch.amp.GradScaler":
        """Scales the loss under fp16; passes everything through otherwise."""
        import torch

        return torch.amp.GradScaler(self.device, enabled=self.precision == "fp16")


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks, which makes steps 5 to 10 % faster.

    By default it maps each tensor above 32 MB anew, and the kernel clears every page. Peak memory
    stays the same. Does nothing with another C library.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(m_mmap_max, 0)
        library.mallopt(m_trim_threshold, 2**31 - 1)


def choose(
    device: str = "auto",
    precision: str = "auto",
    compile: bool | str = "auto",
    *,
    d_model: int,
    gpu: str | None = None,
    node: str = "train.",
) -> Precision:
    """Resolve the three `auto`s; arguments as in train.device, precision, compile.

    gpu: what is planned for, where it need not be here: with all that Triton needs.
    node: where the keys stand, for messages.
    Raises ConfigError, naming every problem, for a device, precision or compiler that is not there.
    """
    problems = []
    if device not in ("auto", *DEVICES):
        problems.append(unknown_device(f"{node}device", device))
    if precision not in ("auto", *PRECISIONS):
        known = ", ".join(PRECISIONS)
        problems.append(f"unknown precision: {node}precision={precision} (choose auto, {known})")
    if compile not in ("auto", True, False):
        problems.append(f"unknown value: {node}compile={compile} (choose auto, true or false)")
    if problems:
        raise ConfigError(*problems)
    planned: tuple[DeviceName, str] = ("cuda", f"planned for {gpu}")
    chosen, device_reason = planned if gpu else _device(device, node)
    native = formats.native_bf16(chosen) if gpu is None else gpu not in WITHOUT_BF16
    number, precision_reason = _precision(precision, chosen, native, d_model)
    missing = missing_compiler(chosen) if gpu is None else None
    compiled, compile_reason = _compile(compile, chosen, missing, d_model)
    there = formats_of(chosen, native)
    if number not in there:
        problems.append(
            f"not supported by {chosen}: {node}precision={number} (use auto, {', '.join(there)})"
        )
    if compiled and missing:
        problems.append(
            f"cannot compile: {node}compile=true, but {missing} (use {node}compile=false)"
        )
    if problems:
        raise ConfigError(*problems)
    return Precision(chosen, number, compiled, device_reason, precision_reason, compile_reason)


def unknown_device(key: str, device: str) -> str:
    """The problem of a device that no run can ask for."""
    if re.fullmatch(r"cuda:\d+", device):
        return (
            f"one GPU by its number: {key}={device} "
            f"(put CUDA_VISIBLE_DEVICES={device[5:]} before the command, and {key}=cuda)"
        )
    return f"unknown device: {key}={device} (choose auto, {', '.join(DEVICES)})"


def _device(asked: str, node: str) -> tuple[DeviceName, str]:
    present = _present_devices()
    if asked == "auto":
        return present[-1], "the only device" if len(present) == 1 else "the fastest here"
    if asked not in present:
        raise ConfigError(
            f"no such device here: {node}device={asked}, present: {', '.join(present)} "
            "(use auto or one of these)"
        )
    return asked, ASKED


def _precision(
    asked: str, device: DeviceName, native: bool, d_model: int
) -> tuple[PrecisionName, str]:
    if asked != "auto":
        return cast(PrecisionName, asked), ASKED
    if device == "mps":
        return "fp32", "the rule on MPS"
    if device == "cuda":
        return ("bf16", "native on this GPU") if native else ("fp16", "this GPU has no bf16")
    if not native:
        return "fp32", "this CPU has no native bf16"
    if d_model < BF16_FROM:
        return "fp32", f"d_model {d_model} < {BF16_FROM}"
    return "bf16", f"native on this CPU and d_model {d_model} >= {BF16_FROM}"


def _compile(
    asked: bool | str, device: DeviceName, missing: str | None, d_model: int
) -> tuple[bool, str]:
    if asked != "auto":
        return bool(asked), ASKED
    if device != "cuda":
        return False, f"the rule on {device}"
    if missing:
        return False, missing
    if d_model < COMPILE_FROM:
        return False, f"d_model {d_model} < {COMPILE_FROM}"
    return True, f"CUDA and d_model {d_model} >= {COMPILE_FROM}"


def _present_devices() -> list[DeviceName]:
    """Slowest first; the last is what `auto` takes."""
    import torch

    there = (True, torch.backends.mps.is_available(), torch.cuda.is_available())
    return [name for name, is_there in zip(DEVICES, there, strict=True) if is_there]


def formats_of(device: str, native_bf16: bool) -> tuple[PrecisionName, ...]:
    """What autocast can do on a device. fp16 on a CPU is about twenty times slower: for tests."""
    return ("fp32", "fp16") if device == "cuda" and not native_bf16 else PRECISIONS


def missing_compiler(device: str) -> str | None:
    """What torch.compile would miss here, in words; None if it can work."""
    if device == "mps":
        return "it was never tried on MPS"
    language, compilers = "C++", (os.environ.get("CXX", "g++"), "clang++")
    if device == "cuda":
        import torch

        if not find_spec("triton"):
            return "Triton is not installed"
        if (found := torch.cuda.get_device_capability()) < TRITON_FROM:
            return "Triton needs compute capability {}.{}, this GPU has {}.{}".format(
                *TRITON_FROM, *found
            )
        language, compilers = "C", (os.environ.get("CC", "gcc"), "clang")
    if not any(map(shutil.which, compilers)):
        return f"there is no {language} compiler ({compilers[0]})"
    headers = Path(sysconfig.get_path("include"))  # what is compiled is called from Python
    return None if (headers / "Python.h").is_file() else f"there is no Python.h in {headers}"
