"""Slurm's names of a task, as torch.distributed names a rank."""

import os
import subprocess

from minigpt import ranks


def take_from_slurm(devices: int) -> None:
    """Be a rank where `srun` has started a task for each device (as submitit does)."""
    slurm = {name.removeprefix("SLURM_"): value for name, value in os.environ.items()}
    if ranks.launched() > 1 or devices == 1 or slurm.get("STEP_NUM_TASKS") != str(devices):
        return
    nodes = ["scontrol", "show", "hostnames", slurm["STEP_NODELIST"]]
    first = subprocess.run(nodes, check=True, capture_output=True, text=True).stdout.split()[0]
    step = int(slurm["JOB_ID"]) * 16 + int(slurm["STEP_ID"])
    os.environ |= {
        "RANK": slurm["PROCID"],
        "LOCAL_RANK": slurm["LOCALID"],
        "WORLD_SIZE": str(devices),
        "MASTER_ADDR": first,
        "MASTER_PORT": str(20_000 + step % 10_000),
    }
