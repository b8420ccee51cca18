"""What a reader should know before believing a number: one sentence each, the graver first."""

from collections.abc import Iterable, Sequence

from minigpt.compare.cost import PATH, Costs, flops_per_token
from minigpt.compare.judge import Result
from minigpt.compare.tuning import curvatures, edges
from minigpt.study.run import Run, weak_runs
from minigpt.study.values import show

NOTABLE_SPREAD = 0.1  # of step times between runs of one setting on one path
SHOWN = 4  # names listed before "and n more"


def caveats(result: Result, times: Costs) -> list[str]:
    """Every doubt about a judged group."""
    return [
        *result.notes,
        *_diverged(result),
        *weak_runs(result.group.runs),
        *_grid_edges(result),
        *coarse_grids(result),
        *_tuning(result),
        *_runs(result),
        *_changed_code(result),
        *_paths(result),
        *_costs(result, times),
        *result.group.duplicates,
    ]


def _few(things: Sequence[str | Run]) -> str:
    """A few names in order, and how many more."""
    names = sorted(thing.name if isinstance(thing, Run) else thing for thing in things)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _diverged(result: Result) -> Iterable[str]:
    for name, found in result.at_headline.evidence.items():
        if found.diverged:
            seeds = ", ".join(map(str, found.diverged))
            yield (
                f"{name}: {len(found.diverged)} of {len(found.losses)} seeds diverged "
                f"(seed {seeds}); that counts against it, and its mean is over the others"
            )


def _grid_edges(result: Result) -> Iterable[str]:
    for name, choice in result.choices.items():
        for value, side in edges(result.group.arms[name], choice):
            yield (
                f"{name}: the best {value} lies on the {side} edge of its grid: "
                "its optimum may lie outside; extend the grid"
            )


def coarse_grids(result: Result) -> Iterable[str]:
    """A claim may be smaller than what lies between the points of a grid: then it is about grids.

    The simulations of experiments/calibration count these.
    """
    for c in result.at_headline.comparisons:
        if c.verdict not in ("lower", "higher") or c.interval is None:
            continue
        loser = c.baseline.arm if c.verdict == "lower" else c.arm.arm
        bends = curvatures(result.group.arms[loser], result.choices[loser])
        hidden, difference = sum(bend.hidden_loss for bend in bends), abs(c.interval.mean)
        if hidden >= difference:
            yield (
                f"{loser}: its grid is coarse: between two of its points the loss may be "
                f"{hidden:.4f} lower, no less than the difference of {difference:.4f}; "
                "refine it, or declare a margin that size"
            )


def _tuning(result: Result) -> Iterable[str]:
    tried = {
        name: (len(choice.scores), sum(len(score.seeds) for score in choice.scores))
        for name, choice in result.choices.items()
    }
    if len(set(tried.values())) > 1:
        shown = ", ".join(
            f"{name} {settings} settings, {runs} runs" if settings else f"{name} none"
            for name, (settings, runs) in tried.items()
        )
        yield (
            f"unequal tuning: {shown}; "
            "the arm with more had more chances to be lucky and to be good"
        )
    if not any(settings for settings, _ in tried.values()):
        yield (
            "untuned: one setting for each arm, "
            "so this compares these settings and not the arms at their best"
        )
    for name, choice in result.choices.items():
        if len({score.seeds for score in choice.scores}) > 1:
            yield f"{name}: its settings were tried on different numbers of seeds"
        if choice.budget is not None and choice.budget != result.headline:
            yield f"{name}: tuned at {choice.budget:,} tokens, judged at {result.headline:,}"
    swept = {
        name: {key for axis in arm.axes for key in axis.keys}
        for name, arm in result.group.arms.items()
    }
    everywhere = set().union(*swept.values())
    for name, keys in swept.items():
        if keys and any(keys < other for other in swept.values()):
            lacking = ", ".join(sorted(everywhere - keys))
            yield f"{name}: not tuned over {lacking}, which another arm was"


def _runs(result: Result) -> Iterable[str]:
    if sum(bool(at.comparisons) for at in result.budgets.values()) < 2:
        yield (
            "one budget: a difference at a single budget says little about longer runs "
            "(add another train.steps=)"
        )
    for name, arm in result.group.arms.items():
        for status in ("failed", "unfinished", "running"):
            if runs := [run for run in arm.unended if run.status == status]:
                yield f"{name}: {len(runs)} {status}: {_few(runs)}"
    if runs := [run for run in result.group.runs if run.record.get("mixed")]:
        kinds = sorted({change for run in runs for change in run.record["mixed"]})
        shown = "; ".join(kinds[:SHOWN])
        yield f"mixed runs, went on after a change ({shown}): {_few(runs)}"


def _changed_code(result: Result) -> Iterable[str]:
    digests: dict[str, dict[str, list[Run]]] = {}
    for run in result.group.runs:
        for module, digest in run.record["source"].items():
            digests.setdefault(module, {}).setdefault(digest, []).append(run)
    if changed := {module: found for module, found in digests.items() if len(found) > 1}:
        fewest = min((runs for found in changed.values() for runs in found.values()), key=len)
        yield (
            "changed code: runs were computed by different versions of "
            f"{_few(list(changed))} (one side: {_few(fewest)})"
        )
    versions = {run.record.get("versions", {}).get("torch") for run in result.group.runs}
    if len(versions) > 1:
        yield f"different torch versions: {', '.join(sorted(map(str, versions)))}"


def _paths(result: Result) -> Iterable[str]:
    by = result.group.question.by
    judged = [run for found in result.at_headline.evidence.values() for run in found.all_runs]
    for key in PATH:
        values = {show(run.record["chosen"].get(key)) for run in judged}
        if len(values) > 1 and by != f"train.{key}":
            decides = key in ("device", "precision", "compile")
            what = "losses and times" if decides else "times, and last digits of losses,"
            yield f"different {key} ({', '.join(sorted(values))}): {what} are not of one path"
    hosts = {str(run.record["hardware"].get("host")) for run in judged}
    if len(hosts) > 1:
        yield f"different hosts ({', '.join(sorted(hosts))}): times do not compare across them"


def _costs(result: Result, times: Costs) -> Iterable[str]:
    for name, found in result.at_headline.evidence.items():
        ended = [run for run in found.all_runs if run.status == "finished"]
        if ended and all(flops_per_token(run) is None for run in ended):
            yield (
                f"{name}: its FLOPs are unknown, "
                "since an optimizer does not tell its own (flops_per_step)"
            )
    if times.why_no_times:
        yield f"no seconds: {times.why_no_times}"
    for name, time in times.step_times.items():
        if time.log.sd > NOTABLE_SPREAD:
            yield (
                f"{name}: its step times differ by {100 * time.log.sd:.0f} % from run to run "
                "(one standard deviation): the machine did other work too, "
                "and the seconds are rough"
            )
