"""How many runs a declaration asks for."""

import math
from typing import Any

MOST_RUNS = 100_000  # all of a phase are planned before the first is trained


def too_many_runs(verdict: dict[str, Any]) -> list[str]:
    """What is wrong with a declaration that is right otherwise: the search, without extensions,
    and the last look take more runs than can be planned.
    """
    tune, settings = verdict["tune"], []
    for arm in verdict["arms"]:
        sizes = [*map(len, (tune["over"] | tune["per_arm"].get(arm, {})).values())]
        of_method = {"random": tune["trials"], "coordinate": tune["rounds"] * sum(sizes)}
        settings.append(of_method.get(tune["method"], math.prod(sizes)))
    (budgets,) = verdict["budgets"].values()
    pairs = verdict["confirm"]["looks"][-1] * len(budgets) * len(settings)
    cells = math.prod(map(len, verdict["cells"].values()))
    asked = cells * (sum(settings) * len(tune["seeds"]) + pairs)
    if asked <= MOST_RUNS:
        return []
    return [f"too many runs: verdict asks for {asked:,} (at most {MOST_RUNS:,})"]
