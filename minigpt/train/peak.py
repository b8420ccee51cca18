"""The rate that a run's utilisation (MFU) is measured against: by table, or measured.

A format is held against its own peak: bf16 against bf16, fp32 against fp32 (on CUDA TF32, which is
what runs there).
"""

import time
from dataclasses import dataclass
from functools import cache

import torch

from minigpt.formats import torch_dtype
from minigpt.train.gpus import gpu_of


@dataclass(frozen=True)
class Peak:
    """FLOP/s of dense matrix products, and where the figure comes from."""

    flops: float
    source: str


def peak_of(device: str, precision: str) -> Peak:
    """The peak of this machine's device for a number format; on a CPU that of the threads in use.

    Measured (0.1 s, once a process) on CPUs and for GPUs in no table. On a busy machine that gives
    the peak of a busy machine.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    if (known := table_flops(name, precision)) is not None:
        return Peak(known, f"data sheet of {name}, {precision}")
    threads = torch.get_num_threads()
    source = f"measured, {precision}" + (f", {threads} threads" if device == "cpu" else "")
    return Peak(_measured_once(device, precision, threads), source)


def table_flops(device_name: str, precision: str) -> float | None:
    """Peak of a known GPU in FLOP/s, None for an unknown one."""
    if (gpu := gpu_of(device_name)) is None:
        return None
    return (gpu.single_tflops if precision == "fp32" else gpu.half_tflops) * 1e12


@cache
def _measured_once(device: str, precision: str, threads: int) -> float:
    return matrix_product_flops(device, precision, 0.1)


def matrix_product_flops(device: str, precision: str, seconds: float) -> float:
    """FLOP/s of the fastest of the matrix products that fit into `seconds`, three at least.

    On a CPU with this process's threads, a layer of model=small over 2,048 tokens; elsewhere
    8192 x 8192 x 8192.
    """
    dtype = torch_dtype(precision)
    n, k, m = (2048, 512, 1376) if device == "cpu" else (8192, 8192, 8192)
    x, weight = (torch.ones(shape, dtype=dtype, device=device) for shape in ((n, k), (m, k)))
    y = torch.empty(n, m, dtype=dtype, device=device)
    fastest, end, done = float("inf"), time.perf_counter() + seconds, 0
    while done < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        torch.mm(x, weight.T, out=y)
        if device != "cpu":
            getattr(torch, device).synchronize()
        fastest, done = min(fastest, time.perf_counter() - begin), done + 1
    return 2 * n * k * m / fastest
