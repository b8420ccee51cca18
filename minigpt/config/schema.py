"""The typed root of the two kinds of configuration: what our own code reads, with its types.

Groups where people add things (model, optim, schedule, data, logger) stay open here; their schema
is the signature of their class (see config.py). Types are only half a check: ranges are in
config.py too.
"""

from dataclasses import dataclass, field
from typing import Any

# Keys whose value is a path. On the command line they need no quoting; an empty one is refused.
PATH_KEYS = (
    "data.path", "data.source", "data.train", "data.val", "data.out", "data.tokenizer.path", "data_dir", "output_dir",
    "run", "init_from", "branch",
)  # fmt: skip


@dataclass
class Train:
    tokens: int | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 16
    micro_batch_size: int | None = None
    grad_clip: float | None = 1.0
    document_mask: bool = False
    precision: str = "auto"
    device: str = "auto"
    compile: Any = "auto"  # true, false or auto: no OmegaConf type holds just these
    deterministic: bool = False
    activation_checkpointing: bool = False
    threads: int | None = None
    max_bad_steps: int = 10
    skip_spikes: float | None = None
    stop_after: int | None = None


@dataclass
class Eval:
    every: int | None = None
    tokens: int | None = None


@dataclass
class Checkpoint:
    every: int | None = None
    keep: int = 2
    at: list[int] = field(default_factory=list)
    keep_optimizer: bool = False


@dataclass
class Log:
    every: int | None = 10


@dataclass
class Sample:
    prompt: str = ""
    every: int | None = None
    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = 50


@dataclass
class Verdict:
    """What a study declares before its first run. Decides no run; minigpt.compare judges by it."""

    baseline: str | None = None
    margin: float | None = None
    tuning_seeds: list[int] | None = None
    confirmation_seeds: list[int] | None = None
    looks: list[int] | None = None


@dataclass
class TrainRoot:
    """Everything train.py reads."""

    name: str | None = None
    seed: int = 0
    attempt: int = 1
    study: str | None = None
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)
    sample: Sample = field(default_factory=Sample)
    init_from: str | None = None
    branch: str = "auto"
    output_dir: str = "outputs"
    data_dir: str = "outputs/tokens"
    accept_changes: bool = False
    dry_run: bool = False
    stand_in: Any = None
    model: Any = None
    optim: Any = None
    schedule: Any = None
    data: Any = None
    logger: Any = None
    probe: Any = None
    verdict: Verdict = field(default_factory=Verdict)


@dataclass
class GenerateRoot:
    """Everything generate.py reads."""

    run: str | None = None
    trust: Any = None  # a name, or a list of them
    prompt: str = ""
    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    ngram_size: int | None = None
    ngram_penalty: float = 1.0
    num_samples: int = 1
    seed: int = 0
    stream: bool = True
    device: str = "auto"
    precision: str = "fp32"
    output_dir: str = "outputs"


@dataclass
class PreprocessRoot:
    """Everything preprocess.py reads."""

    data: Any = None
    data_dir: str = "outputs/tokens"


def register() -> None:
    """Make the schemas known to Hydra, as the first entries of the defaults lists in conf/."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    # Hydra copies the store for each group that --help lists and each time it composes; entries
    # leave it as copies.
    setattr(ConfigStore, "__deepcopy__", lambda self, memo: self)  # noqa: B010
    store.store(name="train_schema", node=TrainRoot)
    store.store(name="generate_schema", node=GenerateRoot)
    store.store(name="preprocess_schema", node=PreprocessRoot)
