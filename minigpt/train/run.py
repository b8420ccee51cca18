"""What a training run is made of, and what it can be asked to do."""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any

import torch

from minigpt import interrupt, ranks
from minigpt.config.budget import Budget
from minigpt.config.plan import Plan
from minigpt.config.precision import Precision
from minigpt.data.tokens import Tokens
from minigpt.data.unigram import unigram_loss
from minigpt.errors import DataError, MinigptError, NumericsError
from minigpt.files import durable
from minigpt.generate import sampling
from minigpt.model.transformer import Transformer
from minigpt.optim.by_role import ByRole
from minigpt.run.folder import RunFolder
from minigpt.run.metrics import whole_rows
from minigpt.seeding import generator
from minigpt.train.bar import ProgressBar
from minigpt.train.batches import Batches
from minigpt.train.evaluate import Evaluation, evaluate
from minigpt.train.peak import peak_of
from minigpt.train.progress import Progress
from minigpt.train.replicas import check_equal, sum_gradients

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A run that is being trained. train/assemble.py makes one from a plan."""

    plan: Plan  # the checked configuration
    folder: RunFolder  # where everything is written
    tokens: Tokens  # both splits and their tokenizer
    model: Transformer  # on the device
    forward: Callable[..., torch.Tensor]  # the model, compiled if asked for; gives nats
    optimizer: ByRole  # one optimizer for each role
    schedule: Callable[[int, int], float]  # (step, steps) -> multiplier of each lr
    batches: Batches  # the sequences of each step
    budget: Budget  # steps, and how a batch is cut
    precision: Precision  # device, number format, compiled or not
    scaler: torch.amp.GradScaler  # of the loss; passes everything through but under fp16
    progress: Progress  # where the run stands
    probe: Any  # looks at single optimizer steps; None: off
    logger: Any  # mirrors metrics.jsonl
    bar: ProgressBar  # what a terminal shows
    optimizer_state_bytes: int = 0  # known once there has been a step
    stops_together: Any = False  # true if a signal reached any rank, at their last sum

    @property
    def config(self) -> dict[str, Any]:
        return self.plan.config

    @property
    def keep_at(self) -> Collection[int]:
        """Steps whose checkpoint is saved and stays."""
        return self.folder.keep_at

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a document; None unless attention stays inside documents."""
        return self.tokens.tokenizer.end_of_text if self.config["train"]["document_mask"] else None

    def stop_requested(self) -> bool:
        """Whether a signal asks to stop; of several ranks, whether all know that one was asked."""
        return bool(self.stops_together) if self.budget.ranks > 1 else bool(interrupt.requested())

    def sum_over_ranks(self, nats: torch.Tensor) -> None:
        """Sum gradients and loss, and learn whether to stop."""
        self.stops_together = sum_gradients(self.model, nats)

    def on_step(self) -> None:
        self.bar.step()

    def record(self, row: dict[str, Any]) -> None:
        """Log a row of this step."""
        progress = self.progress
        where = {"step": progress.step, "tokens": progress.tokens, "time_s": progress.train_time_s}
        row = where | row
        if "perf/tokens_per_s" in row:
            row["perf/mfu"] = self.mfu(row["perf/tokens_per_s"])
        self.folder.metrics.append(row)
        self.logger.log(row)
        if "train/loss" in row:
            lr = row.get("lr/hidden", 0.0)
            self.bar.show(progress.step, row["train/loss"], row["perf/tokens_per_s"], lr)

    @cached_property
    def flops_per_token(self) -> int:
        return self.model.flops_per_token(self.budget.seq_len)

    def mfu(self, tokens_per_s: float) -> float:
        """Model FLOPs utilisation (PaLM, appendix B): FLOPs of the model over the devices' peak."""
        peak = peak_of(self.precision.device, self.precision.precision)
        return tokens_per_s * self.flops_per_token / (peak.flops * self.budget.ranks)

    def save(self, final: bool, beside: bool = False) -> None:
        """Save a checkpoint. The final one holds the weights to use, others those to go on with.

        beside: write it while training goes on, where that is for another device.
        Raises NumericsError, with nothing saved, if a weight is not finite, or ranks differ.
        """
        self.progress.clocks.settle()
        state = {
            **asdict(self.progress),
            "scaler": self.scaler.state_dict(),
            "model": self.config["model"],
            "vocab_size": self.tokens.vocab_size,
        }
        self.optimizer_state_bytes = self.optimizer.state_bytes()
        drops = final and not self.config["checkpoint"]["keep_optimizer"]
        optimizer = None if drops else self.optimizer.state_tree()
        if final:
            self.optimizer.eval()
        weights = dict(self.model.named_parameters())
        with torch.no_grad():  # stacked, so that the device is waited for once
            finite = torch.stack([torch.isfinite(tensor).all() for tensor in weights.values()])
        if not bool(finite.all()):
            raise NumericsError(
                f"diverged: weights are not finite after step {self.progress.step} "
                "(lower the lr; the last good checkpoint is kept)"
            )
        if self.budget.ranks > 1:
            check_equal(weights, self.progress.step)
        beside = beside and writes_beside(self.precision.device)
        self.folder.save(weights, optimizer, state, final=final, beside=beside)
        self.optimizer.train()

    def evaluate(self, final: bool) -> Evaluation | None:
        """Score the validation split, in the end all of it. None if a signal asks to stop."""
        self.optimizer.eval()
        found = evaluate(
            self.model,
            self.tokens.val,
            seq_len=self.budget.seq_len,
            batch_size=self.budget.micro_batch_size,
            precision=self.precision,
            forward=self.forward,
            end_of_text=self.end_of_text,
            max_tokens=None if final else self.config["eval"]["tokens"],
            stop=interrupt.requested,
        )
        self.optimizer.train()
        if found is None:
            self.stops_together = True
            return None
        self.progress.evaluated = self.progress.step
        row: dict[str, Any] = {f"val/{name}": value for name, value in found.own.items()}
        row |= {"val/loss": found.loss, "val/tokens": found.tokens}
        bits = ""
        if found.bits_per_byte is not None:
            row["val/bits_per_byte"] = found.bits_per_byte
            bits = f", {found.bits_per_byte:.4f} bits per byte"
        self.record(row)
        log.info("step %d  validation loss %.4f%s", self.progress.step, found.loss, bits)
        return found

    def sample(self, final: bool) -> str:
        """Text that the model writes after sample.prompt; none where it cannot, which says why.

        The logger gets it too, and on the way sample.txt, which always holds the newest.
        """
        wanted, step = self.config["sample"], self.progress.step
        if not wanted["max_new_tokens"] or ranks.rank() > 0:
            return ""
        how = sampling.Sampling(wanted["max_new_tokens"], wanted["temperature"], wanted["top_k"])
        random = generator(self.config["seed"], "sampling", step)
        self.optimizer.eval()
        try:
            (text,) = sampling.sample_text(
                self.model, self.tokens.tokenizer, wanted["prompt"], how, random
            )
        except (MinigptError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of a class of the user's; what was trained outlives it
            log.warning(
                "no sample: %s: %s (does the model read its cache? sample.max_new_tokens=0: none)",
                type(error).__name__,
                error,
            )
            log.debug("the sample failed", exc_info=True)
            return ""
        finally:
            self.optimizer.train()
        log.debug("sample at step %d:\n%s", step, text)
        if to_logger := getattr(self.logger, "sample", None):
            to_logger({"step": step, "tokens": self.progress.tokens, "text": text})
        if not final:
            self.keep(text)
        return text

    def keep(self, text: str) -> None:
        """As sample.txt. A full disk costs a warning, and the next text tries again."""
        self.folder.lock.check()
        path = self.folder.folder / "sample.txt"
        try:
            durable.write_atomic(path, text.encode())
        except OSError as error:
            log.warning("warning: no sample: %s: %s (training goes on)", path, error.strerror)

    def summary(self, status: str, final: Evaluation | None) -> dict[str, Any]:
        """summary.json: what the run came to and what it cost."""
        progress, model = self.progress, self.model
        rows = whole_rows(self.folder.metrics.path)
        unigram = final and self.unigram_loss()
        rates = [row["perf/tokens_per_s"] for row in rows if row.get("perf/tokens_per_s")]
        return {
            **{f"val_{name}": value for name, value in (final.own if final else {}).items()},
            "status": status,
            "step": progress.step,
            "tokens": progress.tokens,
            "skipped_steps": progress.skipped,
            "val_loss": final and final.loss,
            "val_bits_per_byte": final and final.bits_per_byte,
            "val_tokens": final and final.tokens,
            "unigram_loss": unigram,
            "worse_than_unigram": unigram and final and final.loss > unigram,
            "train_time_s": progress.train_time_s,
            "seconds": progress.seconds,
            "tokens_per_s": median(rates) if rates else None,
            "mfu": self.mfu(median(rates)) if rates else None,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "flops_per_token": self.flops_per_token,
            "optimizer_flops_share": self.optimizer_flops_share(),
            "optimizer_state_bytes": self.optimizer_state_bytes,
            "mixed": (self.folder.saved or {}).get("mixed", []),
        }

    def unigram_loss(self) -> float | None:
        """Of the unigram model of this corpus; None if its shards are gone or changed by now."""
        with suppress(DataError):
            return unigram_loss(self.tokens.train, self.tokens.val, self.tokens.vocab_size)
        return None

    def optimizer_flops_share(self) -> float | None:
        """FLOPs of the optimizer's matrix products over those of forward and backward.

        About 4.2 d_model / tokens of a step for Newton-Schulz. None if an optimizer does not tell.
        """
        flops = self.optimizer.flops_per_step()
        if flops is None:
            return None
        return flops / (self.flops_per_token * self.budget.tokens_per_step)


def writes_beside(device: str) -> bool:
    """Whether writing gains by going on beside training.

    Not on a CPU: what writes keeps a core from training. On two cores a save of 28M parameters
    costs 0.57 s at once; beside, a pause of 0.03 s and 1.0 s of slower steps.
    """
    return device != "cpu"
