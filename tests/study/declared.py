"""Declarations and simulated runs for the tests of declared studies."""

import io
import json
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from runs import ROOT, Shell
from studies import Study

from minigpt.compare.declared import judge, judge_runs
from minigpt.config.schema import Verdict
from minigpt.study.conduct import Conclusion, conduct
from minigpt.study.declaration import Declaration, declaration_of
from minigpt.study.journal import Journal
from minigpt.study.planned import PlannedRun
from minigpt.study.recorded import RecordedRuns

# A study of a tiny model, up to what it declares.
SMALL_STUDY = """# @package _global_
train: {batch_size: 4, threads: 1}
model: {d_model: 32, n_layers: 1, max_seq_len: 16}
eval: {every: null}
log: {every: 1}
sample: {max_new_tokens: 1}
verdict:
"""
# A study of optimizers, up to how it tunes and confirms.
OF_OPTIMIZERS = (
    SMALL_STUDY
    + """\
  question: Does Muon end lower?
  by: optim
  arms: [muon, adamw_by_role]
  baseline: adamw_by_role
  margin: 0.01
  budgets: {train.steps: [2, 4]}
"""
)
# What is declared unless a test says otherwise.
PLAIN: dict[str, Any] = {
    "by": "optim",
    "arms": ["muon", "adamw"],
    "baseline": "adamw",
    "margin": 0.01,
    "budgets": {"train.steps": [100, 200]},
    "tune": {"over": {"optim.lr_scale": [0.5, 1, 2]}},
    "confirm": {"looks": [8, 16]},
}
Loss = Callable[[PlannedRun], float]


def verdict(**changes: Any) -> dict[str, Any]:
    """A `verdict` node; `tune__seeds` is `tune.seeds`."""
    node = OmegaConf.merge(OmegaConf.structured(Verdict), PLAIN)
    plain: Any = OmegaConf.to_container(node)
    for name, value in changes.items():
        *above, last = name.split("__")
        place = plain
        for part in above:
            place = place[part]
        place[last] = value
    return plain


def declared(**changes: Any) -> Declaration:
    return declaration_of("a_study", verdict(**changes))


def arguments(folder: Path, text: str) -> list[str]:
    """What one types for `small_study`, which says this, on a corpus of its own."""
    corpus, conf = folder / "corpus.txt", folder / "conf" / "experiment"
    corpus.write_text("".join(f"{n} green bottles hanging on the wall.\n" for n in range(60)))
    conf.mkdir(parents=True)
    (conf / "small_study.yaml").write_text(text)
    return [
        "-m", "experiment=small_study", f"--config-dir={folder / 'conf'}", "data=files",
        f"data.path={corpus}", "data/tokenizer=byte", "logger=none",
        f"data_dir={folder / 'tokens'}",
    ]  # fmt: skip


def command(typed: Sequence[str], output: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *typed, f"output_dir={output}", *more]


def undisturbed(typed: Sequence[str], folder: Path) -> tuple[str, str]:
    """Conduct the study in this process, into folder/outputs; what its command printed."""
    out, err = io.StringIO(), io.StringIO()
    said: Any = SimpleNamespace(readouterr=lambda: (out.getvalue(), err.getvalue()))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        code = Shell(folder, patch, said)("train", *typed)
    assert code == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


class SimulatedRuns:
    """Runs whose losses a function says. fails: runs that never end; stop_after: then a kill."""

    def __init__(
        self,
        loss: Loss,
        fails: Callable[[PlannedRun], bool] = lambda run: False,
        stop_after: float = math.inf,
    ) -> None:
        self.of, self.fails, self.stop_after = loss, fails, stop_after
        self.ended: dict[PlannedRun, float] = {}
        self.phases: list[tuple[str, list[PlannedRun]]] = []

    def run(self, phase: str, planned: Sequence[PlannedRun]) -> None:
        self.phases.append((phase, list(planned)))
        for run in planned:
            if self.stop_after <= 0:
                raise KeyboardInterrupt
            if not self.fails(run):
                self.ended[run] = self.of(run)
            self.stop_after -= 1

    def loss(self, planned: PlannedRun) -> float | None:
        return self.ended.get(planned)

    def why(self, planned: PlannedRun) -> str:
        return "it fell over"


