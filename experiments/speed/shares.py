"""Where the time of a step of the reference recipe goes, and that of evaluations and checkpoints.

    python experiments/speed/shares.py [--steps 5] [--threads 1] [--processor-time] [--dry]
        [override ...]

`experiment=mini_gpt` as train.py runs it (minigpt.train.training.run, wandb's mirror offline), on
20,000,000 random ids in a temporary folder (TMPDIR chooses where), bf16, with a row of the log
every step. A measured step has one micro-batch; its data, forward and backward count as often as
the recipe accumulates. The run stops after `--steps` of them, with an evaluation and a checkpoint.
What the loop's own clocks do not tell apart is timed by wrapping the functions.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from in_readme import put
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from minigpt.cli import composition, process
from minigpt.config.plan import plan_of
from minigpt.logger.wandb import WandbLogger
from minigpt.train import clocks as train_clocks
from minigpt.train import training
from minigpt.train.bar import ProgressBar
from minigpt.train.run import Run

VOCABULARY, TRAIN_TOKENS = 20_000, 20_000_000
EVALUATED = 10_240  # tokens
GOALS = {"Muon": "< 5%", "data": "< 1%", "logging": "< 0.5%"}
SHOWN = {
    "forward and backward": "forward_backward",
    "Muon": "Muon",
    "AdamW": "AdamW",
    "gradient clipping": "clipping",
    "data": "data",
    "logging": "logging",
    "- row to metrics.jsonl": "metrics",
    "- wandb, handing over a row": "mirror",
    "- bar": "bar",
}
# do not overlap; the rest is "other"
CLOCKED = ("forward_backward", "Muon", "AdamW", "clipping", "data", "logging")


class Clocks:
    """Seconds by part since the start, and what each step added to them.

    The loop's own parts come from its Progress; the others from wrapped functions.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.spent: Counter[str] = Counter()
        self.steps: list[Counter[str]] = []
        self.live: Run | None = None
        self.before: Counter[str] = Counter()

    def now(self) -> Counter[str]:
        assert self.live is not None
        return Counter({**self.spent, **self.live.progress.seconds, "step": self.clock()})

    def wrap(
        self, owner: Any, name: str, part: str, other_clock: Callable[[], float] | None = None
    ) -> None:
        """Time every call of a function."""
        function, clock = getattr(owner, name), other_clock or self.clock

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[part] += clock() - begin  # type: ignore[assignment]

        setattr(owner, name, timed)

    def watch(self) -> None:
        """From now on a step begins where the loop asks whether to stop, and ends with its row."""
        register_optimizer_step_pre_hook(lambda optimizer, *_: self.add(optimizer, -self.clock()))
        register_optimizer_step_post_hook(lambda optimizer, *_: self.add(optimizer, self.clock()))
        self.wrap(torch.nn.utils, "clip_grad_norm_", "clipping")
        self.wrap(ProgressBar, "step", "bar")
        self.wrap(ProgressBar, "show", "bar")
        self.wrap(WandbLogger, "log", "mirror")
        self.wrap(Run, "on_step", "logging")
        self.wrap(Run, "record", "logging")
        stop_requested, record = Run.stop_requested, Run.record

        def begins(live: Run) -> object:
            if self.live is None:
                self.wrap(live.folder.metrics, "append", "metrics")
            self.live = live
            self.before = self.now()
            return stop_requested(live)

        def ends(live: Run, row: dict[str, Any]) -> None:
            record(live, row)
            if "train/loss" in row:
                after = self.now()
                self.steps.append(
                    Counter({part: after[part] - self.before[part] for part in after})
                )

        Run.stop_requested = begins  # type: ignore[method-assign, assignment]
        Run.record = ends  # type: ignore[method-assign, assignment]

    def add(self, optimizer: torch.optim.Optimizer, seconds: float) -> None:
        self.spent[type(optimizer).__name__] += seconds  # type: ignore[assignment]


