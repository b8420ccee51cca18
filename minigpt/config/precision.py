"""Device, number format and compilation of a run: a fixed rule, never a measurement, so that two
jobs choose alike.

The rule behind `auto`:

    device     CUDA if there is one, else MPS, else the CPU
    precision  CUDA: bf16 where the GPU has it (Ampere and later), else fp16. CPU: bf16 if the
               processor multiplies it natively (avx512_bf16, amx_bf16 or Arm's bf16) and d_model >=
               128, else fp32: narrower models gain less (1.4x at d_model 64, 2.1x at 128, 3.5x at
                   512 on a CPU with avx512_bf16). MPS: fp32
    compile    on CUDA with Triton from d_model 512 on; never on a CPU, where it costs tens of
    seconds and gains little

bf16 and fp16 mean autocast: weights, gradients and optimizer state stay fp32. fp16 always comes
with a loss scaler that is enabled; there is no switch that could separate the two.
"""

import ctypes
import os
import platform
import shutil
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from minigpt.errors import ConfigError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["cpu", "cuda", "mps"]
PrecisionName = Literal["fp32", "bf16", "fp16"]
DEVICES: tuple[DeviceName, ...] = ("cpu", "mps", "cuda")
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16")
BF16_FROM = 128  # d_model from which bf16 is chosen on a CPU
COMPILE_FROM = 512  # d_model from which compilation is chosen on a GPU


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

    def activate(self) -> None:
        """Set this process's switches: fp32 products may use TF32 on CUDA and nothing else
        elsewhere; on a CPU freed memory is kept.
        """
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
        """The one path of the loop: scale, unscale, step, update; passes everything through unless
        fp16.
        """
        import torch

        return torch.amp.GradScaler(self.device, enabled=self.precision == "fp16")


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of returning them to the system at once: 5 to 10 %
    faster steps.

    By default each tensor above 32 MB is mapped anew, and the kernel clears it page by page; peak
    memory is the same. Does nothing with another C library.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(m_mmap_max, 0)
        library.mallopt(m_trim_threshold, 2**31 - 1)


def choose(
    device: str = "auto", precision: str = "auto", compile: bool | str = "auto", *, d_model: int
) -> Precision:
    """Resolve the three `auto`s and check what was asked for; arguments as in train.device,
    precision, compile.

    Raises ConfigError, naming every problem, for a device, precision or compiler that is not there.
    """
    problems = []
    if device not in ("auto", *DEVICES):
        problems.append(
            f"unknown device: train.device={device} (choose auto, {', '.join(DEVICES)})"
        )
    if precision not in ("auto", *PRECISIONS):
        problems.append(
            f"unknown precision: train.precision={precision} (choose auto, {', '.join(PRECISIONS)})"
        )
    if compile not in ("auto", True, False):
        problems.append(f"unknown value: train.compile={compile} (choose auto, true or false)")
    if problems:
        raise ConfigError(*problems)

    present = _present_devices()
    if device != "auto" and device not in present:
        raise ConfigError(
            f"no such device here: train.device={device}, present: {', '.join(present)} (use auto or one of these)"
        )
    chosen = cast(DeviceName, device) if device != "auto" else present[-1]
    device_reason = (
        "asked for"
        if device != "auto"
        else "the only device"
        if len(present) == 1
        else "the fastest here"
    )

    formats = formats_of(chosen)
    if precision == "auto":
        number, precision_reason = _auto_precision(chosen, formats, d_model)
    else:
        number, precision_reason = cast(PrecisionName, precision), "asked for"
    if number not in formats:
        problems.append(
            f"not supported by {chosen}: train.precision={number} (use auto, {', '.join(formats)})"
        )

    missing = missing_compiler(chosen)
    if compile == "auto":
        compiled, compile_reason = _auto_compile(chosen, missing, d_model)
    else:
        compiled, compile_reason = bool(compile), "asked for"
    if compiled and missing:
        problems.append(
            f"cannot compile: train.compile=true, but {missing} (use train.compile=false)"
        )
    if problems:
        raise ConfigError(*problems)
    return Precision(chosen, number, compiled, device_reason, precision_reason, compile_reason)


def _auto_precision(
    device: str, formats: tuple[PrecisionName, ...], d_model: int
) -> tuple[PrecisionName, str]:
    if device == "cuda":
        return (
            ("bf16", "native on this GPU")
            if "bf16" in formats
            else ("fp16", "this GPU has no bf16")
        )
    if device == "mps":
        return "fp32", "the rule on MPS"
    if not _native_bf16_cpu():
        return "fp32", "this CPU has no native bf16"
    if d_model < BF16_FROM:
        return "fp32", f"d_model {d_model} < {BF16_FROM}"
    return "bf16", f"native on this CPU and d_model {d_model} >= {BF16_FROM}"


def _auto_compile(device: str, missing: str | None, d_model: int) -> tuple[bool, str]:
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

    available = {
        "cpu": True,
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
    }
    return [name for name in DEVICES if available[name]]


def formats_of(device: str) -> tuple[PrecisionName, ...]:
    """What autocast can do on a device. fp16 on a CPU works and is about twenty times slower: good
    for tests.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return ("fp32", "fp16")
    return PRECISIONS


def _native_bf16_cpu() -> bool:
    """Does the processor multiply bf16 in hardware? Read from Linux; False elsewhere."""
    try:
        information = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = {
        flag
        for line in information.splitlines()
        if line.startswith(("flags", "Features"))
        for flag in line.split()
    }
    return bool(
        flags & ({"bf16"} if platform.machine() == "aarch64" else {"avx512_bf16", "amx_bf16"})
    )


def missing_compiler(device: str) -> str | None:
    """What torch.compile would miss here, in words; None if it can work."""
    if device == "cuda":
        return None if find_spec("triton") else "Triton is not installed"
    if device == "mps":
        return "it was never tried on MPS"
    compiler = os.environ.get("CXX", "g++")
    return (
        None
        if shutil.which(compiler) or shutil.which("clang++")
        else f"there is no C++ compiler ({compiler})"
    )
