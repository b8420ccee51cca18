"""One model under measurement: built as train.py builds it, stepped by the training loop itself."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, cast

import numpy as np
import torch

from minigpt.cli import composition
from minigpt.config.budget import Budget
from minigpt.config.build import build, build_optimizer, check_built, choose_precision, vocabulary
from minigpt.config.plan import plan_of
from minigpt.config.precision import Precision, choose
from minigpt.data.windows import TrainWindows
from minigpt.errors import ConfigError
from minigpt.formats import torch_dtype
from minigpt.generate import sampling
from minigpt.generate.hugging_face import hugging_face_config, names
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator
from minigpt.train import memory
from minigpt.train.batches import Batches
from minigpt.train.clocks import Clocks
from minigpt.train.loop import fit
from minigpt.train.progress import Progress
from minigpt.train.run import Run


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step of `micro_batches` micro-batches, by the loop's own clocks."""

    micro_batches: int
    data: float
    forward_backward: float
    optimizer: float
    total: float

    def of_batch(self, micro_batches: int) -> float:
        """Seconds of a step of so many micro-batches. What is done once a step stays."""
        per_micro_batch = (self.data + self.forward_backward) / self.micro_batches
        return self.total + (micro_batches - self.micro_batches) * per_micro_batch


@dataclass
class RandomTokens:
    """Sequences of random ids, small ones more often, in the place of a corpus."""

    vocab_size: int
    seq_len: int

    def sequences(self, numbers: Sequence[int]) -> np.ndarray:
        drawn = np.random.default_rng(numbers[0]).random((len(numbers), self.seq_len + 1))
        return (self.vocab_size * drawn * drawn * drawn).astype(np.int32)


@dataclass
class WatchedRun(Run):
    """A run that notes when its steps end. It saves, evaluates and logs nothing."""

    past: Callable[[], bool] = lambda: False  # whether its time is over

    def __post_init__(self) -> None:
        self.marks = [(time.perf_counter(), dict[str, float]())]
        self.losses: list[float] = []

    @property
    def keep_at(self) -> tuple[int, ...]:
        return ()

    @property
    def end_of_text(self) -> None:
        return None

    def on_step(self) -> None:
        self.progress.clocks.settle()
        self.marks.append((time.perf_counter(), dict(self.progress.seconds)))

    def stop_requested(self) -> bool:
        return len(self.marks) > 1 and self.past()

    def record(self, row: dict[str, Any]) -> None:
        self.losses.append(row["train/loss"])

    def save(self, final: bool, beside: bool = False) -> None: ...


class Llama(torch.nn.Module):
    """transformers' Llama in the shape of a model of ours, with our loss: nats, summed."""

    def __init__(self, ours: Transformer) -> None:
        super().__init__()
        try:
            from transformers import LlamaConfig, LlamaForCausalLM
        except ImportError as error:
            raise ConfigError(f"no transformers here: {error} (pip install transformers)") from None
        self.llama = LlamaForCausalLM(LlamaConfig(**hugging_face_config(ours, None)))
        of, theirs = ours.roles(), names(len(ours.blocks))
        self.roles = lambda: {f"llama.{theirs[name]}": role for name, role in of.items()}

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, _: None) -> torch.Tensor:
        """It shifts the labels itself, so a sequence has a target less."""
        loss = self.llama(input_ids=inputs, labels=inputs, use_cache=False).loss
        return cast(torch.Tensor, loss * targets.numel())


