"""How long a step of Muon takes beside torch.optim.Muon, on the hidden matrices of our models.

    python experiments/speed/muon_step.py                      tiny and small, all CPU cores
    python experiments/speed/muon_step.py tiny --threads 1 --rounds 200

Paired: both optimizers get the same parameters and gradients and step in turn, the order
alternating, so a busy machine slows both; the ratio is the median over rounds, with its quartiles.
AdamW (fused) is timed in the same rounds.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from minigpt.optim.muon import Muon

CONF = Path(__file__).parents[2] / "conf" / "model"


def hidden_matrices(model_name: str) -> list[torch.nn.Parameter]:
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
            matrices.append(torch.nn.Parameter(0.02 * torch.randn(p.shape, generator=generator)))
            matrices[-1].grad = 1e-3 * torch.randn(p.shape, generator=generator)
    return matrices


def seconds(optimizer: torch.optim.Optimizer) -> float:
    start = time.perf_counter()
    optimizer.step()
    return time.perf_counter() - start


def measure(model_name: str, rounds: int) -> str:
    ours, theirs, adamw = (hidden_matrices(model_name) for _ in range(3))
    arms = {
        "ours": Muon(ours, lr=0.02, weight_decay=0.05, ns_dtype="bf16"),
        "torch": torch.optim.Muon(theirs, lr=0.02, weight_decay=0.05),
        "adamw": torch.optim.AdamW(adamw, lr=1e-3, fused=True),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(-3, rounds):  # three rounds to warm up
        for name in list(arms) if i % 2 else reversed(arms):
            duration = seconds(arms[name])
            if i >= 0:
                times[name].append(duration)
    assert all(map(torch.equal, ours, theirs)), "the two optimizers disagree"
    low, middle, high = statistics.quantiles(
        [t / o for t, o in zip(times["torch"], times["ours"])], n=4
    )
    ms = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    return (
        f"| {model_name} | {len(ours)} | {rounds} | {ms['ours']:.1f} | {ms['torch']:.1f} "
        f"| {ms['adamw']:.1f} | {middle:.2f} ({low:.2f}-{high:.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["tiny", "small"])
    parser.add_argument("--rounds", type=int, default=0, help="0: 100 for tiny, 15 for others")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads")
    print(
        "| model | matrices | rounds | ours, ms | torch.optim.Muon, ms | AdamW fused, ms "
        "| torch / ours (quartiles) |"
    )
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        print(measure(model, arguments.rounds or (100 if model == "tiny" else 15)), flush=True)


if __name__ == "__main__":
    main()
