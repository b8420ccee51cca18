"""How often does minigpt.compare err? Thousands of simulated studies through its own functions.

    python experiments/calibration/simulate.py                    a few minutes on one core
    python experiments/calibration/simulate.py --studies 400      a look
    python experiments/calibration/simulate.py --parameters FILE  what measure.py found elsewhere

Each study is what a careful user does: two arms, a grid of five learning rates on two tuning seeds,
the best one on eight confirmation seeds at three budgets, paired by seed, then
`minigpt.compare.judge.judge` on run objects in memory. Only the numbers that training would give
are drawn:

    loss(arm, lr, seed, budget) = L(budget) + effect(arm) + curvature * log2(lr / best lr)^2 + noise

L falls by `slope_per_doubling` at the judged budget and by `slope_flattening` less with every
doubling, so that it is convex in the log of the budget, as real losses are. The noise of a seed is
normal, with a standard deviation for each arm; a share `seed_correlation` of its variance is common
to both arms (the same data order and initial weights).
"""

import argparse
import csv
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from power_figure import draw

from minigpt.compare.caveats import coarse_grids
from minigpt.compare.groups import group_runs
from minigpt.compare.judge import Result, judge
from minigpt.compare.question import Question
from minigpt.compare.rules import Rules
from minigpt.compare.statistics import t_interval
from minigpt.study.run import Run

HERE = Path(__file__).parent
GRID = (-2, -1, 0, 1, 2)  # doublings of the learning rate around the preset's own
# steps; judged at the middle one, so that ratios can be bracketed from both sides
BUDGETS = (100, 200, 400)
JUDGED = 200
TUNING = (0, 1)
CONFIRMATION = tuple(range(100, 108))
TOKENS_PER_STEP = 512
Doublings = dict[str, float]  # of the learning rate, by arm
SIZES = (0.5, 1.0, 1.5, 2.0, 3.0)  # true effects, in standard deviations of a pair


@dataclass(frozen=True)
class Parameters:
    """Losses and slopes are in nats per token."""

    source: str
    seed_sd: float  # of the baseline
    seed_sd_new: float  # of the new arm
    seed_correlation: float
    curvature: float  # nats per squared doubling of the lr
    loss_at_judged: float
    slope_per_doubling: float
    slope_flattening: float

    @property
    def pair_sd(self) -> float:
        """Standard deviation of a paired difference at fixed settings."""
        a, b = self.seed_sd, self.seed_sd_new
        return math.sqrt(a**2 + b**2 - 2 * self.seed_correlation * a * b)

    def mean_loss(self, doublings: float) -> float:
        """Of a tuned arm without effect, so many doublings of the budget past the judged one."""
        return (
            self.loss_at_judged
            + self.slope_per_doubling * doublings
            + self.slope_flattening * doublings**2 / 2
        )


