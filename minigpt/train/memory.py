"""How much memory a run will need, for dry_run=true and minigpt.bench.

Weights and gradients are counted. Optimizer state and what blocks keep for the backward pass are
measured on stand-ins, so that they stay true whatever an optimizer, an attention or a feed-forward
layer keeps.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from minigpt.config import identity
from minigpt.config.build import build
from minigpt.config.precision import Precision
from minigpt.model.loss import work_bytes
from minigpt.train.optimizer_form import stepped

# Resident after a first step beside the model: interpreter, PyTorch, kernels. Measured on Linux.
PROGRAM_BYTES = 340 * 2**20
# What a build for CUDA takes beside, also where it computes on the CPU (torch 2.15).
CUDA_LIBRARIES_BYTES = 485 * 2**20
# A CUDA context with the code of PyTorch's kernels, and what cuBLAS keeps: measured on an H100 with
# PyTorch 2.11 (experiments/gpu). It differs by GPU and driver.
CONTEXT_BYTES = 763 * 2**20
# What the C library's heap holds per byte of activations, in 16 and in 32 bits, measured with glibc
# 2.36: the hole that a freed block leaves does not fit the next block of that size. With a page
# mapping for each block it would be 1.0.
HEAP_16, HEAP_32 = 1.35, 1.5
# Temporaries of the backward pass of one block, in units of what the block keeps; when it is
# computed again, these and those of the forward pass. Measured.
TEMPORARIES, TEMPORARIES_AGAIN = 1.0, 2.0
SEQUENCE = 64  # tokens of the stand-in; what a block keeps is linear in tokens
# Layers may differ. Those from 1 on are taken to repeat after so many: right for up to 5 layers and
# for patterns of 2 and of 4; 4 % too little for every third of 12.
PERIOD = 4


@dataclass(frozen=True)
class Memory:
    """Bytes of a run at its largest."""

    program: float  # what PyTorch itself takes: of the host, or of the GPU
    weights: float
    state: float  # of the optimizer
    gradients: float
    activations: float
    logits: float
    heap: float  # bytes that the heap holds per byte of activations

    @property
    def work(self) -> float:
        """What lives for a part of a step."""
        return self.gradients + self.logits + self.heap * self.activations

    @property
    def total(self) -> float:
        return self.total_of(1)

    def total_of(self, ranks: int) -> float:
        """On each of so many ranks. Gradients are there twice while ranks sum them."""
        summing = 2 * self.gradients if ranks > 1 else 0
        return self.program + self.weights + self.state + max(self.work, summing)


def estimate(
    cfg: dict[str, Any], model: Any, micro_batch: int, vocab_size: int, chosen: Precision
) -> Memory:
    """The memory of a plan's run. model: its model, on `meta` or anywhere."""
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens, d_model = micro_batch * model.max_seq_len, model.embed.weight.shape[1]
    dtype = torch.float32 if chosen.precision == "fp32" else torch.bfloat16
    device, on_cpu = chosen.device, chosen.device == "cpu"
    program = PROGRAM_BYTES + (CUDA_LIBRARIES_BYTES if torch.version.cuda else 0)
    if chosen.device == "cuda":
        program = CONTEXT_BYTES
        if not torch.cuda.is_available():  # planned for: a CPU keeps about the same for backward
            chosen = replace(chosen, device="cpu")
    # Each member of an ensemble keeps the gradients of its loss.
    members = len(getattr(model, "members", [model]))
    of_losses = (members - 1) * d_model * (4 * vocab_size + dtype.itemsize * tokens)
    return Memory(
        program=program if device != "mps" else 0,
        weights=4 * parameters,
        state=state_bytes(cfg["optim"], model),
        gradients=4 * trained,
        activations=activation_bytes(cfg, tokens, d_model, chosen, members),
        logits=work_bytes(tokens, d_model, vocab_size, dtype, device) + of_losses,
        heap=(HEAP_32 if dtype == torch.float32 else HEAP_16) if on_cpu else 1.0,
    )


