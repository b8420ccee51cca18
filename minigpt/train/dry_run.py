"""`dry_run=true`: what a run would train and cost, without training it."""

import torch

from minigpt.config import build as config
from minigpt.config.budget import steps_for_epochs, steps_for_tokens
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
    vocab_size, known = config.vocabulary(plan)
    with torch.device("meta"):
        model = config.build(cfg["model"], vocab_size)
        optimizer = config.build_optimizer(cfg["optim"], model)
    chosen = config.choose_precision(cfg)
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
        *budget_lines(plan, seq_len, flops),
        f"tokens in           {plan.tokens_folder}",
        f"run folder          {plan.folder}",
    ]
    return "\n".join(lines)


def budget_lines(plan: Plan, seq_len: int, flops: int) -> list[str]:
    """How long the run is; epochs are steps once the tokens are there to be counted."""
    train = plan.config["train"]
    tokens_per_step = train["batch_size"] * seq_len
    if train["epochs"] is None:
        steps = train["steps"] or steps_for_tokens(train["tokens"], train["batch_size"], seq_len)
    else:
        try:
            n_tokens = read_manifest(plan.tokens_folder)["splits"]["train"]["n_tokens"]
        except DataError:
            return [
                f"budget              {train['epochs']:g} epochs (steps follow from the size of the corpus)"
            ]
        steps = steps_for_epochs(
            train["epochs"], train["batch_size"], windows_in(n_tokens, seq_len)
        )
    tokens = steps * tokens_per_step
    return [f"budget              {steps:,} steps = {tokens:,} tokens = {flops * tokens:.3g} FLOPs"]