class Simulator:
    """Runs in memory with drawn losses.

    effect: of the second arm, nats per token; below 0 it is better.
    """

    def __init__(self, parameters: Parameters, effect: float, seed: int) -> None:
        self.p, self.effect = parameters, effect
        self.random = np.random.default_rng(seed)

    def study(self) -> tuple[list[Run], Doublings]:
        """The runs of one study, and the best lr of each arm in doublings from the centre."""
        best = {arm: float(self.random.uniform(-0.5, 0.5)) for arm in ("base", "new")}
        shared = {seed: float(self.random.normal()) for seed in (*TUNING, *CONFIRMATION)}
        runs = []
        for arm in best:
            scores = {}
            for k in GRID:
                tuned = [self.run(arm, k, best[arm], seed, JUDGED, shared[seed]) for seed in TUNING]
                scores[k] = sum(run.summary["val_loss"] for run in tuned if run.summary)
                runs += tuned
            # The user confirms what the product would choose; judge() chooses again.
            k = min(scores, key=scores.__getitem__)
            each = [(s, steps) for s in CONFIRMATION for steps in BUDGETS]
            runs += [self.run(arm, k, best[arm], s, steps, shared[s]) for s, steps in each]
        return runs, best

    def true_loss(self, arm: str, k: float, best: float, steps: float) -> float:
        effect = self.effect if arm == "new" else 0.0
        mean = self.p.mean_loss(math.log2(steps / JUDGED))
        return mean + effect + self.p.curvature * (k - best) ** 2

    def run(self, arm: str, k: int, best: float, seed: int, steps: int, shared: float) -> Run:
        own = float(self.random.normal())
        rho, sd = self.p.seed_correlation, self.p.seed_sd_new if arm == "new" else self.p.seed_sd
        noise = sd * (math.sqrt(rho) * shared + math.sqrt(1 - rho) * own)
        loss = self.true_loss(arm, k, best, steps) + noise
        lr = 0.01 * 2.0**k
        identity = {"optim": {"hidden": {"lr": lr}}, "budget": {"steps": steps}, "seed": seed}
        data = {"fingerprint": "0"}
        record = {"identity": identity, "choices": {"optim": arm}, "data": data, "chosen": {}}
        config = {
            "train": {"tokens": None, "steps": steps, "batch_size": 8},
            "model": {"max_seq_len": TOKENS_PER_STEP // 8},
            "optim": {"lr": lr},
        }
        summary = {"status": "finished", "val_loss": loss, "tokens": steps * TOKENS_PER_STEP}
        return Run(Path(f"{arm}-{k}-{seed}-{steps}"), record, config, summary)


def judged(runs: list[Run], margin: float = 0.0) -> Result:
    """The product's own way from runs to a verdict."""
    (group,) = group_runs(Question("optim"), runs).several
    result = judge(group, Rules(baseline="base", margin=margin))
    assert result is not None
    return result


@dataclass
class Tally:
    """What many studies of one truth came to; shares, with counts in `studies` and `ratios`."""

    effect: float
    margin: float = 0.0
    scenario: str = ""
    studies: int = 0
    lower: int = 0
    higher: int = 0
    undecided: int = 0
    alike: int = 0
    doubted: int = 0  # claims that the report doubts, for the coarseness of the grid
    covered: int = 0  # the interval holds the true difference of the two chosen settings
    covered_tuned: int = 0  # the interval holds the true difference of the arms at their best
    ratios: int = 0  # studies whose ratio was bracketed
    ratio_covered: int = 0
    log_ratio_error: float = 0.0  # sum of (estimate - truth)

    def row(self) -> dict[str, Any]:
        def share(count: int, of: int = self.studies) -> str:
            return f"{count / of:.4f}" if of else ""

        error = f"{self.log_ratio_error / self.ratios:+.4f}" if self.ratios else ""
        return {
            "scenario": self.scenario,
            "true effect": f"{self.effect:.4f}",
            "margin": f"{self.margin:.4f}",
            "studies": self.studies,
            "better": share(self.lower),
            "worse": share(self.higher),
            "equivalent": share(self.alike),
            "undecided": share(self.undecided),
            "wrong claims": share(self.lower + self.higher if self.effect == 0 else self.higher),
            "claims doubted": share(self.doubted, self.lower + self.higher),
            "interval covers": share(self.covered),
            "covers arms at their best": share(self.covered_tuned),
            "ratio given": share(self.ratios),
            "ratio's interval covers": share(self.ratio_covered, self.ratios),
            "ratio's mean log error": error,
        }


def simulate(
    p: Parameters, scenario: str, effect: float, studies: int, seed: int, margin: float = 0.0
) -> Tally:
    """Many studies with the same true effect of the new arm."""
    simulator, tally = Simulator(p, effect, seed), Tally(effect, margin, scenario)
    for _ in range(studies):
        runs, best = simulator.study()
        result = judged(runs, margin)
        at = result.budgets[JUDGED * TOKENS_PER_STEP]
        (comparison,) = at.comparisons
        chosen = {
            name: math.log2(choice.setting.value("optim.hidden.lr") / 0.01)
            for name, choice in result.choices.items()
        }
        new, base = (simulator.true_loss(a, chosen[a], best[a], JUDGED) for a in ("new", "base"))
        interval = comparison.interval
        assert interval is not None
        tally.studies += 1
        setattr(tally, comparison.verdict, getattr(tally, comparison.verdict) + 1)
        tally.doubted += bool(list(coarse_grids(result)))
        tally.covered += interval.low <= new - base <= interval.high
        tally.covered_tuned += interval.low <= effect <= interval.high
        _tally_ratio(tally, result, simulator, chosen, best)
    return tally


def _tally_ratio(
    tally: Tally, result: Result, simulator: Simulator, chosen: Doublings, best: Doublings
) -> None:
    """Against the budget at which the true losses of the chosen settings are equal."""
    (found,) = (one for one in result.equal_loss if one.budget == JUDGED * TOKENS_PER_STEP)
    if found.ratio.log is None:
        return
    target = simulator.true_loss("base", chosen["base"], best["base"], JUDGED)
    low, high = -3.0, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        loss = simulator.true_loss("new", chosen["new"], best["new"], JUDGED * 2.0**middle)
        low, high = (middle, high) if loss > target else (low, middle)
    truth = middle * math.log(2)
    tally.ratios += 1
    tally.ratio_covered += found.ratio.log.low <= truth <= found.ratio.log.high
    tally.log_ratio_error += found.ratio.log.mean - truth


def without_confirmation(p: Parameters, studies: int, seed: int, seeds: int = 8) -> float:
    """What confirmation seeds are for: the share of false claims without them.

    The best of five settings that do not matter is tested on the very seeds that chose it, against
    an equal arm that was not tuned.
    """
    simulator, claims = Simulator(replace(p, curvature=0.0), 0.0, seed), 0
    for _ in range(studies):
        shared = simulator.random.normal(size=seeds)
        base, *grid = (
            [
                simulator.run("base", k, 0.0, s, JUDGED, shared[s]).loss("val_loss") or 0.0
                for s in range(seeds)
            ]
            for k in (0, *GRID)
        )
        interval = t_interval([a - b for a, b in zip(min(grid, key=sum), base)])
        claims += not interval.low <= 0 <= interval.high
    return claims / studies


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    studies = "of equal arms; half as many for each other effect"
    parser.add_argument("--studies", type=int, default=4000, help=studies)
    parser.add_argument("--parameters", type=Path, default=HERE / "parameters.json")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    p = Parameters(**json.loads(options.parameters.read_text()))
    n = options.studies
    print(f"parameters: {p}\n")
    hidden = p.curvature * 0.5**2  # what a point between two of the grid may gain
    plan = [
        ("equal arms, settings do not matter", replace(p, curvature=0.0), 0.0, n, 0.0),
        ("equal arms, each between its grid points", p, 0.0, n, 0.0),
        ("the same, margin of what the grid hides", p, 0.0, n, hidden),
        *((f"better by {x:g} sd of a pair", p, -x * p.pair_sd, n // 2, 0.0) for x in SIZES),
        ("better by 3 sd, margin of what the grid hides", p, -3 * p.pair_sd, n // 2, hidden),
    ]
    tallies = []
    for seed, (scenario, parameters, effect, studies, margin) in enumerate(plan, options.seed):
        tally = simulate(parameters, scenario, effect, studies, seed, margin)
        print("  ".join(f"{key} {value}" for key, value in tally.row().items()), flush=True)
        tallies.append(tally)
    share = without_confirmation(p, n, options.seed + 100)
    print(
        "\nequal arms, one tuned and judged on the seeds that chose (not what compare does): "
        f"wrong claims {share:.4f}"
    )
    with open(options.out / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(tallies[0].row()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(tally.row() for tally in tallies)
    drawn = [tallies[1], *(t for t in tallies if t.scenario.endswith("sd of a pair"))]
    draw(
        [-t.effect / p.pair_sd for t in drawn],
        [t.lower / t.studies for t in drawn],
        {
            "difference, chosen settings": [t.covered / t.studies for t in drawn],
            "difference, arms at their best": [t.covered_tuned / t.studies for t in drawn],
            "budget ratio": [t.ratio_covered / max(1, t.ratios) for t in drawn],
        },
        len(CONFIRMATION),
        options.out / "calibration.png",
    )


if __name__ == "__main__":
    main()
