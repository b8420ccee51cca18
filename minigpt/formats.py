"""Number formats: their names, their dtypes, and which of them this machine multiplies natively."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

PrecisionName = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "bf16", "fp16")


def torch_dtype(name: str) -> "torch.dtype":
    """The dtype of a format's name."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def native_bf16(device: str) -> bool:
    """Whether a device multiplies bf16 in hardware. On a CPU Linux tells it; False elsewhere."""
    if device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = {"bf16"} if platform.machine() == "aarch64" else {"avx512_bf16", "amx_bf16"}
    return device == "cpu" and bool(cpu_flags() & names)


def cpu_flags() -> set[str]:
    """What the processor can do, in Linux's words; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()
    }
