"""A sweep whose next settings follow from the losses so far: Optuna's, asked and told.

A command has a study of Optuna in <output_dir>/sweeps/optuna.db and goes on with it: ended trials
stay, one that was cut off is asked for again, and its run resumes.
"""

import json
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper

from minigpt import interrupt
from minigpt.config.identity import short_hash
from minigpt.errors import ConfigError, NumericsError, Stopped
from minigpt.files import durable

IMPOSSIBLE = (ConfigError.exit_code, NumericsError.exit_code)  # settings, the worst ones


class OptunaSweeper(Sweeper):
    """n_trials: that end, in all. n_jobs: launched together. seed: of the sampler (TPE)."""

    def __init__(self, n_trials: int, n_jobs: int, seed: int) -> None:
        self.n_trials, self.n_jobs, self.seed = n_trials, n_jobs, seed

    def setup(self, *, config: Any, **how: Any) -> None:
        self.database = Path(config.output_dir).expanduser() / "sweeps" / "optuna.db"
        self.launcher: Any = Plugins.instance().instantiate_launcher(config=config, **how)

    def sweep(self, arguments: list[str]) -> None:
        """Raises ConfigError, and what the first job raised that failed; it is tried again."""
        try:
            import optuna
        except ModuleNotFoundError:
            raise ConfigError(
                "missing package: hydra/sweeper=optuna needs optuna (pip install optuna)"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        parsed = OverridesParser.create().parse_overrides(arguments)
        for name, value in (("n_trials", self.n_trials), ("n_jobs", self.n_jobs)):
            if value < 1:
                raise ConfigError(f"out of range: hydra.sweeper.{name}={value} (at least 1)")
        space = {o.get_key_element(): _distribution(o) for o in parsed if o.is_sweep_override()}
        fixed = [o.input_line for o in parsed if not o.is_sweep_override()]
        if not space:
            raise ConfigError("nothing to search: give a key=interval(...) or key=a,b,c")
        with durable.writing(self.database):
            self.database.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=f"sqlite:///{self.database.resolve()}",
            study_name=short_hash({"fixed": fixed, "space": str(space), "seed": self.seed}),
            load_if_exists=True,
        )
        states = optuna.trial.TrialState
        for cut in study.get_trials(states=(states.RUNNING,)):
            study.enqueue_trial(cut.params)
            study.tell(cut.number, state=states.FAIL)
        while (ended := len(study.get_trials(states=(states.COMPLETE,)))) < self.n_trials:
            study.sampler = optuna.samplers.TPESampler(seed=self.seed + ended, constant_liar=True)
            batch = [study.ask(space) for _ in range(min(self.n_jobs, self.n_trials - ended))]
            jobs = [[*fixed, *_typed(trial.params)] for trial in batch]
            problems: list[Exception] = []
            for trial, job in zip(batch, self.launcher.launch(jobs, initial_job_idx=ended)):
                result = job._return_value
                if job.status == JobStatus.FAILED and result.exit_code not in IMPOSSIBLE:
                    problems.append(result)
                elif job.status == JobStatus.FAILED:
                    study.tell(trial, float("inf"))
                elif result is None:
                    typed = " ".join(_typed(trial.params))
                    problems.append(ConfigError(f"no loss: {typed} (it did not run to its end)"))
                else:
                    study.tell(trial, result)
            if stop := interrupt.requested():
                raise SystemExit(Stopped(stop).exit_code)
            if problems:
                raise problems[0]
        best: dict[str, Any] = study.best_params
        print(f"\nbest of {ended} trials   {study.best_value:.4f}  {' '.join(_typed(best))}")
        sizes = {key: v for key, v in best.items() if isinstance(v, float) and v > 0}
        grid = {key: [float(f"{v * by:.3g}") for by in (0.5, 1, 2)] for key, v in sizes.items()}
        if grid:
            print(f"for a declaration    verdict.tune.over: {json.dumps(grid)}")


def _typed(params: dict[str, Any]) -> list[str]:
    """As overrides, to four digits: names of runs have them."""
    return [f"{key}={v:.4g}" if isinstance(v, float) else f"{key}={v}" for key, v in params.items()]


def _distribution(override: Override) -> Any:
    """interval(1e-3,1) is uniform, tag(log,interval(1e-3,1)) log-uniform; lists are choices."""
    from optuna import distributions

    value: Any = override.value()
    if not isinstance(value, IntervalSweep):
        return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))
    ends: list[Any] = [value.start, value.end]
    whole = all(isinstance(end, int) for end in ends)
    kind: Any = distributions.IntDistribution if whole else distributions.FloatDistribution
    try:
        return kind(*ends, log="log" in value.tags)
    except ValueError as error:
        raise ConfigError(f"no interval: {override.input_line}: {error}") from None
