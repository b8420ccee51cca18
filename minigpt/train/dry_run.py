"""`dry_run=true`: what a run would train and cost, without training it."""

import torch

from minigpt.config.build import build, build_optimizer, choose_precision, vocabulary
from minigpt.config.plan import Plan
from minigpt.data.manifest import read_manifest
from minigpt.data.windows import windows_in
from minigpt.errors import DataError
from minigpt.terminal import gib, table
from minigpt.train import memory


def describe(plan: Plan) -> str:
    """Parameters by role, shape, count, optimizer, lr and decay; memory, FLOPs and where the run
    would live.
    """
    cfg = plan.config
    vocab_size, known = vocabulary(plan)
    with torch.device("meta"):
        model = build(cfg["model"], vocab_size)
        optimizer = build_optimizer(cfg["optim"], model)
    chosen = choose_precision(cfg)
    roles = model.roles()
    owners = {
        optimizer.names[parameter]: (type(part).__name__, group)
        for part in optimizer.optimizers.values()
        for group in part.param_groups
        for parameter in group["params"]
    }
    rows = [("parameter", "role", "kind", "shape", "count", "optimizer", "lr", "decay")]
    for name, parameter in model.named_parameters():
        owner, group = owners[name]
        shape = " x ".join(map(str, parameter.shape))
        rows.append(
            (name, roles[name].name, roles[name].kind, shape, f"{parameter.numel():,}", owner, f"{group['lr']:g}",
             f"{group.get('weight_decay', 0):g}")
        )  # fmt: skip
    count = sum(parameter.numel() for parameter in model.parameters())
    by_role = {
        role: sum(p.numel() for n, p in model.named_parameters() if roles[n].name == role)
        for role in optimizer.optimizers
    }
    seq_len, train = model.max_seq_len, cfg["train"]
    micro = train["micro_batch_size"] or train["batch_size"]
    needed = memory.estimate(cfg, model, micro, vocab_size, chosen)
    flops = model.flops_per_token(seq_len)
    tokens_per_step = train["batch_size"] * seq_len
    lines = [
        *table(rows),
        "",
        f"parameters          {count:,} ({', '.join(f'{role} {n:,}' for role, n in by_role.items())})",
        f"vocabulary          {vocab_size:,} {known}",
        f"device              {chosen.describe()}",
        f"memory, estimated   {gib(needed.total)} with train.micro_batch_size={micro} "
        f"(weights {gib(needed.weights)}, optimizer state {gib(needed.state)}, gradients {gib(needed.gradients)}, "
        f"activations {gib(needed.activations)}, logits {gib(needed.logits)}; the rest is PyTorch and the heap)",
        f"FLOPs per token     {flops:,} (forward and backward)",
        f"tokens per step     {tokens_per_step:,} = {train['batch_size']} sequences x {seq_len}",
        budget_line(plan, flops),
        f"tokens in           {plan.tokens_folder}",
        f"run folder          {plan.folder}",
    ]
    return "\n".join(lines)


def budget_line(plan: Plan, flops: int) -> str:
    """How long the run is; epochs are steps once the tokens are there to be counted."""
    epochs, windows = plan.config["train"]["epochs"], 0
    if epochs is not None:
        try:
            n_tokens = read_manifest(plan.tokens_folder)["splits"]["train"]["n_tokens"]
        except DataError:
            return (
                f"budget              {epochs:g} epochs (steps follow from the size of the corpus)"
            )
        windows = windows_in(n_tokens, plan.seq_len)
    budget = plan.budget(windows)
    return (
        f"budget              {budget.steps:,} steps = {budget.tokens:,} tokens "
        f"= {flops * budget.tokens:.3g} FLOPs"
    )
