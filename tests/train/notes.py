"""A run without a folder, for tests of the loop alone."""

from types import SimpleNamespace
from typing import Any

from minigpt.train.batches import Batches
from minigpt.train.progress import Progress
from minigpt.train.run import Run


class Notes(Run):
    """A run that has no folder and keeps what the loop tells it.

    windows: a TrainWindows, or what has its `sequences`.  keywords: fields of Run.
    """

    def __init__(
        self,
        config: dict[str, Any],
        model: Any,
        windows: Any,
        stop_at: int | None = None,
        **keywords: Any,
    ) -> None:
        nothing = dict.fromkeys(("folder", "tokens", "probe", "logger", "bar"))
        plan = SimpleNamespace(config=config)
        fields: Any = {**nothing, "plan": plan, "model": model, "forward": model, **keywords}
        batches = Batches(windows, fields["budget"], config["seed"], "cpu")
        super().__init__(progress=Progress(), batches=batches, **fields)
        self.stop_at = stop_at
        self.rows: list[dict[str, Any]] = []
        self.events: list[tuple[str, int]] = []

    keep_at, end_of_text = (), None  # type: ignore[assignment]

    def record(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def save(self, final: bool, beside: bool = False) -> None:
        self.events.append(("save", self.progress.step))

    def evaluate(self, final: bool) -> None:
        self.events.append(("evaluate", self.progress.step))
        self.progress.evaluated = self.progress.step

    def sample(self, final: bool) -> str:
        self.events.append(("sample", self.progress.step))
        return ""

    def stop_requested(self) -> bool:
        return self.stop_at is not None and self.progress.step >= self.stop_at

    def on_step(self) -> None:
        pass


def config_of(**changes: Any) -> dict[str, Any]:
    """What the loop reads of a configuration.

    changes: keys of `train`, or `eval_every` and the like.
    """
    train = {"grad_clip": 1.0, "max_bad_steps": 3, "skip_spikes": None, "stop_after": None}
    every = {"eval": None, "checkpoint": None, "sample": None, "log": 1}
    for key, value in changes.items():
        name = key.removesuffix("_every")
        known = every if name in every else train
        assert name in known, key
        known[name] = value
    return {"seed": 0, "train": train, **{name: {"every": n} for name, n in every.items()}}
