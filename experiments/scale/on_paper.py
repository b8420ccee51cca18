"""medium and large on 1, 8 and 64 H100, on paper: the table of README "From laptop to cluster".

    python experiments/scale/on_paper.py [override ...]

Each row is what `python train.py experiment=medium_gpu model=... train.devices=... dry_run=true
train.device=cuda dry_run_gpu=H100` says, as markdown on stdout; "slow network" is 100 Gb/s for each
machine of eight. Estimates of minigpt/train/on_paper.py; overrides are train.py's.
"""

import sys

from minigpt.cli import composition, process
from minigpt.config.build import check_built, choose_precision, vocabulary
from minigpt.config.plan import Plan, plan_of
from minigpt.train import memory, on_paper, peak
from minigpt.train.forecast import Forecast, forecast
from minigpt.train.gpus import ETHERNET

GPU, GPUS, MODELS, MICRO = "H100", (1, 8, 64), ("medium", "large"), 32
HEAD = (
    "model", "GPUs", "memory, GiB", "step, ms", "compute", "all-reduce", "optimizer", "gather",
    "communication", "tokens/s", "speedup", "10 % from batch",
)  # fmt: skip


def planned(model: str, ranks: int, overrides: list[str]) -> Plan:
    """The plan that train.py would make."""
    recipe = ["experiment=medium_gpu", f"model={model}", "dry_run=true", "train.device=cuda"]
    sequences = min(MICRO, 512 // ranks)
    places = [f"dry_run_gpu={GPU}", f"train.devices={ranks}", f"train.micro_batch_size={sequences}"]
    return plan_of(composition.compose("train", [*recipe, *places, *overrides], None, plan_of))


def forecast_of(plan: Plan) -> Forecast:
    """What dry_run=true would tell of it."""
    model, optimizer = check_built(plan)
    chosen, micro = choose_precision(plan.config), plan.config["train"]["micro_batch_size"]
    needed = memory.estimate(plan.config, model, micro, vocabulary(plan)[0], chosen)
    found = forecast(plan, model, optimizer, needed, chosen)
    assert found is not None
    return found


def over_ethernet(found: Forecast) -> on_paper.Step:
    """The same step where a machine has 100 Gb/s."""
    rates = [peak.table_flops(GPU, "bf16") or 0.0] * 2
    slow = found.links._replace(network_gb_s=ETHERNET)
    return on_paper.step_of(found.work, found.ranks, slow, *rates)


def row(model: str, gpus: str, found: Forecast, step: on_paper.Step) -> list[str]:
    parts = (step.total, step.compute, step.all_reduce, step.optimizer, step.gather)
    tokens = found.batch_size * found.seq_len / step.total
    least = "" if found.ranks == 1 else on_paper.smallest_batch(step, found.batch_size, found.ranks)
    return [
        model, gpus, f"{found.needed.total_of(found.ranks) / 2**30:.1f}",
        *(f"{1e3 * seconds:,.1f}" for seconds in parts), f"{100 * step.communication:.1f} %",
        f"{tokens / 1e6:.3g}M", f"{found.speedup * found.step.total / step.total:.1f}", f"{least}",
    ]  # fmt: skip


def main(overrides: list[str]) -> None:
    process.set_up_composing()
    lines = [list(HEAD), ["---"] * len(HEAD)]
    for model in MODELS:
        for ranks in GPUS:
            found = forecast_of(planned(model, ranks, overrides))
            lines.append(row(model, str(ranks), found, found.step))
        lines.append(row(model, f"{ranks}, slow network", found, over_ethernet(found)))
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


if __name__ == "__main__":
    main(sys.argv[1:])
