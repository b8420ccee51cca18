"""What the tests for a GPU run in another process: python gpu_checks.py DEVICE < names of checks.

The figures of each check are a line of JSON. DEVICE cpu is a rehearsal with small sizes.
"""

import json
import os
import subprocess
import sys
import time
import traceback
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from minigpt import ranks
from minigpt.bench.gpu import SHRUNK
from minigpt.bench.model import Model, RandomTokens
from minigpt.checkpoint.beside import snapshot
from minigpt.cli import process
from minigpt.config import schema
from minigpt.config.budget import Budget
from minigpt.config.precision import Precision, missing_compiler
from minigpt.model.loss import cross_entropy
from minigpt.optim.muon import Muon
from minigpt.train.clocks import Clocks
from minigpt.train.peak import matrix_product_flops, peak_of, table_flops

SMALL = ["model=small", "data=fineweb_edu", *SHRUNK, "train.batch_size=8", "logger=none"]
STEPS = 20


def model_of(device: str, *overrides: str) -> Model:
    """Two layers of the reference shape; in a rehearsal one of width 64."""
    real = [
        "model=small", "data=fineweb_edu", "model.n_layers=2", "train.batch_size=4",
        "data.tokenizer.vocab_size=4096",
    ]  # fmt: skip
    torch.compiler.reset()
    eager = [] if any("compile" in key for key in overrides) else ["train.compile=false"]
    return Model([*(SMALL if device == "cpu" else real), *eager, *overrides])


def losses(device: str) -> dict[str, list[float]]:
    """Of the same 20 steps, by "device precision" and whether they were compiled."""
    found = {}
    formats = ["fp32", "bf16", "fp16"] if device == "cuda" else ["fp32", "bf16"]
    compiled = ["fp32", "bf16"] if device == "cuda" else ["fp32"]
    paths = [("cpu", "fp32", False), *((device, precision, False) for precision in formats)]
    if missing_compiler(device) is None:
        paths += [(device, precision, True) for precision in compiled]
    for where, precision, compile in paths:
        keys = [f"train.device={where}", f"train.precision={precision}", f"train.compile={compile}"]
        name = "reference" if not found else f"{precision} {'compiled' if compile else 'eager'}"
        model = model_of(device, *keys)
        budget = Budget(STEPS, model.batch_size, model.batch_size, model.seq_len)
        # A start without warm-up stays calm at a tenth of the lr.
        found[name] = model.watched(model.chosen, budget, 0.1).losses
    return found


def copies(device: str) -> dict[str, Any]:
    """What reached the model of 40 micro-batches, against what was sent; names of the copies."""
    model, seen = model_of(device, f"train.device={device}"), list[torch.Tensor]()
    real = model.trained

    def forward(inputs: torch.Tensor, targets: torch.Tensor, documents: Any) -> torch.Tensor:
        if device == "cuda":
            torch.cuda._sleep(2_000_000)  # the device is behind: what is overwritten is seen
        seen.append(torch.stack([inputs, targets]).clone())
        return real(inputs, targets, documents)

    model.trained = forward  # type: ignore[assignment]
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiled = torch.profiler.profile(activities=kinds) if device == "cuda" else nullcontext()
    with profiled as profile:
        model.steps(model.chosen, 1, 10, micro_batches=4)
    source = RandomTokens(model.vocab_size, model.seq_len)
    wrong = 0
    for number, batch in enumerate(seen):
        sent = source.sequences(range(number, number + 1))
        wrong += not np.array_equal(batch.cpu().numpy(), np.stack([sent[:, :-1], sent[:, 1:]]))
    events = [] if profile is None else profile.events()
    copies = {event.name for event in events if "HtoD" in event.name}
    return {"micro-batches": len(seen), "wrong": wrong, "copies": sorted(copies)}


def tf32(device: str) -> dict[str, Any]:
    """The error of an fp32 product with the switches of a run, and of one without TF32."""
    model = model_of(device, f"train.device={device}", "train.precision=fp32")
    model.chosen.activate()
    switch, errors = torch.get_float32_matmul_precision(), {}
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=random) for _ in range(2))
    exact = a.double() @ b.double()
    for setting in (switch, "highest"):
        torch.set_float32_matmul_precision(setting)
        found = (a.to(device) @ b.to(device)).cpu().double()
        errors[setting] = float((found - exact).norm() / exact.norm())
    return {"switch": switch, "errors": errors}