class Notes(list[dict[str, Any]]):
    """A journal in memory: decisions as they were taken first."""

    def __call__(self, entry: Mapping[str, Any]) -> None:
        if dict(entry) not in self:
            self.append(dict(entry))


def conclude(
    declaration: Declaration, runs: SimulatedRuns, notes: Notes | None = None
) -> Conclusion:
    return conduct(declaration, runs, judge, Notes() if notes is None else notes)


def noisy(effect: float, spread: float = 0.01, best: Mapping[str, float] | None = None) -> Loss:
    """Losses of seeds: muon lower by `effect`, a bowl in log lr around each arm's best."""

    def loss(run: PlannedRun) -> float:
        draw = random.Random(f"{run.arm} {run.seed} {run.budget}")
        scale = dict(run.setting).get("optim.lr_scale", 1)
        assert isinstance(scale, int | float)
        off = math.log2(scale / (best or {}).get(run.arm, 1))
        return (
            4
            - (effect if run.arm == "muon" else 0)
            + 0.05 * off**2
            - 0.1 * math.log2(run.budget / 100)
            + random.Random(run.seed).gauss(0, 0.05)
            + draw.gauss(0, spread)
        )

    return loss


class FolderRuns(RecordedRuns):
    """Simulated runs as run folders with their record, as a study of train.py leaves them.

    loss: None for a run that is interrupted. facts: further arguments of `studies.Study.run`.
    """

    def __init__(
        self,
        declaration: Declaration,
        study: Study,
        loss: Callable[[PlannedRun], float | None],
        facts: Callable[[PlannedRun], dict[str, Any]] = lambda run: {},
    ) -> None:
        super().__init__(declaration, study.folder)
        self.study, self.of, self.facts = study, loss, facts
        self.names: dict[str, str] = {}

    def run(self, phase: str, planned: Sequence[PlannedRun]) -> None:
        for run in planned:
            self.names[run.line(self.declaration)] = self.write(run).name
        self._folders |= self.names
        sweeps = self.study.folder / "sweeps"
        sweeps.mkdir(exist_ok=True)
        jobs = [
            {"overrides": overrides.split(" "), "folder": name}
            for overrides, name in self.names.items()
        ]
        record = {"schema": 1, "study": self.declaration.study, "command": ["train.py", "-m"]}
        (sweeps / "a_study-0.json").write_text(json.dumps(record | {"jobs": jobs}))

    def write(self, run: PlannedRun) -> Path:
        loss = self.of(run)
        status = "diverged" if loss is not None and math.isinf(loss) else "finished"
        scale = dict(run.setting).get("optim.lr_scale", 1)
        assert isinstance(scale, int | float)
        cell = dict(run.cell)
        # arms that are no Muon are AdamW, told apart by what does not matter here
        own = {"optim.head.weight_decay": 0.001 * self.declaration.arms.index(run.arm)}
        how = {"lr": 0.02 * scale, "steps": int(run.budget), "status": status}
        how |= {"study": self.declaration.study, "config": cell | own}
        how |= {"record": {"overrides": run.overrides(self.declaration)}}
        return self.study.run(run.arm, run.seed, loss, **(how | self.facts(run)))


def conclude_in_folder(runs: FolderRuns) -> Conclusion:
    """The whole study, with its declaration and journal beside its runs."""
    with Journal(runs.study.folder, runs.declaration, {}) as journal:
        conclusion = conduct(runs.declaration, runs, partial(judge_runs, runs), journal.note)
        journal.note_folders(runs.names)
    return conclusion
