"""One training run as a sequence of builds, and the run that the loop talks to."""

import logging
import math
import os
import platform
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from minigpt import interrupt
from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.parameters import restore_parameters
from minigpt.config import build as config
from minigpt.config import identity
from minigpt.config.budget import Budget, budget_of, epochs_notice
from minigpt.config.corpus import prepare_tokens
from minigpt.config.plan import Plan
from minigpt.config.precision import Precision
from minigpt.data.tokens import Tokens
from minigpt.data.windows import TrainWindows
from minigpt.durable import sha256_bytes
from minigpt.errors import CheckpointError, DataError, NumericsError
from minigpt.generate import sampling
from minigpt.generate.load import init_weights_from, tokenizer_change
from minigpt.model.transformer import Transformer
from minigpt.optim.by_role import ByRole
from minigpt.run.folder import RunFolder
from minigpt.run.metrics import read_rows
from minigpt.seeding import generator
from minigpt.train import branch
from minigpt.train.evaluate import Evaluation, evaluate
from minigpt.train.loop import Progress, Settings, fit, progress_of
from minigpt.train.peak import peak_of
from minigpt.train.progress import ProgressBar

log = logging.getLogger(__name__)
# a job of a sweep must not inherit those of the job before
DEFAULT_THREADS = torch.get_num_threads()
# Narrower models gain little from a second thread, and on a busy machine threads wait for each
# other: up to 50x.
SEVERAL_THREADS_FROM_D_MODEL = 256
NOTABLE_SHARE = 0.03  # of optimizer FLOPs in training FLOPs, from which on a run is told


def run(plan: Plan) -> dict[str, Any] | None:
    """Train what the plan describes, from wherever it stands. Returns the summary; None if
    stop_after ended it early.

    Raises Stopped after a signal, with a checkpoint saved.
    """
    cfg = plan.config
    train = cfg["train"]
    wide = identity.argument(cfg["model"], "d_model") >= SEVERAL_THREADS_FROM_D_MODEL
    torch.set_num_threads(train["threads"] or (DEFAULT_THREADS if wide else 1))
    with RunFolder(plan) as folder:
        if plan.unused:
            log.info("trains on a stand-in corpus; ignored: %s", ", ".join(plan.unused))
        tokens = prepare_tokens(cfg["data"], plan.tokens_folder)
        if cfg["train"]["document_mask"] and tokens.tokenizer.end_of_text is None:
            raise DataError(
                "no end of text between documents: train.document_mask=true: data.tokenizer.end_of_text=null "
                "(say which id ends a document, or train.document_mask=false)"
            )
        model = config.build(cfg["model"], tokens.vocab_size)
        chosen = config.choose_precision(cfg)
        chosen.activate()
        # the call imports a compiler
        if train["deterministic"] != torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(train["deterministic"])
        log.info("%s", chosen.describe())
        budget = plan_budget(plan, model.max_seq_len, tokens)
        model.init_weights(generator(cfg["seed"], "init"))
        started_from = []
        if cfg["init_from"] is not None and not steps_on_disk(folder.checkpoints):
            started_from = start_from_weights(model, plan, tokens)
        folder.begin(
            chosen={
                "device": chosen.device,
                "precision": chosen.precision,
                "compile": chosen.compile,
                "deterministic": train["deterministic"],
                "threads": torch.get_num_threads(),
                "micro_batch_size": budget.micro_batch_size,
            },
            hardware=describe_hardware(chosen),
            data=describe_tokens(tokens),
            steps=budget.steps,
            accepted=started_from,
        )
        folder.keep_tokenizer(tokens.tokenizer.files)
        schedule = config.build(cfg["schedule"])
        trunk = None if cfg["branch"] == "off" else branch.trunk_steps(schedule, budget.steps)
        folder.keep_at = {*cfg["checkpoint"]["at"], *([] if trunk is None else [trunk])}
        saved = folder.newest_checkpoint() or branch.adopt(folder, schedule, budget.steps, model)

        if saved is not None:
            restore_parameters(model, saved.model, saved.folder)
        model = model.to(chosen.device)
        model.activation_checkpointing = train["activation_checkpointing"]
        optimizer = config.build_optimizer(cfg["optim"], model)
        windows = TrainWindows(tokens.train, model.max_seq_len, cfg["seed"])
        scaler = chosen.grad_scaler()
        progress = Progress()
        if saved is not None:
            progress = progress_of(saved.state)
            if saved.optimizer is not None:
                optimizer.load_state_tree(saved.optimizer)
            scaler.load_state_dict(saved.state["scaler"])
            log.info("resuming at step %d of %d", progress.step, budget.steps)

        share = optimizer_flops_share(optimizer, model, budget)
        if share is not None and share > NOTABLE_SHARE:
            log.info(
                "Newton-Schulz adds %.0f %% to the FLOPs of a step of %s tokens; larger batches make it cheaper",
                100 * share,
                f"{budget.tokens_per_step:,}",
            )
        mirror = config.build(cfg["logger"])
        mirror.start(folder.saved, cfg, read_rows(folder.metrics.path))
        summary: dict[str, Any] = {}
        try:
            with ProgressBar(budget.steps, progress.step) as bar:
                live = LiveRun(
                    plan,
                    folder,
                    tokens,
                    model,
                    optimizer,
                    chosen,
                    budget,
                    progress,
                    scaler,
                    mirror,
                    bar,
                )
                if not (progress.final or live.train(schedule, windows)):
                    live.stopped()
                    return None
                summary = live.finish()
        finally:
            mirror.finish(summary)
        return summary


