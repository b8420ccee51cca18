"""A declared study from its first run to its verdict: tune, extend, choose, confirm, look.

What happens next follows from the results that are there, and nothing else is remembered. So a
study that is stopped anywhere goes on as if it had not been.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

from minigpt.errors import MinigptError
from minigpt.study.declaration import Declaration, Setting
from minigpt.study.planned import PlannedRun, cell_name, judging_runs, label, tuning_runs
from minigpt.study.search import Search, search


class Unfinished(MinigptError):
    """Runs of a study failed: nothing is decided without them."""

    exit_code = 1


class Runs(Protocol):
    """Where the runs of a study come from: this machine, a cluster, or a simulation."""

    def run(self, phase: str, planned: Sequence[PlannedRun]) -> None:
        """Train those that have not ended."""

    def loss(self, planned: PlannedRun) -> float | None:
        """The final loss: infinite if it diverged, None if it has not ended, not a number if such a
        run cannot be: a value beyond an edge, as a share of 1.25.
        """

    def why(self, planned: PlannedRun) -> str:
        """Why it has not ended, in a few words."""


@dataclass(frozen=True)
class Look:
    """What is known of a cell at a look. losses: arm -> budget -> seed -> final loss.

    scores: arm -> setting -> mean loss on the tuning seeds.
    """

    cell: Setting
    pairs: int
    chosen: dict[str, Setting]
    losses: dict[str, dict[float, dict[int, float]]]
    scores: dict[str, dict[Setting, float]] = field(default_factory=dict)


class Ruling(Protocol):
    """What a judge finds in a look."""

    @property
    def words(self) -> dict[str, str]:
        """Arm -> better, worse, equivalent, no difference or undecided."""

    @property
    def decided(self) -> bool:
        """Whether no further look is needed."""

    def entry(self) -> dict[str, Any]:
        """For the journal."""


Judge = Callable[[Declaration, Look], Ruling]
Note = Callable[[Mapping[str, Any]], object]


@dataclass
class Conclusion:
    """What a study came to, cell by cell."""

    searches: dict[tuple[Setting, str], Search]  # by cell and arm
    looks: dict[Setting, Look]
    rulings: dict[Setting, Ruling]


def conduct(declaration: Declaration, runs: Runs, judge: Judge, note: Note) -> Conclusion:
    """Run a study to its end. Raises Unfinished if runs that it needs have failed."""
    searches = tune(declaration, runs, note)
    chosen: dict[Setting, dict[str, Setting]] = {cell: {} for cell in declaration.cells}
    for (cell, arm), found in searches.items():
        if found.chosen is not None:
            chosen[cell][arm] = found.chosen
    judged = [cell for cell, arms in chosen.items() if is_judged(declaration, arms)]
    if not judged:
        raise Unfinished(
            f"unfinished: tune: all runs of the baseline {declaration.baseline}, or of all others, "
            "diverged: there is nothing to compare (other values in verdict.tune.over, with "
            'verdict.amend="why" or another study=)'
        )
    looks: dict[Setting, Look] = {}
    rulings: dict[Setting, Ruling] = {}
    for pairs in declaration.looks:
        still_open = [c for c in judged if c not in rulings or not rulings[c].decided]
        if not still_open:
            break
        seeds = declaration.seeds(pairs)
        planned = [
            run
            for cell in still_open
            for run in judging_runs(declaration, cell, chosen[cell], seeds)
        ]
        _run_all(runs, f"confirm {pairs} pairs", planned)
        for cell in still_open:
            losses: dict[str, dict[float, dict[int, float]]] = {}
            for run in judging_runs(declaration, cell, chosen[cell], seeds):
                loss = runs.loss(run)
                assert loss is not None, "every run has ended"
                losses.setdefault(run.arm, {}).setdefault(run.budget, {})[run.seed] = loss
            scores = {arm: searches[cell, arm].scores for arm in chosen[cell]}
            looks[cell] = Look(cell, pairs, chosen[cell], losses, scores)
            rulings[cell] = judge(declaration, looks[cell])
            note({"what": "look", "cell": cell_name(cell), "pairs": pairs, **rulings[cell].entry()})
    return Conclusion(searches, looks, rulings)


def tune(declaration: Declaration, runs: Runs, note: Note) -> dict[tuple[Setting, str], Search]:
    """Choose a setting for each arm in each cell.

    All searches go on in step, wave by wave: then their decisions come in one order, however often
    the study is stopped.
    """
    searches: dict[tuple[Setting, str], Search] = {}
    both, wave = list(product(declaration.cells, declaration.arms)), 0
    while not searches or any(not found.over for found in searches.values()):
        wave += 1
        wanted: list[PlannedRun] = []
        for cell, arm in both:
            known = known_search(declaration, runs, cell, arm, wave)
            wanted += tuning_runs(declaration, cell, arm, known.wanted)
        _run_all(runs, "tune" if wave == 1 else f"tune, extended {wave - 1}", wanted)
        for cell, arm in both:
            before = searches.get((cell, arm), Search())
            found = searches[cell, arm] = known_search(declaration, runs, cell, arm, wave)
            where = {"arm": arm, "cell": cell_name(cell)}
            _note_search(note, where, before, found)
            for number, ((key, value), setting) in enumerate(found.refused.items(), 1):
                if number > len(before.refused):
                    why = runs.why(tuning_runs(declaration, cell, arm, [setting])[0])
                    edge = {"number": number, "key": key, "value": value, "why": why}
                    note({"what": "edge", **where, **edge})
    return searches


def known_search(
    declaration: Declaration, runs: Runs, cell: Setting, arm: str, wave: int
) -> Search:
    """As far as the losses of ended runs and this number of waves allow."""

    def losses(setting: Setting) -> dict[int, float] | None:
        found = {run.seed: runs.loss(run) for run in tuning_runs(declaration, cell, arm, [setting])}
        known = {seed: loss for seed, loss in found.items() if loss is not None}
        if any(map(math.isnan, known.values())):
            return {}
        return known if len(known) == len(found) else None

    return search(declaration.tune, arm, losses, wave)


def _note_search(note: Note, where: dict[str, str], before: Search, found: Search) -> None:
    for number, (key, value) in enumerate(found.extensions, 1):
        if number > len(before.extensions):
            note({"what": "extend", **where, "number": number, "key": key, "value": value})
    if found.stopped and not before.stopped:
        note({"what": "choose", **where, "setting": None, "trials": len(found.scores)})
    if found.chosen is not None and before.chosen is None:
        ranking = found.ranking
        entry: dict[str, Any] = {"setting": dict(found.chosen), "trials": len(ranking)}
        for name, setting in zip(("loss", "runner_up_loss"), ranking):
            entry[name] = _rounded(found.scores[setting])
        if len(ranking) > 1:
            entry["runner_up"] = dict(ranking[1])
        note({"what": "choose", **where, **entry})


def is_judged(declaration: Declaration, arms: Collection[str]) -> bool:
    """Whether a cell is, in which tuning did not diverge throughout for these arms."""
    return declaration.baseline in arms and len(arms) > 1


def _run_all(runs: Runs, phase: str, planned: Sequence[PlannedRun]) -> None:
    """Train what is left of these. Raises Unfinished, which names what failed."""
    left = [run for run in planned if runs.loss(run) is None]
    if left:
        runs.run(phase, left)
    holes = [run for run in left if runs.loss(run) is None]
    if holes:
        shown = [
            f"{run.arm}, {label(run.setting)}, seed {run.seed}: {runs.why(run)}" for run in holes
        ]
        more = f"; and {len(holes) - 5} more" if len(holes) > 5 else ""
        raise Unfinished(
            f"unfinished: {phase}: {len(holes)} of {len(planned)} runs did not end: "
            f"{'; '.join(shown[:5])}{more} (the same command tries them again)"
        )


def _rounded(loss: float) -> float | str:
    return round(loss, 6) if math.isfinite(loss) else "diverged"