def fp16(device: str) -> dict[str, Any]:
    """Steps with a scale that overflows at first, and falls by 16 each time."""
    scaler = torch.amp.GradScaler(device, init_scale=2.0**40, backoff_factor=2.0**-4)
    model = model_of(device, f"train.device={device}", "train.precision=fp16")
    with patch.object(Precision, "grad_scaler", lambda self: scaler):
        run = model.watched(model.chosen, Budget(STEPS, 4, 4, model.seq_len), 0.1)
    return {
        "skipped": run.progress.skipped,
        "scale": scaler.get_scale(),
        "losses": run.losses,
        "finite": all(bool(p.isfinite().all()) for p in model.model.parameters()),
    }


def adamw(device: str) -> dict[str, float]:
    """How far fused AdamW ends from torch's plain one on the CPU, relative to its way."""
    random = torch.Generator().manual_seed(0)
    start = torch.randn(300, 200, generator=random)
    gradients = [torch.randn(300, 200, generator=random) for _ in range(10)]
    ends = []
    for where, fused in ((device, True), ("cpu", False)):
        weight = torch.nn.Parameter(start.to(where, copy=True))
        optimizer = torch.optim.AdamW(
            [weight], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=fused, foreach=False
        )
        for gradient in gradients:
            weight.grad = gradient.to(where)
            optimizer.step()
        ends.append(weight.detach().cpu())
    return {"apart": float((ends[0] - ends[1]).norm() / (ends[1] - start).norm())}


def mfu(device: str) -> dict[str, Any]:
    """The rate of matrix products, and the peak that runs are held against."""
    model_of(device, f"train.device={device}").chosen.activate()
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    rates = {p: matrix_product_flops(device, p, 1.0) for p in ("bf16", "fp32")}
    peaks = {p: peak_of(device, p).flops for p in rates}
    return {"name": name, "known": table_flops(name, "bf16") is not None} | {
        f"{p} {what}": value[p]
        for p in rates
        for what, value in (("measured", rates), ("peak", peaks))
    }


