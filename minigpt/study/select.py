"""Which runs are meant: those of a study, and those for which `key=value` holds."""

from minigpt.errors import ConfigError
from minigpt.study.run import Run
from minigpt.study.values import same, show
from minigpt.terminal import did_you_mean


def select(runs: list[Run], study: str | None, where: list[str]) -> list[Run]:
    """The runs of a study for which every `key=value` of `where` holds.

    Raises ConfigError for a key that no run knows, and if no run is left.
    """
    if study is not None:
        runs = _of_study(runs, study)
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise ConfigError(f"unreadable condition: --where {condition} (write key=value)")
        # A run may belong to several studies.
        runs = _of_study(runs, value) if key == "study" else _with_value(runs, key, value)
    return runs


def _of_study(runs: list[Run], study: str) -> list[Run]:
    found = [run for run in runs if study in run.studies]
    if not found:
        known = sorted({name for run in runs for name in run.studies})
        raise ConfigError(
            f"no runs of this study: --study {study} (there are: {', '.join(known) or 'none'})"
        )
    return found


def _with_value(runs: list[Run], key: str, text: str) -> list[Run]:
    values = {run: run.value(key) for run in runs if run.has(key)}
    condition = f"--where {key}={text}"
    if not values:
        raise ConfigError(f"unknown key: {condition} {key_hint(key, runs)}")
    found = [run for run, value in values.items() if same(value, text)]
    if not found:
        known = sorted(set(map(show, values.values())))
        shown = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise ConfigError(f"no run matches: {condition} (there are: {shown})")
    return found


def key_hint(key: str, runs: list[Run]) -> str:
    """`(did you mean x?)` among the keys that the runs know."""
    known = set().union(*(run.keys() for run in runs))
    otherwise = "(give a group such as optim, or a key of config.yaml)"
    return did_you_mean(key, known, otherwise=otherwise)
