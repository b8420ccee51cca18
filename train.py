"""Train one GPT, or with -m many: compose, check, build, fit.

python train.py                                     tiny GPT, Muon, Shakespeare
python train.py model=small optim=adamw seed=1      another run, in its own folder
python train.py -m optim=muon,adamw seed=0,1,2      a sweep
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.cli import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minigpt.config.plan import Plan


def train(cfg: "DictConfig") -> float | None:
    """One run, from a composed configuration to its final validation loss (None: stopped early or
    only described).
    """
    from minigpt.config.build import check_built
    from minigpt.config.plan import plan_of
    from minigpt.run.answer import answer, print_outcome

    plan = plan_of(cfg)
    if (summary := answer(plan)) is None:
        check_built(plan)
        if plan.config["dry_run"]:
            print_description(plan)
            return None
        from minigpt.train import training

        summary = training.run(plan)
    if summary is None:
        return None
    print_outcome(plan.folder, summary)
    return summary["val_loss"]


def check(cfg: "DictConfig") -> None:
    """Every problem that shows without building anything."""
    from minigpt.config.plan import plan_of

    plan_of(cfg)


def before(cfg: "DictConfig", sweeping: bool) -> bool:
    """Before Hydra makes a folder: see that it can be made; answer for a finished run without
    loading torch.
    """
    from minigpt.config.build import check_built
    from minigpt.config.plan import plan_of
    from minigpt.files import durable
    from minigpt.run.answer import answer, print_outcome

    plan = plan_of(cfg) if not sweeping else None
    if plan is not None and (summary := answer(plan)) is not None:
        join_study(plan)
        print_outcome(plan.folder, summary)
        return True
    if plan is not None:
        check_built(plan)
        if plan.config["dry_run"]:
            print_description(plan)
            return True
        join_study(plan)
    durable.ensure_writable(Path(cfg.output_dir) if plan is None else plan.folder.parent)
    return False


def join_study(plan: "Plan") -> None:
    """Let a run that has begun under another study belong to the one that it is asked for now."""
    from minigpt.study import record

    try:
        record.join(plan.folder, plan.study, plan.overrides)
    except OSError as error:
        print(f"warning: not noted in study={plan.study}: {error}", file=sys.stderr)


def print_description(plan: "Plan") -> None:
    """The parameter table and what the run would cost, on stdout."""
    from minigpt import streams
    from minigpt.train.dry_run import describe

    streams.stdout_must_arrive()
    print(describe(plan))


def main() -> int:
    """The command; returns its exit code."""
    return entry.main(train, "train", check, before)


if __name__ == "__main__":
    sys.exit(main())
