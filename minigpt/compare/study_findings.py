"""Everything that a report of a study says, as figures with the runs behind them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from statistics import fmean, median
from typing import Any

from minigpt.compare.budget_fit import Measured
from minigpt.compare.cell_trend import Trend, trend
from minigpt.compare.cost import beside, flops_per_token
from minigpt.compare.declared import ALPHA, CellRuling, Ended, gains
from minigpt.compare.equal_cost import EqualCost, at_equal_cost, shared_losses
from minigpt.compare.ranking import Ranked, rank
from minigpt.compare.tuning_value import expected_best, good_range
from minigpt.study.conduct import Conclusion
from minigpt.study.declaration import Declaration, Setting
from minigpt.study.planned import cell_name, judging_runs, tuning_runs
from minigpt.study.run import Run
from minigpt.study.search import Search
from minigpt.study.values import is_positive
from minigpt.terminal import count

EQUALLY_LOADED = 0.1  # arms do not differ by more in how many other runs they ran beside


@dataclass(frozen=True)
class CellFindings:
    """A cell: what was chosen, what was measured, what it says."""

    declaration: Declaration
    ruling: CellRuling
    searches: dict[str, Search]  # by arm
    judged: dict[str, dict[float, dict[int, Run]]]  # arm -> budget -> seed
    tuned: dict[str, dict[Setting, dict[int, Run]]]  # arm -> setting -> tuning seed
    everything: Sequence[Run] = ()  # all runs of the study, which may have shared the machine
    exploratory: bool = False  # nobody declared it
    doubts: Sequence[str] = ()  # beside those of study_notes

    @property
    def runs(self) -> list[Run]:
        """All that tuned or judged."""
        return [run for arm in self.tuned for run in self.tuned_runs(arm)] + self.all_judged

    @property
    def all_judged(self) -> list[Run]:
        return [run for arm in self.judged for run in self.judged_runs(arm)]

    def tuned_runs(self, arm: str) -> list[Run]:
        return [run for by_seed in self.tuned[arm].values() for run in by_seed.values()]

    def judged_runs(self, arm: str) -> list[Run]:
        return [run for by_seed in self.judged[arm].values() for run in by_seed.values()]

    @property
    def name(self) -> str:
        return cell_name(self.ruling.look.cell)

    @property
    def baseline(self) -> str:
        return self.declaration.baseline

    @property
    def at_primary(self) -> dict[str, dict[int, Run]]:
        return {arm: found[self.declaration.primary] for arm, found in self.judged.items()}

    @property
    def losses(self) -> dict[str, dict[float, dict[int, float]]]:
        return self.ruling.look.losses

    @cached_property
    def ranking(self) -> list[Ranked]:
        at = {arm: found[self.declaration.primary] for arm, found in self.losses.items()}
        return rank(at, self.alpha, gains(self.ruling.look))

    @property
    def order(self) -> list[str]:
        """The arms, best first."""
        return [ranked.arm for ranked in self.ranking]

    @property
    def alpha(self) -> float:
        return ALPHA / len(self.declaration.looks)

    def tokens(self, budget: float) -> int:
        """Training tokens of a budget, as its runs counted them."""
        runs = self.judged[self.baseline][budget].values()
        return int(median((run.summary or {})["tokens"] for run in runs))

    @cached_property
    def measured(self) -> dict[str, Measured | None]:
        """Arm -> what its curve and that of the baseline are fitted to."""
        primary, base = self.declaration.primary, self.losses[self.baseline]
        tokens = {budget: float(self.tokens(budget)) for budget in self.declaration.budgets}
        return {
            arm: shared_losses({arm: found, self.baseline: base}, tokens, primary)
            for arm, found in self.losses.items()
        }

    def flops(self, arm: str) -> float | None:
        """FLOPs a token, with those of the optimizer; None where one does not tell its own."""
        found = [flops_per_token(run) for run in self.at_primary[arm].values()]
        known = [value for value in found if value is not None]
        return median(known) if len(known) == len(found) else None

    def seconds(self, arm: str) -> float | None:
        """Seconds a token of training, of the runs that tell; None where none does."""
        found = [
            run.step_time_s / run.tokens_per_step
            for run in self.at_primary[arm].values()
            if run.step_time_s is not None
        ]
        return median(found) if found else None

    @cached_property
    def why_no_seconds(self) -> str:
        """Why seconds of arms do not compare; empty if they do."""
        judged = [run for runs in self.at_primary.values() for run in runs.values()]
        if len({run.record["hardware"].get("host") for run in judged}) > 1:
            return "runs of different hosts"
        for key in ("device", "precision", "threads"):
            values = {run.record["chosen"].get(key) for run in judged}
            if len(values) > 1 and self.declaration.by != f"train.{key}":
                return f"runs of different {key.removesuffix('s')}s"
        loads = self.loads.values()
        if max(loads) - min(loads) > EQUALLY_LOADED:
            shown = ", ".join(f"{arm} {load:.2f}" for arm, load in self.loads.items())
            return f"arms shared the machine with unequally many runs at a time: {shown}"
        return ""

    @cached_property
    def loads(self) -> dict[str, float]:
        """How many other runs of the study each arm ran beside, on average."""
        return {
            arm: fmean(beside(run, self.everything) for run in runs.values())
            for arm, runs in self.at_primary.items()
        }

    @cached_property
    def equal_costs(self) -> dict[str, list[EqualCost]]:
        """Each arm at equal tokens, FLOPs and seconds, as far as they are known."""
        found: dict[str, list[EqualCost]] = {}
        primary = float(self.tokens(self.declaration.primary))
        for arm in self.ruling.findings:
            costs = {"tokens": 1.0, "FLOPs": _over(self.flops(arm), self.flops(self.baseline))}
            if not self.why_no_seconds:
                costs["seconds"] = _over(self.seconds(arm), self.seconds(self.baseline))
            measured = self.measured[arm]
            found[arm] = [
                at_equal_cost(measured, arm, self.baseline, primary, what, cost, 1 - self.alpha)
                for what, cost in costs.items()
                if measured is not None and cost is not None
            ]
        return found

    def tuning_curve(self, arm: str) -> list[float]:
        """The best loss to expect after 1 .. k trials of the search."""
        return expected_best(list(self.searches[arm].scores.values()))

    def good_ranges(self, arm: str) -> dict[str, tuple[float, float, float]]:
        """Key -> lowest and highest value within the margin of the best, and doublings between."""
        scores, chosen = self.searches[arm].scores, self.searches[arm].chosen or ()
        found = {key: good_range(scores, chosen, key, self.declaration.margin) for key, _ in chosen}
        return {key: of_key for key, of_key in found.items() if of_key is not None}


@dataclass(frozen=True)
class Findings:
    """A study. sha256: of all that was declared; declared: when, None if nobody did.

    Without a declaration cells are groups of runs, each read as one of its own. others: runs that
    neither tuned nor judged.
    """

    declaration: Declaration
    cells: list[CellFindings]
    sha256: str
    declared: datetime | None
    stopped: Sequence[str]  # arms that are not judged, and why
    amendments: Sequence[Mapping[str, Any]]
    others: Sequence[Run] = ()

    @property
    def spent(self) -> list[float]:
        """The level of each look that was read before an amendment; NaN where none was kept.

        Cells are judged each by itself: the most that one cell was looked at counts.
        """
        levels: list[float] = []
        for amendment in self.amendments:
            if "looks" not in amendment:
                levels.append(math.nan)
                continue
            looks = Counter(look["cell"] for look in amendment["looks"]).values()
            levels += [ALPHA / max(1, len(amendment["declared_looks"]))] * max(looks, default=0)
        return levels

    @property
    def error_rate(self) -> float:
        """The most often that a claim is wrong: the sum of all levels that were spent."""
        rate = ALPHA + sum(self.spent)
        return rate if math.isnan(rate) else min(1.0, rate)

    @cached_property
    def runs(self) -> list[Run]:
        """All that tuned or judged, each once."""
        return list({run.folder: run for cell in self.cells for run in cell.runs}.values())

    @property
    def begun_before(self) -> int:
        """The number of runs that were there before anything was declared."""
        begun = [run.interval_s[0] for run in self.runs if run.interval_s is not None]
        return sum(self.declared is None or s < self.declared.timestamp() for s in begun)

    @cached_property
    def trends(self) -> dict[str, Trend]:
        """How the difference of each arm at the primary budget goes over cells, where it tells."""
        found = {arm: self._trend(arm) for arm in self.cells[0].ruling.findings}
        return {arm: trend for arm, trend in found.items() if trend is not None}

    def _trend(self, arm: str) -> Trend | None:
        found = [cell.ruling.findings.get(arm) for cell in self.cells]
        effects = [one.interval for one in found if one and one.interval]
        if len(effects) < len(found):
            return None
        numeric = [
            {key: float(value) for key, value in cell.ruling.look.cell if is_positive(value)}
            for cell in self.cells
        ]
        return trend(effects, numeric, 0.95)


def findings(
    declaration: Declaration,
    conclusion: Conclusion,
    ended: Ended,
    content: Mapping[str, Any],
    doubts: Sequence[str] = (),
) -> Findings:
    """Read the runs of a concluded study. content: of the file that holds its declaration.

    doubts: beside those that its runs raise, told once.
    """
    cells: list[CellFindings] = []
    for cell, ruling in conclusion.rulings.items():
        assert isinstance(ruling, CellRuling)
        look = ruling.look
        judged: dict[str, dict[float, dict[int, Run]]] = {}
        for run in judging_runs(declaration, cell, look.chosen, declaration.seeds(look.pairs)):
            judged.setdefault(run.arm, {}).setdefault(run.budget, {})[run.seed] = ended.read(run)
        searches = {arm: conclusion.searches[cell, arm] for arm in declaration.arms}
        tuned: dict[str, dict[Setting, dict[int, Run]]] = {arm: {} for arm in searches}
        for arm, search in searches.items():
            for run in tuning_runs(declaration, cell, arm, search.scores):
                tuned[arm].setdefault(run.setting, {})[run.seed] = ended.read(run)
        told = () if cells else doubts
        cells.append(CellFindings(declaration, ruling, searches, judged, tuned, doubts=told))
    runs = [run for found in cells for run in found.runs]
    cells = [replace(found, everything=runs) for found in cells]
    declared = datetime.fromisoformat(content["declared"])
    stopped = [
        f"{cell_name(cell)}{': ' * bool(cell)}{arm}: all of "
        f"{count(len(search.scores), 'setting')} diverged on all tuning seeds "
        "(other values in verdict.tune.over)"
        for (cell, arm), search in conclusion.searches.items()
        if search.stopped
    ]
    return Findings(declaration, cells, content["sha256"], declared, stopped, content["amendments"])


def loss_of(run: Run, metric: str) -> float:
    """The final loss of an ended run: infinite if it diverged."""
    loss = run.loss(metric)
    assert loss is not None
    return loss


def _over(arm: float | None, baseline: float | None) -> float | None:
    return arm / baseline if arm and baseline else None
