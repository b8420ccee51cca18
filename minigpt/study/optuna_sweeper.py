"""A sweep whose next settings follow from the losses so far: Optuna's, asked and told.

One study of Optuna a command, in <output_dir>/sweeps/optuna.db. The same command goes on with it:
ended trials stay, one that was cut off is asked for again, and its run resumes.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from minigpt import interrupt
from minigpt.config.identity import short_hash
from minigpt.errors import ConfigError, NumericsError, Stopped
from minigpt.files import durable

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DIVERGED = NumericsError.exit_code


class OptunaSweeper(Sweeper):
    """n_trials: that end, in all. n_jobs: launched together. seed: of the sampler (TPE)."""

    def __init__(self, n_trials: int, n_jobs: int, seed: int) -> None:
        self.n_trials, self.n_jobs, self.seed = n_trials, n_jobs, seed

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.output = Path(config.output_dir).expanduser()
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Raises ConfigError, and what the first job raised that failed; then nothing is lost."""
        try:
            import optuna
        except ModuleNotFoundError:
            raise ConfigError(
                "missing package: hydra/sweeper=optuna needs optuna (pip install 'minigpt[optuna]')"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        parsed = OverridesParser.create().parse_overrides(arguments)
        space = {o.get_key_element(): _distribution(o) for o in parsed if o.is_sweep_override()}
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        if not space:
            raise ConfigError("nothing to search: give a key=interval(...) or key=a,b,c")
        own = {key: optuna.distributions.distribution_to_json(one) for key, one in space.items()}
        database = self.output / "sweeps" / "optuna.db"
        with durable.writing(database):
            database.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=f"sqlite:///{database.resolve()}",
            study_name=short_hash({"fixed": sorted(fixed), "space": own, "seed": self.seed}),
            load_if_exists=True,
        )
        done = (optuna.trial.TrialState.COMPLETE,)
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        while (ended := len(study.get_trials(states=done))) < self.n_trials:
            study.sampler = optuna.samplers.TPESampler(seed=self.seed + ended, constant_liar=True)
            batch = [study.ask(space) for _ in range(min(self.n_jobs, self.n_trials - ended))]
            jobs = [[*fixed, *_typed(trial.params)] for trial in batch]
            returned = self.launcher.launch(jobs, initial_job_idx=ended)
            for trial, job in zip(batch, returned, strict=True):
                failed = job._return_value if job.status == JobStatus.FAILED else None
                loss = job._return_value if failed is None else math.inf
                if loss is not None and getattr(failed, "exit_code", DIVERGED) == DIVERGED:
                    study.tell(trial, loss)
            if stop := interrupt.requested():
                raise SystemExit(Stopped(stop).exit_code)
            for job, overrides in zip(returned, jobs):
                if getattr(job._return_value, "exit_code", DIVERGED) != DIVERGED:
                    raise job._return_value
                if job._return_value is None:
                    raise ConfigError(f"no loss: {' '.join(overrides)} (it did not run to its end)")
        _tell_best(study.best_value, study.best_params, self.n_trials)


def _tell_best(loss: float, best: dict[str, Any], trials: int) -> None:
    print(f"\nbest of {trials} trials   {loss:.4f}  {' '.join(_typed(best))}")
    sizes = {key: v for key, v in best.items() if isinstance(v, float) and v > 0}
    grid = {key: [float(f"{v * by:.3g}") for by in (0.5, 1, 2)] for key, v in sizes.items()}
    if grid:
        print(f"for a declaration    verdict.tune.over: {json.dumps(grid)}")


def _typed(params: dict[str, Any]) -> list[str]:
    """As overrides, to four digits: names of runs have them."""
    return [f"{key}={v:.4g}" if isinstance(v, float) else f"{key}={v}" for key, v in params.items()]


def _distribution(override: Override) -> "BaseDistribution":
    """interval(1e-3,1) is uniform, tag(log,interval(1e-3,1)) log-uniform; lists are choices."""
    from optuna import distributions

    value: Any = override.value()
    if isinstance(value, RangeSweep | IntervalSweep):
        low, high = value.start, value.stop if isinstance(value, RangeSweep) else value.end
        log = "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            step = int(getattr(value, "step", 1))
            last = high - isinstance(value, RangeSweep)
            return distributions.IntDistribution(low, last, log=log, step=1 if log else step)
        step_size = value.step if isinstance(value, RangeSweep) else None
        return distributions.FloatDistribution(low, high, log=log, step=step_size)
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))