def clocks(device: str) -> dict[str, float]:
    """Work of the device by the loop's clock, which the host does not wait for, and by waiting."""
    x = torch.randn(4096 if device == "cuda" else 256, 4096, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def work() -> None:
        for _ in range(50):
            x @ x.T

    work()
    wait()
    begin = time.perf_counter()
    work()
    wait()
    waited = time.perf_counter() - begin
    clock = Clocks({}, device)
    begin = time.perf_counter()
    with clock.timed("optimizer"):
        work()
    queued = time.perf_counter() - begin
    return {"waited": waited, "clock": clock.training_seconds(), "queued": queued}


def context(device: str) -> dict[str, float]:
    """Bytes that the device lacks after a few steps, beside what the allocator holds."""
    which = os.environ["CUDA_VISIBLE_DEVICES"].split(",")[0]
    ask = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    ask.append(f"--id={which}")
    before = 2**20 * int(subprocess.check_output(ask, text=True).split()[0])
    model = model_of(device, f"train.device={device}", "train.precision=bf16")
    model.steps(model.chosen, 4, 3)
    free, total = torch.cuda.mem_get_info()
    return {"context": total - free - before - torch.cuda.memory_reserved()}


def muon(device: str) -> dict[str, float]:
    """How far steps in few launches end from steps one matrix at a time, relative to their way."""
    torch.set_float32_matmul_precision("highest")  # TF32 rounds each way differently: 3e-4
    random = torch.Generator().manual_seed(0)
    shapes = [(256, 64), (64, 256), (64, 64), (16, 64)] * 2
    start = [torch.randn(shape, generator=random) for shape in shapes]
    gradients = [[torch.randn(shape, generator=random) for shape in shapes] for _ in range(5)]
    ends = []
    for together in (True, False):
        weights = [torch.nn.Parameter(weight.to(device, copy=True)) for weight in start]
        optimizer = Muon(weights, ns_dtype="fp32")
        optimizer.moves_together = lambda where, together=together: together  # type: ignore[misc]
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.to(device)
            optimizer.step()
        ends.append(torch.cat([weight.detach().cpu().flatten() for weight in weights]))
    way = ends[1] - torch.cat([weight.flatten() for weight in start])
    return {"apart": float((ends[0] - ends[1]).norm() / way.norm())}


def documents(device: str, precision: str) -> dict[str, Any]:
    """Losses and gradients of one batch of documents: by blocks in compiled code, by a mask."""
    made = model_of(device, f"train.device={device}", f"train.precision={precision}")
    made.chosen.activate()
    model = made.model
    model.documents_in_blocks = True
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(500, (2, model.max_seq_len), generator=random)
    apart = (torch.rand(tokens.shape, generator=random) < 0.02).cumsum(1)
    tokens, apart = tokens.to(device), apart.to(device)
    found = []
    for forward in (torch.compile(model), model):
        model.zero_grad()
        with made.chosen.autocast():
            loss = forward(tokens, tokens, apart)
        loss.backward()
        found.append((float(loss), model.embed.weight.grad.cpu()))
    (loss, gradient), (expected, true) = found
    away = float((gradient - true).norm() / true.norm())
    return {"loss": abs(loss - expected) / expected, "gradient": away}


def dropout(device: str) -> dict[str, list[float]]:
    """Losses of 20 steps with dropout, by precision, and without; so short that attention keeps its
    probabilities.
    """
    found = {}
    for name, precision, p in (("fp32", "fp32", 0.2), ("bf16", "bf16", 0.2), ("none", "bf16", 0.0)):
        keys = [f"train.device={device}", f"train.precision={precision}", f"model.dropout={p}"]
        model = model_of(device, *keys, "model.max_seq_len=64")
        budget = Budget(STEPS, model.batch_size, model.batch_size, model.seq_len)
        found[name] = model.watched(model.chosen, budget, 0.1).losses
    return found


def head(device: str) -> dict[str, float]:
    """The loss of 257 tokens, whose head is padded to 320, and its gradients, against the CPU."""
    random = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=random) for n in (300, 257))
    targets = torch.randint(257, (300,), generator=random)
    found = []
    for where in (device, "cpu"):
        x, w = (tensor.to(where).requires_grad_() for tensor in (hidden, weight))
        loss = cross_entropy(x, w, targets.to(where))
        loss.backward()
        found.append([loss.detach().cpu(), x.grad.cpu(), w.grad.cpu()])
    return {
        name: float((one - other).norm() / other.norm())
        for name, one, other in zip(("loss", "x", "weight"), *found, strict=True)
    }


def saving(device: str) -> dict[str, Any]:
    """A copy that is queued while the device is behind, and what training does to it after."""
    weight = torch.arange(2.0**22, device=device)
    if device == "cuda":
        torch.cuda._sleep(50_000_000)
    begin = time.perf_counter()
    arrived = snapshot({"weight": weight})
    waited = time.perf_counter() - begin
    weight.fill_(-1.0)  # the next step
    copy = arrived()["weight"]
    return {
        "equal": torch.equal(copy, torch.arange(2.0**22)), "pinned": copy.is_pinned(),
        "waited": waited,
    }  # fmt: skip


def waits(device: str) -> dict[str, int]:
    """Copies from the device to the host in ten steps; the row of the last one takes two."""
    model = model_of(device, f"train.device={device}")
    model.steps(model.chosen, 2, 2)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        model.steps(model.chosen, 2, 10)
    return {"copies": sum("Memcpy DtoH" in event.name for event in profile.events())}


def nccl(device: str) -> dict[str, bool]:
    """What the collectives of a group of one rank make of tensors on the device."""
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=dist.HashStore(), rank=0, world_size=1,
    )  # fmt: skip
    sent = [torch.arange(5.0), torch.ones(2, 3, dtype=torch.bfloat16), torch.arange(7)]
    there = [tensor.to(device) for tensor in sent]
    ranks.sum_(there)
    gathered = [ranks.gather(tensor)[0] for tensor in there]
    dist.destroy_process_group()
    return {
        what: all(torch.equal(a.cpu(), b) for a, b in zip(found, sent, strict=True))
        for what, found in (("summed", there), ("gathered", gathered))
    }


if __name__ == "__main__":
    schema.register()
    process.register_resolvers()
    for name in map(str.strip, sys.stdin):
        try:
            check, *arguments = name.split()
            found = globals()[check](sys.argv[1], *arguments)
        except Exception:
            found = {"error": traceback.format_exc()}
        print(json.dumps(found), flush=True)
