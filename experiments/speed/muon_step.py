"""How long a step of Muon takes beside torch.optim.Muon, on the hidden matrices of our models.

    python experiments/speed/muon_step.py                      tiny and small, all CPU cores
    python experiments/speed/muon_step.py tiny --threads 1 --rounds 200
    python experiments/speed/muon_step.py small medium --device cuda

Paired: both optimizers get the same parameters and gradients and step in turn, the order
alternating, so a busy machine slows both; the ratio is the median over rounds, with its quartiles.
AdamW (fused) is timed in the same rounds. Launches are the kernels of a step, by the profiler; on a
CPU, which launches none, the operators that it calls. `python -m minigpt.bench gpu` runs it with
--json.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from minigpt.optim.muon import Muon

CONF = Path(__file__).parents[2] / "conf" / "model"
APART = 0.05  # of their way, that two Muons on a GPU may end apart: Newton-Schulz in bf16


def hidden_matrices(model_name: str, device: str) -> list[torch.nn.Parameter]:
    """Weights (N(0, 0.02^2)) and gradients of a model's hidden role, in the model's order."""
    config = OmegaConf.merge(
        *(OmegaConf.load(CONF / f"{name}.yaml") for name in ("_base", model_name))
    )
    node = {key: value for key, value in config.items() if key != "defaults"}
    with torch.device("meta"):
        model = instantiate(node, vocab_size=16)
    generator = torch.Generator().manual_seed(0)
    roles, matrices = model.roles(), []
    for name, p in model.named_parameters():
        if roles[name].name == "hidden":
            weight, gradient = (torch.randn(p.shape, generator=generator) for _ in range(2))
            matrices.append(torch.nn.Parameter((0.02 * weight).to(device)))
            matrices[-1].grad = (1e-3 * gradient).to(device)
    return matrices


def seconds(optimizer: torch.optim.Optimizer, device: str) -> float:
    """Of one step, until the device has done it."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    optimizer.step()
    wait()
    return time.perf_counter() - start


class Operators(TorchDispatchMode):
    """Counts what is dispatched."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))


def launches(optimizer: torch.optim.Optimizer, device: str) -> int:
    """Kernels that a step launches; on a CPU, which launches none, the operators that it calls."""
    if device == "cpu":
        with Operators() as operators:
            optimizer.step()
        return operators.seen
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        optimizer.step()
        torch.cuda.synchronize()
    return sum("LaunchKernel" in event.name for event in seen.events())


def measure(model_name: str, rounds: int, device: str) -> dict[str, Any]:
    first, ours, theirs, adamw = (hidden_matrices(model_name, device) for _ in range(4))
    arms = {
        "ours": Muon(ours, lr=0.02, weight_decay=0.05, ns_dtype="bf16"),
        "torch": torch.optim.Muon(theirs, lr=0.02, weight_decay=0.05),
        "adamw": torch.optim.AdamW(adamw, lr=1e-3, fused=True),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(-3, rounds):  # three rounds to warm up
        for name in list(arms) if i % 2 else reversed(arms):
            duration = seconds(arms[name], device)
            if i >= 0:
                times[name].append(duration)
    with torch.no_grad():
        apart = max(float((a - b).norm() / (b - c).norm()) for a, b, c in zip(ours, theirs, first))
    bad = f"FAILED: beyond {APART if device == 'cuda' else 'equal'}"
    low, middle, high = statistics.quantiles(
        [t / o for t, o in zip(times["torch"], times["ours"])], n=4
    )
    ms = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    return {
        "model": model_name,
        "matrices": len(ours),
        "rounds": rounds,
        "ours, ms": ms["ours"],
        "torch.optim.Muon, ms": ms["torch"],
        "AdamW fused, ms": ms["adamw"],
        "torch / ours (quartiles)": f"{middle:.2f} ({low:.2f}-{high:.2f})",
        **{f"launches, {name}": launches(arm, device) for name, arm in arms.items()},
        "apart, of their way": apart,
        "result": "within" if apart <= (APART if device == "cuda" else 0.0) else bad,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["tiny", "small"])
    parser.add_argument("--rounds", type=int, default=0, help="0: 100 for tiny, 15 for others")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true", help="all rows after each model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        rounds = arguments.rounds or (100 if model == "tiny" else 15)
        rows.append(measure(model, rounds, arguments.device))
        if arguments.json:
            print(json.dumps({"rows": rows}), flush=True)
            continue
        if len(rows) == 1:
            print(f"| {' | '.join(rows[0])} |\n{'|---' * len(rows[0])}|")
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in rows[-1].values())
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
