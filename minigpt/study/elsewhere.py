"""The runs of arms that are code: planned and trained by processes of that code.

Each arm has a process that plans its runs (cli/plans.py) and each job is one that trains.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from minigpt import interrupt
from minigpt.config.composed import typed_of
from minigpt.config.plan import Plan
from minigpt.errors import ConfigError, Stopped, error_of
from minigpt.study.checkouts import ROOT, Code

PLANS = "minigpt/cli/plans.py"


class ElsewherePlanner:
    """See `jobs.Planner`. checkouts: by digest. config_dir: as it was typed.

    passing: the folder that checkouts are in for as long as this lasts.
    """

    def __init__(
        self,
        codes: dict[str, Code],
        checkouts: dict[str, Path],
        shared: Sequence[str],
        config_dir: str | None,
        passing: "tempfile.TemporaryDirectory[str] | None" = None,
    ) -> None:
        self.passing = passing
        self.names = {code.digest: f"{arm}: {code}" for arm, code in codes.items()}
        self.checkouts, self.shared = checkouts, list(shared)
        self.arguments = [f"--config-dir={config_dir}"] if config_dir else []
        self._processes: dict[str, subprocess.Popen[str]] = {}
        for digest, folder in checkouts.items():
            if not (folder / PLANS).is_file():
                raise ConfigError(
                    f"too old for an arm: verdict.arms.{self.names[digest]} has no {PLANS} "
                    "(the oldest code that can be an arm has it)"
                )

    def all(self, jobs: list[list[str]]) -> list[Plan]:
        """Their plans, by the code that each names. Raises ConfigError for one that cannot work."""
        found: dict[int, Plan] = {}
        for digest in self.names:
            own = [n for n, job in enumerate(jobs) if f"code={digest}" in job]
            if own:
                answer = self._ask(digest, {"plan": [jobs[n] for n in own]})
                found |= zip(own, map(Plan.of, answer["plans"]))
        return [found[n] for n in range(len(jobs))]

    def check(self, plan: Plan, *, metric: str = "val_loss") -> None:
        """Raises ConfigError for what only constructors know. Its code may have other metrics."""
        self._ask(plan.config["code"], {"check": plan.overrides})

    def flops_per_token(self, plan: Plan) -> float:
        return float(self._ask(plan.config["code"], {"flops": plan.overrides})["flops"])

    def _ask(self, digest: str, request: dict[str, Any]) -> dict[str, Any]:
        process = self._processes.get(digest)
        if process is None:
            folder = self.checkouts[digest]
            # -P: else the folder that one types in would come first
            command = [sys.executable, "-P", "-m", "minigpt.cli.plans", *self.arguments]
            process = self._processes[digest] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=_environment(folder), start_new_session=True,
            )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            print(json.dumps({"shared": self.shared, **request}), file=process.stdin, flush=True)
            line = process.stdout.readline()
        if not line:
            raise ConfigError(f"no plan: {self.names[digest]}: its process ended (see above)")
        answer: dict[str, Any] = json.loads(line)
        if problems := answer.get("problems"):
            raise ConfigError(*(f"{problem} [{self.names[digest]}]" for problem in problems))
        return answer

    def close(self) -> None:
        """End the processes that planned."""
        for process in self._processes.values():
            with process:
                pass  # it ends with its stdin
        self._processes.clear()
        if self.passing is not None:
            self.passing.cleanup()


def train_elsewhere(config_dir: str | None, cfg: DictConfig) -> None:
    """One job, in a process of the code that it names. Raises the error that the process ended by.

    For the sweep's own process it ends as a job of its own does.
    """
    from hydra.core.hydra_config import HydraConfig

    folder = folder_of_code(Path(cfg.output_dir).expanduser(), cfg.code)
    arguments = [f"--config-dir={config_dir}"] if config_dir else []
    script = str(folder / "train.py")
    command = [sys.executable, script, *arguments, *typed_of(HydraConfig.get())]
    command = interrupt.with_parent(command, signal.SIGKILL)
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            env=_environment(folder), start_new_session=True,
        ) as process:  # fmt: skip
            told = 0
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
                if (stop := interrupt.requested()) and told < interrupt.count():
                    told = interrupt.count()
                    process.send_signal(stop)
        if process.returncode == 0:
            return
        said.seek(0)
        lines = said.read().splitlines()
    if stop := interrupt.requested():
        raise Stopped(stop, "stopped: the same command goes on")
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    code = process.returncode
    raise error_of(code, *(reasons or lines[-1:] or [f"exit code {code}"]))


def go_where_it_is(plan: Plan) -> None:
    """Stay if this is the code that the plan names; else go on as a process of that code.

    Raises ConfigError in a sweep, or if the code is not there.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    code = plan.config["code"]
    if ROOT.name == code:
        return
    folder = folder_of_code(Path(plan.config["output_dir"]).expanduser(), code)
    if not OmegaConf.is_missing(HydraConfig.get().job, "num"):
        raise ConfigError(f"other code: code={code} in a sweep (verdict.by=code studies code)")
    sys.stdout.flush()
    arguments = [sys.executable, str(folder / "train.py"), *sys.argv[1:]]
    os.execve(sys.executable, arguments, _environment(folder))


def folder_of_code(output: Path, digest: str) -> Path:
    """Where it lies. Raises ConfigError if it does not."""
    folder = output / "code" / digest
    if not (folder / "train.py").is_file():
        raise ConfigError(
            f"no such code: code={digest}: {folder} (a study with verdict.by=code makes it)"
        )
    return folder.resolve()


def _environment(folder: Path) -> dict[str, str]:
    """Without bytecode, a copy holds nothing but what was copied."""
    own = {"PYTHONPATH": str(folder.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **own}