def start_from_weights(model: Transformer, plan: Plan, tokens: Tokens) -> list[str]:
    """Load the weights that `init_from` names. Returns what was accepted, for the run's record.

    Raises CheckpointError if they are not those planned with, do not fit, or read other tokens
    (unless accepted).
    """
    source = Path(plan.config["init_from"]).expanduser()
    change = tokenizer_change(source, tokens.tokenizer)
    if change is not None and not plan.config["accept_changes"]:
        raise CheckpointError(
            f"another tokenizer: init_from={source}: {change} "
            "(take its data and tokenizer; accept_changes=true goes on and marks the run)"
        )
    init_weights_from(model, source, plan.identity["init_from"])
    return [] if change is None else [change]


def optimizer_flops_share(optimizer: ByRole, model: Transformer, budget: Budget) -> float | None:
    """FLOPs of the optimizer's matrix products in a step over those of forward and backward: about
    4.2 d_model / tokens for Newton-Schulz. None if an optimizer does not tell."""
    flops = optimizer.flops_per_step()
    return (
        flops
        if flops is None
        else flops / (model.flops_per_token(budget.seq_len) * budget.tokens_per_step)
    )


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no value of any tensor is infinite or not a number; the device is waited for once."""
    with torch.no_grad():
        return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def describe_tokens(tokens: Tokens) -> dict[str, Any]:
    """The tokens of a run, for run.json; those of validation apart, since two runs may share them
    alone.
    """
    val = tokens.manifest["splits"]["val"]
    return {
        "folder": str(tokens.folder.absolute()),
        "fingerprint": tokens.fingerprint,
        "vocab_size": tokens.vocab_size,
        "val_fingerprint": sha256_bytes(
            "".join(shard["sha256"] for shard in val["shards"]).encode()
        ),
        "val_bytes": val["n_bytes"],
    }


def describe_hardware(chosen: Precision) -> dict[str, Any]:
    """The machine that a run began on, for run.json."""
    name = (
        torch.cuda.get_device_name()
        if chosen.device == "cuda"
        else platform.processor() or platform.machine()
    )
    peak = peak_of(chosen.device, chosen.precision)
    return {
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "world_size": 1,
        "device": name,
        "peak_flops": peak.flops,
        "peak_source": peak.source,
    }


def plan_budget(plan: Plan, seq_len: int, tokens: Tokens) -> Budget:
    """The run's budget, now that the size of the corpus is known.

    Raises DataError if that comes to no step.
    """
    train = plan.config["train"]
    windows = TrainWindows(tokens.train, seq_len, 0).n_windows
    budget = budget_of(train, seq_len, windows)
    if budget.steps < 1:
        raise DataError(
            f"nothing to train: train.epochs={train['epochs']} of {windows} windows "
            "is less than a step"
        )
    if notice := plan.rounding or epochs_notice(train, budget, windows):
        log.info("%s", notice)
    log.info(
        "%d steps of %d sequences x %d tokens = %s tokens, %.2f epochs of %s windows",
        budget.steps, budget.batch_size, seq_len, f"{budget.tokens:,}",
        budget.steps * budget.batch_size / windows, f"{windows:,}",
    )  # fmt: skip
    return budget


class LiveRun:
    """What the loop needs from around it: records, checkpoints, evaluation, samples, the stop flag
    (loop.Hooks).
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        tokens: Tokens,
        model: Transformer,
        optimizer: ByRole,
        chosen: Precision,
        budget: Budget,
        progress: Progress,
        scaler: torch.amp.GradScaler,
        mirror: Any,
        bar: ProgressBar,
    ) -> None:
        self.config = plan.config
        self.folder, self.tokens, self.model, self.optimizer = folder, tokens, model, optimizer
        self.precision, self.budget, self.progress = chosen, budget, progress
        self.scaler, self.mirror, self.bar = scaler, mirror, bar
        self.end_of_text = (
            tokens.tokenizer.end_of_text if plan.config["train"]["document_mask"] else None
        )
        self.optimizer_state_bytes = 0  # known once there has been a step

    def train(self, schedule: Any, windows: TrainWindows) -> bool:
        """The loop, then the evaluation of the whole validation split. False if stopped on the
        way.
        """
        cfg = self.config
        try:
            self.model.train()
            model = torch.compile(self.model) if self.precision.compile else self.model
            finished = fit(
                cast(Callable[..., torch.Tensor], model),
                self.optimizer,
                schedule,
                windows,
                self.budget,
                self.precision,
                self.scaler,
                self.progress,
                Settings(
                    seed=cfg["seed"],
                    grad_clip=cfg["train"]["grad_clip"],
                    max_bad_steps=cfg["train"]["max_bad_steps"],
                    skip_spikes=cfg["train"]["skip_spikes"],
                    end_of_text=self.end_of_text,
                    eval_every=cfg["eval"]["every"],
                    checkpoint_every=cfg["checkpoint"]["every"],
                    checkpoint_at=self.folder.keep_at,
                    sample_every=cfg["sample"]["every"],
                    log_every=cfg["log"]["every"],
                    probe_every=cfg["probe"] and cfg["probe"]["every"],
                    stop_after=cfg["train"]["stop_after"],
                ),
                self,
                cfg["probe"]
                and config.build(
                    cfg["probe"], self.optimizer, drop=identity.shared_scalars("probe", {})
                ),
            )
            if not finished:
                return False
            with self.progress.timed("evaluation"):
                evaluation = self.evaluate(final=True)
            if evaluation is None:
                if self.progress.bad_in_a_row == 0:
                    self.save(final=False)
                return False
            if not math.isfinite(evaluation.loss):
                raise NumericsError(
                    f"diverged: validation loss is {evaluation.loss} after step {self.progress.step} (lower the lr)"
                )
            self.progress.final = asdict(evaluation)
            self.save(final=True)
            return True
        except NumericsError:
            self.folder.finish(self.summary("diverged", None))
            raise

    def finish(self) -> dict[str, Any]:
        """Sample and summary; from then on the run is finished."""
        assert self.progress.final is not None
        text = self.sample()
        summary = self.summary("finished", Evaluation(**self.progress.final))
        self.folder.finish(summary, text)
        return summary

    def stopped(self) -> None:
        """Say where a run stopped; raise Stopped if a signal did it."""
        log.info(
            "stopped at step %d of %d; the same command goes on",
            self.progress.step,
            self.budget.steps,
        )
        interrupt.stop_if_requested(
            f"{self.folder.folder} at step {self.progress.step} (the same command goes on)"
        )

    def summary(self, status: str, final: Evaluation | None) -> dict[str, Any]:
        """summary.json: what the run came to and what it cost."""
        progress, model = self.progress, self.model
        rows = read_rows(self.folder.metrics.path)
        rates = [row["perf/tokens_per_s"] for row in rows if row.get("perf/tokens_per_s")]
        return {
            "status": status,
            "step": progress.step,
            "tokens": progress.tokens,
            "skipped_steps": progress.skipped,
            "val_loss": final and final.loss,
            "val_bits_per_byte": final and final.bits_per_byte,
            "val_tokens": final and final.tokens,
            "train_time_s": progress.train_time_s,
            "seconds": progress.seconds,
            "tokens_per_s": median(rates) if rates else None,
            "mfu": self.mfu(median(rates)) if rates else None,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "flops_per_token": model.flops_per_token(self.budget.seq_len),
            "optimizer_flops_share": optimizer_flops_share(self.optimizer, model, self.budget),
            "optimizer_state_bytes": self.optimizer_state_bytes,
            "mixed": (self.folder.saved or {}).get("mixed", []),
        }

    # What the loop calls.

    def record(self, row: dict[str, Any]) -> None:
        row = {
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "time_s": self.progress.train_time_s,
            **row,
        }
        if "perf/tokens_per_s" in row:
            row["perf/mfu"] = self.mfu(row["perf/tokens_per_s"])
        self.folder.metrics.append(row)
        self.mirror.log(row)
        if "train/loss" in row:
            self.bar.show(
                self.progress.step,
                row["train/loss"],
                row["perf/tokens_per_s"],
                row.get("lr/hidden", 0.0),
            )

    def mfu(self, tokens_per_s: float) -> float:
        """Model FLOPs utilisation (PaLM, appendix B): the model's own FLOPs over the device's peak
        for the format.
        """
        peak = peak_of(self.precision.device, self.precision.precision)
        return tokens_per_s * self.model.flops_per_token(self.budget.seq_len) / peak.flops

    def save(self, final: bool) -> None:
        """A checkpoint. On the way it holds what training goes on with; the final one the weights
        to be used.

        Raises NumericsError, with nothing saved, if a weight is not finite.
        """
        state = {
            **asdict(self.progress),
            "scaler": self.scaler.state_dict(),
            "model": self.config["model"],
            "vocab_size": self.tokens.vocab_size,
        }
        self.optimizer_state_bytes = self.optimizer.state_bytes()
        optimizer = (
            None
            if final and not self.config["checkpoint"]["keep_optimizer"]
            else self.optimizer.state_tree()
        )
        if final:
            self.optimizer.eval()
        weights = dict(self.model.named_parameters())
        if not all_finite(weights.values()):
            raise NumericsError(
                f"diverged: weights are not finite after step {self.progress.step} "
                "(lower the lr; the last good checkpoint is kept)"
            )
        self.folder.save(weights, optimizer, state, final=final)
        self.optimizer.train()

    def evaluate(self, final: bool) -> Evaluation | None:
        self.optimizer.eval()
        found = evaluate(
            self.model,
            self.tokens.val,
            seq_len=self.budget.seq_len,
            batch_size=self.budget.micro_batch_size,
            precision=self.precision,
            end_of_text=self.end_of_text,
            max_tokens=None if final else self.config["eval"]["tokens"],
            stop=self.stop_requested,
        )
        self.optimizer.train()
        if found is None:
            return None
        self.progress.evaluated = self.progress.step
        row = {"val/loss": found.loss, "val/tokens": found.tokens}
        self.record(
            row
            | ({} if found.bits_per_byte is None else {"val/bits_per_byte": found.bits_per_byte})
        )
        log.info(
            "step %d  validation loss %.4f%s", self.progress.step, found.loss,
            "" if found.bits_per_byte is None else f", {found.bits_per_byte:.4f} bits per byte",
        )  # fmt: skip
        return found

    def sample(self) -> str:
        wanted = self.config["sample"]
        choice = sampling.Sampling(wanted["max_new_tokens"], wanted["temperature"], wanted["top_k"])
        self.optimizer.eval()
        (text,) = sampling.sample_text(
            self.model,
            self.tokens.tokenizer,
            wanted["prompt"],
            choice,
            generator(self.config["seed"], "sampling", self.progress.step),
        )
        self.optimizer.train()
        log.debug("sample at step %d:\n%s", self.progress.step, text)
        return text

    def stop_requested(self) -> object:
        return interrupt.requested()

    def on_step(self) -> None:
        self.bar.step()