class Model:
    """A composed model with its optimizer, ready to step. Nothing is written anywhere.

    overrides: as behind train.py.
    rival: step transformers' Llama instead, in our loop. Memory is estimated as ours.
    Raises ConfigError for a configuration that train.py would refuse.
    """

    def __init__(self, overrides: list[str], rival: bool = False) -> None:
        self.plan = plan_of(composition.compose("train", overrides, None, plan_of))
        check_built(self.plan)
        cfg = self.config = self.plan.config
        self.vocab_size, _ = vocabulary(self.plan)
        self.chosen = choose_precision(cfg)
        self.chosen.activate()
        model: Transformer = build(cfg["model"], self.vocab_size)
        model.init_weights(generator(0, "init"))
        self.model = model.to("meta" if rival else self.chosen.device).train()
        self.trained: torch.nn.Module = self.model  # what steps
        if rival:
            self.trained = Llama(self.model).to(self.chosen.device).train()
        self.model.activation_checkpointing = cfg["train"]["activation_checkpointing"]
        self.optimizer = build_optimizer(cfg["optim"], self.trained)
        self.seq_len, self.batch_size = self.model.max_seq_len, int(cfg["train"]["batch_size"])
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.flops_per_token = self.model.flops_per_token(self.seq_len)

    def with_format(self, precision: str, compile: bool = False) -> Precision:
        """Another number format on the same device. Raises ConfigError where the device cannot."""
        d_model = self.model.embed.weight.shape[1]
        return choose(self.chosen.device, precision, compile, d_model=d_model)

    def steps(
        self, chosen: Precision, micro_batch: int, count: int, micro_batches: int = 1,
        past: Callable[[], bool] = lambda: False,
    ) -> list[StepTime]:  # fmt: skip
        """Times of `count` steps of minigpt.train.loop.fit on random tokens, fewer once `past()`.

        The lr is 0: nothing is learnt from noise.
        """
        budget = Budget(count, micro_batch * micro_batches, micro_batch, self.seq_len)
        run = self.watched(chosen, budget, 0.0, past)
        times = []
        for (begin, before), (end, after) in zip(run.marks, run.marks[1:]):
            spent = {part: seconds - before.get(part, 0.0) for part, seconds in after.items()}
            times.append(StepTime(micro_batches, **spent, total=end - begin))
        return times

    def watched(
        self, chosen: Precision, budget: Budget, multiplier: float,
        past: Callable[[], bool] = lambda: False,
    ) -> WatchedRun:  # fmt: skip
        """A run that the product's loop has trained. multiplier: of each lr."""
        nothing: Any = None  # it writes nothing
        forward = torch.compile(self.trained) if chosen.compile else self.trained
        train = {"grad_clip": 1.0, "max_bad_steps": 10, "skip_spikes": None, "stop_after": None}
        quiet = {part: {"every": None} for part in ("eval", "checkpoint", "sample")}
        config = {"seed": 0, "train": train, "log": {"every": 1 if multiplier else None}, **quiet}
        tokens = cast(TrainWindows, RandomTokens(self.vocab_size, self.seq_len))
        run = WatchedRun(
            plan=replace(self.plan, config=config),
            folder=nothing,
            tokens=nothing,
            model=self.model,
            forward=cast(Callable[..., torch.Tensor], forward),
            optimizer=self.optimizer,
            schedule=lambda step, steps: multiplier,
            batches=Batches(tokens, budget, 0, chosen.device),
            budget=budget,
            precision=chosen,
            scaler=chosen.grad_scaler(),
            progress=Progress(),
            probe=None,
            logger=nothing,
            bar=nothing,
            past=past,
        )
        run.progress.clocks = Clocks(run.progress.seconds, chosen.device)
        fit(run)
        return run

    def memory(self, micro_batch: int, chosen: Precision) -> memory.Memory:
        """What dry_run=true would say."""
        return memory.estimate(self.config, self.model, micro_batch, self.vocab_size, chosen)

    def generation(self, precision: str, seconds: float) -> float:
        """Tokens per second of one text, from the median time of a token after the first ones."""
        model = copy.deepcopy(self.model).to(torch_dtype(precision))
        times, last, end = [], time.perf_counter(), time.perf_counter() + seconds
        wanted = sampling.Sampling(max_new_tokens=max(8, self.seq_len - 2))
        for _ in sampling.generate(model, [0], wanted, generator(0, "sampling")):
            now = time.perf_counter()
            times.append(now - last)
            last = now
            if now > end and len(times) >= 8:
                break
        return 1.0 / median(times[4:] or times)
