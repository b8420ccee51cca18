"""The search for an arm's setting: which settings to try next, which one wins.

Every step follows from losses alone. So a search that was killed is the same search when it is
done again over the runs that are there.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any

from minigpt.study.declaration import Grid, Setting, Tuning, Value, points
from minigpt.study.values import is_number, is_positive

# Neighbours closer than this are no scale of sizes (0.9, 0.95): nothing lies beyond their ends.
LEAST_RATIO = 1.2
# setting -> final loss of each tuning seed, infinite if it diverged; None until all have ended,
# none at all if no such run can be
Losses = Callable[[Setting], dict[int, float] | None]


@dataclass
class Search:
    """How far a search has come.

    scores: mean loss of each setting that was tried, over the tuning seeds, in the order of trying.
    waves: how often settings were compared; after each of them the search may want others.
    """

    wanted: list[Setting] = field(default_factory=list)  # to be run before it can go on
    waves: int = 0
    most_waves: int = 0
    chosen: Setting | None = None
    ended: bool = False  # at least one of its runs did not diverge
    stopped: bool = False  # all did
    scores: dict[Setting, float] = field(default_factory=dict)
    extensions: list[tuple[str, Value]] = field(default_factory=list)  # key, value beyond an edge
    refused: dict[tuple[str, Value], Setting] = field(default_factory=dict)  # that no run can have

    @property
    def over(self) -> bool:
        return self.chosen is not None or self.stopped

    @property
    def ranking(self) -> list[Setting]:
        """Best first; of equal ones that which was tried first."""
        return sorted(self.scores, key=lambda setting: self.scores[setting])


class _Waiting(Exception):
    """The next wave needs losses that are not there yet, or has to wait for other searches."""


def search(tune: Tuning, arm: str, losses: Losses, waves: int) -> Search:
    """Go as far as the known losses and this number of waves allow."""
    found = Search(most_waves=waves)
    grid = tune.grid(arm)
    try:
        if not grid:
            found.chosen = ()
        elif tune.method == "random":
            found.chosen = _best(drawn(grid, tune.trials), losses, found)
        elif tune.method == "coordinate":
            found.chosen = _by_coordinates(grid, tune, losses, found)
        else:
            found.chosen = _on_a_grid(grid, tune, losses, found)
    except _Waiting:
        pass
    if found.chosen and not found.ended:
        found.chosen, found.stopped = None, True
    return found


def _best(settings: Iterable[Setting], losses: Losses, found: Search) -> Setting:
    """The setting with the lowest mean loss; one that diverged comes last."""
    if found.waves == found.most_waves:
        raise _Waiting
    found.waves += 1
    settings = list(settings)
    for setting in settings:
        if (known := losses(setting)) is None:
            found.wanted.append(setting)
        elif known:
            found.scores[setting] = fmean(known.values())
            found.ended |= any(map(math.isfinite, known.values()))
    if found.wanted:
        raise _Waiting
    return min((s for s in settings if s in found.scores), key=lambda s: found.scores[s])


def _on_a_grid(grid: Grid, tune: Tuning, losses: Losses, found: Search) -> Setting:
    """The best point of the product of all values, which grows where the best is on an edge."""
    while True:
        best = _best(points(grid), losses, found)
        beyond = {key: _beyond(grid, best, key, tune, losses, found) for key in grid}
        grown = {key: value for key, value in beyond.items() if value is not None}
        if not grown:
            return best
        found.extensions += grown.items()
        grid = grid | {key: (*grid[key], value) for key, value in grown.items()}


def _by_coordinates(grid: Grid, tune: Tuning, losses: Losses, found: Search) -> Setting:
    """One key at a time from the middle of the grid, until a round changes nothing."""
    at = {key: values[len(values) // 2] for key, values in grid.items()}
    for _ in range(tune.rounds):
        before = dict(at)
        for key in grid:
            while True:
                line = [tuple((at | {key: value}).items()) for value in grid[key]]
                best = _best(line, losses, found)
                value = _beyond(grid, best, key, tune, losses, found)
                if value is None:
                    break
                found.extensions.append((key, value))
                grid = grid | {key: (*grid[key], value)}
            at = dict(best)
        if at == before:
            break
    return tuple(at.items())


def _beyond(
    grid: Grid, best: Setting, key: str, tune: Tuning, losses: Losses, found: Search
) -> Value:
    """The value beyond the edge that the best setting lies on; None if there is none to try.

    It keeps the ratio of the two values at that edge. Values are sizes: positive numbers.
    """
    done = sum(extended == key for extended, _ in found.extensions)
    if done >= tune.extend or not math.isfinite(found.scores[best]):
        return None
    values: list[Any] = list(grid[key])
    if not all(map(is_positive, values)):
        return None
    values.sort()
    if len(values) < 2 or dict(best)[key] not in (values[0], values[-1]):
        return None
    edge, inner = (values[0], values[1]) if dict(best)[key] == values[0] else values[:-3:-1]
    ratio = edge / inner
    if 1 / LEAST_RATIO < ratio < LEAST_RATIO:
        return None
    value = float(f"{edge * ratio:.6g}")
    if all(isinstance(v, int) for v in values) and value == int(value) and value >= 1:
        value = int(value)
    setting = tuple((dict(best) | {key: value}).items())
    if losses(setting) == {}:
        found.refused.setdefault((key, value), setting)
        return None
    return value


def drawn(grid: Grid, trials: int) -> list[Setting]:
    """Random settings, the same for the same grid: another name of a study draws no others, and
    arms with one grid are as lucky as each other. More trials go on where fewer ended.

    Positive numbers are log-uniform between the smallest and the largest, to three digits; whole
    numbers stay whole; of anything else one of the values is drawn.
    """
    source = random.Random(hashlib.sha256(json.dumps(grid).encode()).digest())

    def draw(values: tuple[Any, ...]) -> Value:
        if not all(map(is_number, values)):
            return source.choice(values)
        low, high = min(values), max(values)
        value = math.exp(source.uniform(math.log(low), math.log(high)))
        if all(isinstance(v, int) for v in values):
            return min(high, max(low, round(value)))
        return float(f"{value:.3g}")

    tried = (tuple((key, draw(values)) for key, values in grid.items()) for _ in range(20 * trials))
    return list(islice(dict.fromkeys(tried), trials))  # fewer where there are not so many