def activation_bytes(
    cfg: dict[str, Any], tokens: int, d_model: int, chosen: Precision, members: int = 1
) -> float:
    """What is kept from forward for backward below the head, and one block's temporaries.

    That is all of each block, or with activation checkpointing the input of each (fp32) and all of
    the largest. An ensemble has n_layers of each member.
    """
    seq_len = min(SEQUENCE, identity.argument(cfg["model"], "max_seq_len"))
    n_layers = identity.argument(cfg["model"], "n_layers")
    node = cfg["model"] | {"n_layers": min(n_layers, 1 + PERIOD)}
    one, two = saved_bytes(node, (1, 2), seq_len, chosen)
    # linear in tokens; a part of it does not depend on them
    rest, *blocks = [(b - a) * tokens / seq_len + 2 * a - b for a, b in zip(one, two, strict=True)]
    largest = max(blocks)
    if cfg["train"]["activation_checkpointing"]:
        inputs = 4 * d_model * n_layers * members * tokens
        return rest + inputs + (1 + TEMPORARIES_AGAIN) * largest
    layers = [sum(blocks[i :: node["n_layers"]]) for i in range(node["n_layers"])]
    alike = [i if i <= PERIOD else 1 + (i - 1) % PERIOD for i in range(n_layers)]
    return rest + sum(layers[i] for i in alike) + TEMPORARIES * largest


def saved_bytes(
    node: dict[str, Any], batches: Iterable[int], seq_len: int, chosen: Precision
) -> list[list[int]]:
    """Bytes that autograd keeps of a forward pass up to the head, beside the parameters, by batch:
    those outside of blocks, then of each block (a member's after those of the one before).

    batches: sequences.
    """
    with torch.random.fork_rng(devices=[]):
        model = build(node, 2).to(chosen.device)
        return [_saved_bytes(model, batch, seq_len, chosen) for batch in batches]


def _saved_bytes(model: Any, batch: int, seq_len: int, chosen: Precision) -> list[int]:
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    blocks = [block for member in getattr(model, "members", [model]) for block in member.blocks]
    kept: list[dict[int, int]] = [{} for _ in range(1 + len(blocks))]
    inside = [0]

    def enter(number: int, *_: Any) -> None:
        inside[0] = number

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        pointer = storage.data_ptr()
        if pointer not in parameters and not any(pointer in part for part in kept):
            kept[inside[0]][pointer] = storage.nbytes()
        return tensor

    tokens = torch.zeros(batch, seq_len, dtype=torch.int64, device=chosen.device)
    with ExitStack() as stack:
        for number, block in enumerate(blocks, 1):
            stack.enter_context(block.register_forward_pre_hook(partial(enter, number)))
            stack.enter_context(block.register_forward_hook(partial(enter, 0)))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        stack.enter_context(chosen.autocast())
        hidden = model.hidden(tokens)  # alive until here, so that no address is used twice
    del hidden
    return [sum(part.values()) for part in kept]


def state_bytes(optim: dict[str, Any], model: Any) -> float:
    """Optimizer state, measured on a small stand-in for each parameter and scaled up."""
    roles, forms = model.roles(), []
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        matrix = (2 * roles[name].n_heads, 16)
        shape = (2,) * (parameter.dim() - 2) + (matrix if parameter.dim() > 1 else (16,))
        forms.append((name, (shape, roles[name], parameter.requires_grad)))
    optimizer = stepped(optim, forms)
    states = {p: part.state[p] for part in optimizer.optimizers.values() for p in part.state}
    per_value = {
        name: sum(v.nbytes for v in states.get(p, {}).values() if getattr(v, "ndim", 0)) / p.numel()
        for p, name in optimizer.names.items()
    }
    return sum(value * parameters[name].numel() for name, value in per_value.items())
