"""From a plan to a run that can be trained, step by step."""

import logging
import os
import platform
import socket
from pathlib import Path
from typing import Any

import torch

from minigpt import ranks
from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.load import Checkpoint, load_checkpoint
from minigpt.checkpoint.parameters import restore_parameters
from minigpt.config import identity
from minigpt.config.budget import Budget, epochs_notice
from minigpt.config.build import build, build_optimizer, choose_precision
from minigpt.config.corpus import prepare_tokens
from minigpt.config.plan import Plan
from minigpt.config.precision import Precision
from minigpt.data.tokens import Tokens
from minigpt.data.windows import TrainWindows
from minigpt.errors import CheckpointError, DataError
from minigpt.files.durable import sha256_bytes
from minigpt.generate.load import init_weights_from, tokenizer_change
from minigpt.logger.none import NoLogger
from minigpt.model.transformer import Transformer
from minigpt.run.folder import RunFolder
from minigpt.run.source_digest import source_digest
from minigpt.seeding import generator
from minigpt.train import branch
from minigpt.train.bar import ProgressBar
from minigpt.train.batches import Batches
from minigpt.train.clocks import Clocks
from minigpt.train.peak import peak_of
from minigpt.train.progress import Progress, progress_of
from minigpt.train.run import Run

log = logging.getLogger(__name__)
NOTABLE_SHARE = 0.03  # of optimizer FLOPs in training FLOPs, from which on a run is told


def assemble(plan: Plan, folder: RunFolder) -> Run:
    """The run of a plan, at its newest checkpoint if there is one. The folder is locked already.

    Of several ranks rank 0 decides, and each checks for itself what it reads.
    """
    config = plan.config
    if plan.unused:
        log.info("trains on a stand-in corpus; ignored: %s", ", ".join(plan.unused))
    tokens = ranks.first_then_all(lambda: tokens_of(plan))
    model: Transformer = build(config["model"], tokens.vocab_size)
    windows = TrainWindows(tokens.train, model.max_seq_len, config["seed"])
    budget = resolve_budget(plan, windows)
    precision = precision_of(plan, model.flops_per_token(budget.seq_len) * budget.tokens)
    model.init_weights(generator(config["seed"], "init"))
    accepted: list[str] = []
    if config["init_from"] is not None and not steps_on_disk(folder.checkpoints):
        accepted = start_from_weights(model, plan, tokens)
    ranks.join(precision.device)
    refuse_odd_ranks(plan, tokens)
    ranks.decide(lambda: begin_folder(folder, tokens, precision, budget, accepted))

    schedule = build(config["schedule"])
    trunk = None if config["branch"] == "off" else branch.trunk_steps(schedule, budget.steps)
    folder.keep_at = {*config["checkpoint"]["at"], *([] if trunk is None else [trunk])}
    saved = saved_before(folder, schedule, budget.steps, model)
    if saved is not None:
        restore_parameters(model, saved.model, saved.folder)
    model = model.to(precision.device)
    model.activation_checkpointing = config["train"]["activation_checkpointing"]
    optimizer = build_optimizer(config["optim"], model)
    probe = config["probe"]
    if probe is not None:
        probe = build(probe, optimizer, drop=identity.shared_scalars("probe", {}))
    progress = Progress() if saved is None else progress_of(saved.state)
    progress.clocks = Clocks(progress.seconds, precision.device)
    run = Run(
        plan=plan,
        folder=folder,
        tokens=tokens,
        model=model,
        forward=model,
        optimizer=optimizer,
        schedule=schedule,
        batches=Batches(windows, budget, config["seed"], precision.device, ranks.rank()),
        budget=budget,
        precision=precision,
        scaler=precision.grad_scaler(),
        progress=progress,
        probe=probe,
        logger=build(config["logger"]) if ranks.rank() == 0 else NoLogger(),
        bar=ProgressBar(budget.steps, progress.step, silent=ranks.rank() > 0),
    )
    if saved is not None:  # the weights are there already
        if saved.optimizer is not None:
            optimizer.load_state_tree(saved.optimizer)
        run.scaler.load_state_dict(saved.state["scaler"])
        log.info("resuming at step %d of %d", progress.step, budget.steps)
    say_optimizer_share(run)
    return run


def refuse_odd_ranks(plan: Plan, tokens: Tokens) -> None:
    """Raise CheckpointError where a rank would train something else than rank 0."""
    facts = {
        "run": plan.id,
        "code": source_digest(plan.config),
        "tokens": tokens.fingerprint,
        "torch": torch.__version__,
    }
    first, *others = ranks.values(facts)
    for number, found in enumerate(others, 1):
        if different := [key for key in first if found[key] != first[key]]:
            error = CheckpointError(
                f"ranks differ: rank {number} on {platform.node()} has other "
                f"{' and '.join(different)} than rank 0 "
                "(all ranks need the same command, code, tokens and libraries)"
            )
            error.told = ranks.rank() > 0
            raise error


