"""What this machine is, how fast it multiplies matrices, and how much memory there is."""

import json
import os
import platform
import resource
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from minigpt.config.precision import choose, formats_of
from minigpt.files.durable import sha256_bytes
from minigpt.formats import native_bf16
from minigpt.run.record import git_state, versions
from minigpt.train.peak import matrix_product_flops, table_flops

PRODUCT_ROUNDS = 5


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_of(device: str) -> dict[str, Any]:
    """What is measured, and how busy it was before."""
    cpu = platform.processor() or platform.machine()
    return {
        "name": torch.cuda.get_device_name() if device == "cuda" else cpu,
        "device": device,
        "cores": usable_cores(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
    }


def facts() -> dict[str, Any]:
    """What the report of the kit for a GPU says of the machine, and its rates of products."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    git = git_state() or {"commit": "unknown", "diff": ""}
    changes = f" and changes {sha256_bytes(git['diff'].encode())[:8]}" if git["diff"] else ""
    found = machine_of(device) | versions("triton", "transformers")
    found |= {"commit": git["commit"][:12] + changes, "cuda": torch.version.cuda or "none"}
    if device == "cuda":
        properties = torch.cuda.get_device_properties()
        found["memory, GiB"] = properties.total_memory / 2**30
        found["capability"] = f"{properties.major}.{properties.minor}"
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError):
            found["driver"] = subprocess.check_output(ask, text=True, timeout=20).split()[0]
    for precision in ("bf16", "fp32"):
        choose(device, precision, False, d_model=1).activate()
        measured = matrix_product_flops(device, precision, 0.3)
        known = table_flops(found["name"], precision) or measured
        found |= {f"{precision} products, FLOP/s": measured, f"{precision} peak, FLOP/s": known}
    return found


def product_rates(device: str, train: dict[str, Any], seconds: float) -> dict[str, list[float]]:
    """FLOP/s of matrix products by "format threads", in rounds that take turns."""
    formats = [
        p for p in formats_of(device, native_bf16(device)) if train["precision"] in ("auto", p)
    ]
    threads = [1]
    if device == "cpu":
        if train["precision"] == "auto":
            formats.remove("fp16")  # works, twenty times slower
        cores = usable_cores()
        threads = sorted({1, *(2**n for n in range(1, 10) if 2**n < cores), cores})
        threads = [train["threads"]] if train["threads"] else threads
    rates: dict[str, list[float]] = {f"{name} {n}": [] for name in formats for n in threads}
    before, each = torch.get_num_threads(), seconds / PRODUCT_ROUNDS / (len(rates) + 1)
    for _ in range(PRODUCT_ROUNDS):
        for key in rates:
            name, n = key.split()
            torch.set_num_threads(int(n))
            rates[key].append(matrix_product_flops(device, name, min(each, 0.5)))
    torch.set_num_threads(before)
    return rates


def peak_memory(device: str) -> float:
    """The largest memory so far, bytes: of this process, or of the GPU's allocator."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    with suppress(OSError, StopIteration):  # getrusage also counts the parent's before exec
        return proc_bytes("/proc/self/status", "VmHWM")
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def forget_peak(device: str) -> None:
    """Let `peak_memory` begin anew, from what is held now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def available_memory(device: str) -> float:
    """Bytes that could still be taken; infinite where that is unknown."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    with suppress(OSError, StopIteration):
        return proc_bytes("/proc/meminfo", "MemAvailable")
    return float("inf")


def proc_bytes(path: str, key: str) -> float:
    lines = Path(path).read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    print(json.dumps(facts()))