def random_shards(folder: Path) -> list[str]:
    """Token files of random ids; returns the overrides that choose them."""
    for split, count in (("train", TRAIN_TOKENS), ("val", EVALUATED + 1)):
        np.random.default_rng(0).integers(0, VOCABULARY, count, dtype=np.uint16).tofile(
            folder / f"{split}.bin"
        )
    return [
        "data=bin", "data.tokenizer.end_of_text=0", "data.max_tokens=null",
        f"data.train={folder}/train.bin", f"data.val={folder}/val.bin",
        f"data_dir={folder}/tokens", f"output_dir={folder}/runs",
    ]  # fmt: skip


def measure(
    folder: Path, steps: int, threads: int, processor_time: bool, overrides: list[str]
) -> str:
    """Run the recipe and return the tables."""
    os.environ["WANDB_MODE"] = "offline"
    process.set_up_composing()
    recipe = composition.compose("train", ["experiment=mini_gpt", *overrides], None, plan_of)
    micro_batch = recipe.train.micro_batch_size
    evaluated, every = recipe.eval.tokens, recipe.eval.every
    accumulation = recipe.train.batch_size // micro_batch
    wanted = [
        "experiment=mini_gpt", *random_shards(folder),
        "train.precision=bf16", f"train.threads={threads}", "log.every=1",
        f"train.stop_after={steps}", f"eval.every={steps}", f"eval.tokens={EVALUATED}",
        *overrides, f"train.batch_size={micro_batch}",
    ]  # fmt: skip
    plan = plan_of(composition.compose("train", wanted, None, plan_of))
    clocks = Clocks(time.thread_time if processor_time else time.perf_counter)
    train_clocks.time = SimpleNamespace(perf_counter=clocks.clock)  # type: ignore[assignment]
    clocks.watch()
    clocks.wrap(Run, "save", "checkpoint", time.perf_counter)
    training.run(plan)

    assert clocks.live is not None
    assert len(clocks.steps) == steps
    for each in clocks.steps:
        each["other"] = each["step"] - sum(each[part] for part in CLOCKED)
        each["step"] += (accumulation - 1) * (each["data"] + each["forward_backward"])
        each["data"] *= accumulation
        each["forward_backward"] *= accumulation
    step = median(each["step"] for each in clocks.steps)
    tokens = clocks.live.budget.tokens_per_step * accumulation
    clock = "processor time of the training thread, " * processor_time + f"{threads} thread(s)"
    lines = [
        f"A step of {tokens:,} tokens: {step:.1f} s; {clock}, medians of {steps} steps. "
        "Data, forward and backward: "
        f"one micro-batch of {micro_batch} x {clocks.live.budget.seq_len}, times {accumulation}.",
        "",
        "| part of a step | seconds (least, most) | share | goal |",
        "|---|---|---|---|",
    ]
    for label, part in {**SHOWN, "everything else": "other"}.items():
        values = [each[part] for each in clocks.steps]
        spread = f"{median(values):.4f} ({min(values):.4f}, {max(values):.4f})"
        lines.append(
            f"| {label} | {spread} | {median(values) / step:.3%} | {GOALS.get(label, '')} |"
        )

    evaluation = clocks.live.progress.seconds["evaluation"] * evaluated / EVALUATED
    (saved,) = (clocks.live.folder.folder / "checkpoints").glob("step_*")
    megabytes = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file()) / 1e6
    checkpoint = clocks.spent["checkpoint"]
    return "\n".join(
        [
            *lines,
            "",
            f"| beside the steps | seconds | of the time of {every} steps |",
            "|---|---|---|",
            f"| an evaluation of {evaluated:,} tokens (measured on {EVALUATED:,} and scaled) "
            f"| {evaluation:.1f} | {evaluation / step / every:.2%} |",
            f"| a checkpoint, optimizer included, {megabytes:,.0f} MB (wall clock) "
            f"| {checkpoint:.2f} | {checkpoint / step / every:.3%} |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--processor-time", action="store_true", help="for a machine that others use, one thread"
    )
    parser.add_argument("--dry", action="store_true", help="print, and leave the README alone")
    parser.add_argument("overrides", nargs="*", help="as behind train.py")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = vars(arguments).copy()
        dry = options.pop("dry")
        table = measure(Path(folder), **options)
    print(table)
    if not dry:
        put("shares", table)


if __name__ == "__main__":
    main()