def saved_before(
    folder: RunFolder, schedule: branch.Schedule, steps: int, model: Transformer
) -> Checkpoint | None:
    """The checkpoint to go on from, which rank 0 chooses; of another run if they share steps."""
    chosen: list[Checkpoint] = []

    def choose() -> str | None:
        found = folder.newest_checkpoint() or branch.adopt(folder, schedule, steps, model)
        chosen.extend([found] if found else [])
        return str(found.folder) if found else None

    where = ranks.decide(choose)
    return chosen[0] if chosen else None if where is None else load_checkpoint(Path(where))


def tokens_of(plan: Plan) -> Tokens:
    """The prepared tokens. Raises DataError if documents cannot be told apart but should be."""
    tokens = prepare_tokens(plan.config["data"], plan.tokens_folder)
    if plan.config["train"]["document_mask"] and tokens.tokenizer.end_of_text is None:
        raise DataError(
            "no end of text between documents: train.document_mask=true: "
            "data.tokenizer.end_of_text=null "
            "(say which id ends a document, or train.document_mask=false)"
        )
    return tokens


def precision_of(plan: Plan, flops: float) -> Precision:
    """Device, number format and compilation of a run, with this process's switches set."""
    precision = choose_precision(plan.config)
    if precision.compile:
        precision = precision.for_run(flops / peak_of(precision.device, precision.precision).flops)
    precision.activate()
    deterministic = plan.config["train"]["deterministic"]
    if deterministic:  # else cuBLAS refuses every product; it reads this before its first one
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)  # the call imports a compiler
    log.info("%s", precision.describe())
    return precision


def resolve_budget(plan: Plan, windows: TrainWindows) -> Budget:
    """The run's budget, now that the size of the corpus is known.

    Raises DataError if that comes to no step.
    """
    train, n_windows = plan.config["train"], windows.n_windows
    budget = plan.budget(n_windows)
    if budget.steps < 1:
        raise DataError(
            f"nothing to train: train.epochs={train['epochs']} of {n_windows} windows "
            "is less than a step"
        )
    if notice := plan.rounding or epochs_notice(train, budget, n_windows):
        log.info("%s", notice)
    log.info(
        "%d steps of %d sequences x %d tokens = %s tokens, %.2f epochs of %s windows",
        budget.steps,
        budget.batch_size,
        budget.seq_len,
        f"{budget.tokens:,}",
        budget.steps * budget.batch_size / n_windows,
        f"{n_windows:,}",
    )
    return budget


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


def begin_folder(
    folder: RunFolder, tokens: Tokens, precision: Precision, budget: Budget, accepted: list[str]
) -> None:
    """Write who the run is, or check that it is still what it was."""
    facts = {
        "chosen": {
            **path_of(precision),
            "deterministic": folder.plan.config["train"]["deterministic"],
            "micro_batch_size": budget.micro_batch_size,
            "world_size": budget.ranks,
        },
        "hardware": describe_hardware(precision),
        "data": describe_tokens(tokens),
        "steps": budget.steps,
    }
    folder.begin(facts, accepted)
    folder.keep_tokenizer(tokens.tokenizer.files)


def path_of(precision: Precision) -> dict[str, Any]:
    """What computes a run: only what has a say in its numbers there."""
    path = {key: getattr(precision, key) for key in ("device", "precision", "compile")}
    if precision.device == "cuda":
        return path | {"gpu": torch.cuda.get_device_name()}
    return path | ({"threads": torch.get_num_threads()} if precision.device == "cpu" else {})


def say_optimizer_share(run: Run) -> None:
    share = run.optimizer_flops_share()
    if share is not None and share > NOTABLE_SHARE:
        log.info(
            "the optimizer's matrix products add %.0f %% to the FLOPs of a step of %s tokens; "
            "larger batches make it cheaper",
            100 * share,
            f"{run.budget.tokens_per_step:,}",
        )


def describe_tokens(tokens: Tokens) -> dict[str, Any]:
    """The tokens of a run, for run.json. Two runs may share the validation split alone."""
    val = tokens.manifest["splits"]["val"]
    digests = "".join(shard["sha256"] for shard in val["shards"])
    return {
        "folder": str(tokens.folder.absolute()),
        "fingerprint": tokens.fingerprint,
        "vocab_size": tokens.vocab_size,
        "val_fingerprint": sha256_bytes(digests.encode()),
        "val_bytes": val["n_bytes"],
        "licence": tokens.licence,
    }


def describe_hardware(precision: Precision) -> dict[str, Any]:
    """The machine that a run began on, for run.json."""
    cpu = platform.processor() or platform.machine()
    peak = peak_of(precision.device, precision.precision)
    return {
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "device": torch.cuda.get_device_name() if precision.device == "cuda" else cpu,
        "peak_flops": peak.flops,
        "peak_source": peak.source,
    }
