"""`dry_run=true`: what a run would train and cost, without training it."""

from contextlib import suppress
from typing import Any

from minigpt.config.budget import Budget
from minigpt.config.build import choose_precision, vocabulary
from minigpt.config.plan import Plan
from minigpt.data.manifest import read_manifest
from minigpt.errors import ConfigError, DataError
from minigpt.optim.by_role import ByRole
from minigpt.terminal import duration, gib, table
from minigpt.train import memory, peak
from minigpt.train.forecast import forecast, told
from minigpt.train.gpus import GPUS

UNTOLD = {"a step, estimated": "unknown: no links of this GPU in minigpt/train/gpus.py"}


def describe(plan: Plan, model: Any, optimizer: ByRole) -> str:
    """A table of the parameters, then memory, FLOPs, and where the run would live.

    model, optimizer: those of the plan, which may lie on `meta`.
    """
    config, train = plan.config, plan.config["train"]
    vocab_size, known = vocabulary(plan)
    roles, parameters = model.roles(), dict(model.named_parameters())
    owners = {
        optimizer.names[parameter]: (type(part).__name__, group)
        for part in optimizer.optimizers.values()
        for group in part.param_groups
        for parameter in group["params"]
    }
    rows = [("parameter", "role", "kind", "shape", "count", "optimizer", "lr", "decay")]
    sizes = dict.fromkeys(optimizer.optimizers, 0)
    for name, parameter in parameters.items():
        role, (owner, group) = roles[name], owners.get(name, ("frozen", {"lr": 0}))
        sizes[role.name] = sizes.get(role.name, 0) + parameter.numel()
        shape, count = " x ".join(map(str, parameter.shape)), f"{parameter.numel():,}"
        lr, decay = f"{group['lr']:g}", f"{group.get('weight_decay', 0):g}"
        rows.append((name, role.name, role.kind, shape, count, owner, lr, decay))
    chosen, flops, budget = choose_precision(config), model.flops_per_token(plan.seq_len), None
    with suppress(DataError):
        budget = budget_of(plan)
    gpu = config["dry_run_gpu"]
    rate = peak.table_flops(gpu or "", chosen.precision)
    if gpu is not None and rate is None:
        raise ConfigError(f"unknown GPU: dry_run_gpu={gpu} (one of {', '.join(GPUS)})")
    if rate is not None and budget is not None:
        chosen = chosen.for_run(flops * budget.tokens / rate)
    micro = train["micro_batch_size"] or train["batch_size"] // plan.devices
    needed = memory.estimate(config, model, micro, vocab_size, chosen)
    found = forecast(plan, model, optimizer, needed, chosen)
    rest = "PyTorch and the heap"
    if chosen.device == "cuda":
        rest = "CUDA's context, and eager code is assumed"
    facts = {
        "parameters": f"{sum(sizes.values()):,} "
        f"({', '.join(f'{role} {n:,}' for role, n in sizes.items())})",
        "vocabulary": f"{vocab_size:,} {known}",
        "device": chosen.describe(),
        "memory, estimated": f"{gib(needed.total_of(plan.devices))} "
        f"{'on each device ' if plan.devices > 1 else ''}with train.micro_batch_size={micro} "
        f"(weights {gib(needed.weights)}, optimizer state {gib(needed.state)}, "
        f"gradients {gib(needed.gradients)}, activations {gib(needed.activations)}, "
        f"logits {gib(needed.logits)}; the rest is {rest})",
        "FLOPs per token": f"{flops:,} (forward and backward)",
        "tokens per step": f"{train['batch_size'] * plan.seq_len:,} "
        f"= {train['batch_size']} sequences x {plan.seq_len}",
        "budget": budget_text(plan, budget, flops, rate),
        **(told(found) if found else {} if rate is None else UNTOLD),
        "tokens in": str(plan.tokens_folder),
        "run folder": str(plan.folder),
    }
    return "\n".join([*table(rows), "", *(f"{key:<20}{fact}" for key, fact in facts.items())])


def budget_of(plan: Plan) -> Budget:
    """How long the run is. Raises DataError for epochs of tokens that are not prepared yet."""
    windows = 0
    if plan.config["train"]["epochs"] is not None:
        from minigpt.data.windows import windows_in

        manifest = read_manifest(plan.tokens_folder)
        windows = windows_in(manifest["splits"]["train"]["n_tokens"], plan.seq_len)
    return plan.budget(windows)


def budget_text(plan: Plan, budget: Budget | None, flops: int, rate: float | None) -> str:
    """How long the run is, in words.

    rate: FLOP/s of the GPU that is planned for, at its best.
    """
    if budget is None:
        epochs = plan.config["train"]["epochs"]
        return f"{epochs:g} epochs (steps follow from the size of the corpus)"
    total, n = flops * budget.tokens, plan.devices
    gpus = f"{n} x {plan.config['dry_run_gpu']}" if n > 1 else plan.config["dry_run_gpu"]
    least = f" = {duration(total / rate / n)} at the peak of {gpus}" if rate else ""
    return f"{budget.steps:,} steps = {budget.tokens:,} tokens = {total:.3g} FLOPs{least}"
