"""What may be typed: every key of the three scripts with its type, range, choices and effect.

Groups where people add things (model, optim, schedule, data, logger) stay open here: their schema
is the signature of their class, see groups.py.
"""

# ruff: noqa: RUF009  (`key` makes a field, as dataclasses.field does)
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
Effect = Literal["result", "watching", "place"]


@dataclass(frozen=True)
class Key:
    """What holds of a key beside its type and default.

    effect: what it changes. `result`: what a run comes to, so it joins the identity. `watching`:
        how a run is trained and watched, so a finished run ignores it. `place`: where things lie.
    named: it may stand in the name of a run, if it has an effect on the result.
    optional: the identity leaves it out at its default.
    path: on the command line it needs no quoting; an empty one is refused.
    least, above, choices: what its value may be.
    """

    effect: Effect = "result"
    named: bool = True
    optional: bool = False
    path: bool = False
    least: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()


def key(default: Any, effect: Effect = "result", **facts: Any) -> Any:
    """A field of a schema with what holds of it; the fields below it inherit its effect."""
    metadata = {"key": Key(effect, **facts)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Train:
    tokens: int | None = key(None, least=1)
    steps: int | None = key(None, least=1)
    epochs: float | None = key(None, above=0)
    batch_size: int = key(16, least=1)
    micro_batch_size: int | None = key(None, "watching", least=1)
    grad_clip: float | None = key(1.0, above=0)
    document_mask: bool = False
    precision: str = key("auto", choices=("auto", "fp32", "bf16", "fp16"))
    device: str = key("auto", "watching", choices=("auto", "cpu", "cuda", "mps"))
    devices: int = key(1, "watching", least=1)
    rank_timeout: float = key(600.0, "watching", above=0)
    # no OmegaConf type holds just these
    compile: Any = key("auto", "watching", choices=("auto", True, False))
    deterministic: bool = key(False, "watching")
    activation_checkpointing: bool = key(False, "watching")
    threads: int | None = key(None, "watching", least=1)
    max_bad_steps: int = key(10, least=1)
    skip_spikes: float | None = key(None, optional=True, above=1)
    stop_after: int | None = key(None, "watching", least=0)


@dataclass
class Eval:
    every: int | None = key(None, least=1)
    tokens: int | None = key(None, least=1)


@dataclass
class Checkpoint:
    every: int | None = key(None, least=1)
    keep: int = key(2, least=1)
    at: list[int] = key(list, least=1)
    keep_optimizer: bool = False


@dataclass
class Log:
    every: int | None = key(10, least=1)


@dataclass
class Sample:
    prompt: str = ""
    every: int | None = key(None, least=1)
    max_new_tokens: int = key(200, least=0)
    temperature: float = key(0.8, least=0)
    top_k: int | None = key(50, least=1)


@dataclass
class Tune:
    """How a study chooses each arm's setting, before other seeds judge it."""

    over: dict[str, Any] = key(dict)  # key -> values
    per_arm: dict[str, Any] = key(dict)  # arm -> key -> values that only this arm has
    method: str = key("grid", choices=("grid", "random", "coordinate"))
    trials: int = key(16, least=2)  # settings of an arm, for random
    rounds: int = key(2, least=1)  # passes over the keys, for coordinate
    seeds: list[int] = key(lambda: [0, 1], least=0)
    extend: int = key(2, least=0)  # values beyond an edge, at most
    budget: float | None = key(None, above=0)  # one of verdict.budgets; null: the primary one


@dataclass
class Confirm:
    """The seeds that judge: `looks[-1]` of them, counted up from `first_seed`."""

    first_seed: int = key(100, least=0)
    looks: list[int] = key(lambda: [8], least=2)


@dataclass
class Verdict:
    """What a study declares before its first run. It changes no run; the study is judged by it."""

    question: str | None = None
    by: str | None = None  # the key or group whose values are the arms; null: no study
    arms: Any = None  # a list; of by=code: name -> commit, or dirty
    baseline: Any = None
    metric: str = "val_loss"  # val_bits_per_byte, or a model's own val_<name>; lower is better
    margin: float | None = key(None, least=0)
    budgets: dict[str, Any] = key(dict)  # train.steps, train.tokens or train.epochs -> values
    primary: float | None = key(None, above=0)  # null: the last budget
    tune: Tune = key(Tune)
    confirm: Confirm = key(Confirm)
    cells: dict[str, Any] = key(dict)  # key -> values: the same question in each
    spread: float | None = key(None, above=0)  # sd of paired differences, to plan by
    amend: str | None = None  # why a declaration that has begun is changed


@dataclass
class TrainRoot:
    """Everything train.py reads."""

    name: str | None = key(None, named=False, optional=True)
    seed: int = key(0, least=0)
    attempt: int = key(1, optional=True, least=1)
    study: str | None = key(None, "place")
    code: str | None = key(None, optional=True)  # digest of the code that trains it
    train: Train = key(Train)
    eval: Eval = key(Eval, "watching")
    checkpoint: Checkpoint = key(Checkpoint, "watching")
    log: Log = key(Log, "watching")
    sample: Sample = key(Sample, "watching")
    init_from: str | None = key(None, optional=True, path=True)
    branch: str = key("auto", "watching", path=True)
    output_dir: str = key("outputs", "place", path=True)
    data_dir: str = key("outputs/tokens", "place", path=True)
    accept_changes: bool = key(False, "place")
    dry_run: bool = key(False, "watching")
    dry_run_gpu: str | None = key(None, "watching")
    stand_in: Any = None
    model: Any = None
    optim: Any = None
    schedule: Any = None
    data: Any = None
    logger: Any = key(None, "watching")
    probe: Any = key(None, "watching")
    verdict: Verdict = key(Verdict, "watching")


@dataclass
class GenerateRoot:
    """Everything generate.py reads."""

    run: str | None = key(None, path=True)
    trust: Any = None  # a name, or a list of them
    prompt: str = ""
    prompts: str | None = key(None, path=True)
    interactive: bool = False
    stop: Any = None  # a string, or a list of them
    format: str = "text"
    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    ngram_size: int | None = None
    ngram_penalty: float = 1.0
    num_samples: int = 1
    seed: int = 0
    stream: bool = True
    device: str = "auto"
    precision: str = "fp32"
    output_dir: str = key("outputs", path=True)


@dataclass
class PreprocessRoot:
    """Everything preprocess.py reads."""

    data: Any = None
    data_dir: str = key("outputs/tokens", "place", path=True)


# Keys of open groups of which more holds than their class says.
OPEN_KEYS = {
    "data.out": Key("place", path=True),
    "data.workers": Key("watching"),
    "data.path": Key(named=False, path=True),
    "data.source": Key(named=False, path=True),
    "data.train": Key(path=True),
    "data.val": Key(path=True),
    "data.tokenizer.path": Key(path=True),
    "probe.every": Key("watching", least=1),
}


def keys_of(root: type, prefix: str = "", effect: Effect | None = None) -> dict[str, Key]:
    """Dotted key -> what holds of it. effect: that of the group, which its keys inherit."""
    found: dict[str, Key] = {}
    for item in dataclasses.fields(root):
        known: Key = item.metadata.get("key", Key())
        if effect is not None:
            known = dataclasses.replace(known, effect=effect)
        found[f"{prefix}{item.name}"] = known
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            below = None if known.effect == "result" else known.effect
            found |= keys_of(item.type, f"{prefix}{item.name}.", below)
    return found


KEYS = keys_of(TrainRoot) | OPEN_KEYS
PATH_KEYS = tuple(name for name, known in (keys_of(GenerateRoot) | KEYS).items() if known.path)


def key_of(name: str) -> Key:
    """What holds of a key, declared for it or for the group that it is in.

    Of `group@package`, which puts an option of a group elsewhere, it is what holds of the group.
    """
    name = name.partition("@")[0]
    while name not in KEYS and "." in name:
        name = name.rpartition(".")[0]
    return KEYS.get(name, Key())


def register() -> None:
    """Make the schemas known to Hydra, as the first entries of the defaults lists in conf/.

    And `hydra/sweeper=study`, though `verdict.by` alone makes a study, whatever the sweeper.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    # Hydra copies the store each time it composes; entries leave it as copies.
    setattr(ConfigStore, "__deepcopy__", lambda self, memo: self)  # noqa: B010
    store.store(name="train_schema", node=TrainRoot)
    store.store(name="generate_schema", node=GenerateRoot)
    store.store(name="preprocess_schema", node=PreprocessRoot)
    sweeper = {"_target_": BASIC_SWEEPER, "max_batch_size": None, "params": None}
    store.store(group="hydra/sweeper", name="study", node=sweeper, provider="minigpt")
