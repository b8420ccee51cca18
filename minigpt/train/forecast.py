"""What a planned run would cost on GPUs: `dry_run=true dry_run_gpu=H100 train.devices=8`.

The formulas are in on_paper.py; this counts what they need of a plan, and says it.
"""

from dataclasses import dataclass
from typing import Any

import torch

from minigpt.config.plan import Plan
from minigpt.config.precision import Precision
from minigpt.optim.batching import batches
from minigpt.optim.by_role import ByRole
from minigpt.optim.matrices import matrices_of
from minigpt.optim.muon import Muon
from minigpt.optim.newton_schulz import flops
from minigpt.optim.shares import shares
from minigpt.train import on_paper, peak
from minigpt.train.gpus import Links, gpu_of
from minigpt.train.memory import Memory


@dataclass(frozen=True)
class Forecast:
    """A step of a plan on its devices, all of them of one kind."""

    gpu: str
    ranks: int
    batch_size: int  # sequences
    seq_len: int
    accumulation: int
    work: on_paper.Work
    needed: Memory  # on each
    links: Links
    step: on_paper.Step
    speedup: float  # over one
    told_flops: bool  # whether the optimizers tell the FLOPs of their products

    @property
    def tokens_per_s(self) -> float:
        return self.batch_size * self.seq_len / self.step.total


def forecast(
    plan: Plan, model: Any, optimizer: ByRole, needed: Memory, chosen: Precision
) -> Forecast | None:
    """None without a GPU, or where gpus.py has no links. Arguments as for dry_run.describe."""
    gpu, train, ranks = plan.config["dry_run_gpu"] or "", plan.config["train"], plan.devices
    known, rate = gpu_of(gpu), peak.table_flops(gpu, chosen.precision)
    if chosen.device != "cuda" or known is None or known.links is None or rate is None:
        return None
    # what Muon takes by itself is bf16 where the GPU has it
    half = chosen.precision != "fp16"
    optimizer_rate = peak.table_flops(gpu, "bf16" if half else "fp32") or rate
    batch, micro = train["batch_size"], train["micro_batch_size"]
    model_flops = model.flops_per_token(plan.seq_len) * batch * plan.seq_len
    works = [work_of(optimizer, n, half, model_flops, needed.state) for n in (1, ranks)]
    alone, step = (
        on_paper.step_of(work, n, known.links, rate, optimizer_rate)
        for work, n in zip(works, (1, ranks))
    )
    accumulation = batch // (micro * ranks) if micro else 1
    return Forecast(
        gpu, ranks, batch, plan.seq_len, accumulation, works[1], needed, known.links, step,
        speedup=alone.total / step.total,
        told_flops=optimizer.flops_per_step() is not None,
    )  # fmt: skip


def work_of(
    optimizer: ByRole, ranks: int, half: bool, model_flops: float, state: float
) -> on_paper.Work:
    """What each of some ranks has to do, Muon's products shared out as it does it.

    half: whether Muon multiplies in bf16 unless told otherwise.
    """
    count, busiest, gathered = 0, 0, 0
    for part in optimizer.optimizers.values():
        if not isinstance(part, Muon):
            tell = getattr(part, "flops_per_step", None)
            busiest += tell() if callable(tell) else 0  # on every rank
            continue
        weights = [
            matrix
            for group in part.param_groups
            for parameter in group["params"]
            for matrix in matrices_of(parameter.to("meta"), group)
        ]
        shapes = [weight.shape for weight in weights]
        dtype = torch.bfloat16 if half and part.ns_dtype != "fp32" else torch.float32
        work, steps = batches(weights, dtype, ranks), len(part.coefficients)
        own = [[shapes[i] for n in mine for i in work[n]] for mine in shares(work, shapes, ranks)]
        busiest += max(sum(flops(rows, columns, steps) for rows, columns in of) for of in own)
        gathered += ranks * dtype.itemsize * max(sum(shape.numel() for shape in of) for of in own)
        count += sum(shape.numel() for shape in shapes)
    trained = sum(parameter.numel() for parameter in optimizer.names)
    return on_paper.Work(model_flops, trained, state, count, busiest, gathered)


def told(found: Forecast) -> dict[str, str]:
    """The forecast in words, by the name of each line."""
    step, ranks = found.step, found.ranks
    ms = lambda seconds: f"{1e3 * seconds:,.1f}"
    parts = {
        f"compute (at {100 * on_paper.MFU:.0f} % of the peak, assumed)": step.compute,
        "all-reduce": step.all_reduce,
        "optimizer": step.optimizer,
        "gather of Muon's updates": step.gather,
    }
    sum_ = " + ".join(f"{ms(seconds)} {part}" for part, seconds in parts.items() if seconds)
    said = {"a step, estimated": f"{ms(step.total)} ms on {ranks} x {found.gpu} = {sum_}"}
    rate = f"{float(f'{found.tokens_per_s:.3g}'):,.0f}"
    state = found.needed.state / found.work.parameters
    layouts = on_paper.layouts(state, ranks, found.accumulation)
    if ranks == 1:
        said["tokens per second"] = rate
        layouts = {"replicas": layouts["replicas"]}
    else:
        least = on_paper.smallest_batch(step, found.batch_size, ranks)
        said["tokens per second"] = f"{rate}, {found.speedup:.1f} times one GPU"
        said["communication"] = (
            f"{100 * step.communication:.1f} % of a step; "
            f"at most 10 % from train.batch_size={least} on"
        )
    for name, layout in layouts.items():
        muon = layout.muon * found.work.muon_parameters / found.work.parameters
        sent = f", {layout.sent + muon:.1f} sent a step" if ranks > 1 else ""
        said[name] = (
            f"{layout.held:.3g} bytes a parameter{sent}; without activations "
            f"{found.links.memory_gb:g} GB are full at {found.links.memory_gb / layout.held:.3g}B"
        )
    untold = (
        "" if found.told_flops else "without the optimizer's products, which it does not tell; "
    )
    said["these estimates"] = (
        f"{untold}from data sheets (minigpt/train/on_paper.py), "
        "never run on more than a CPU's processes"
    )
    return said
