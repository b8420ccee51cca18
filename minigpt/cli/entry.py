"""The entry of the scripts. It is thin: nobody waits for what a command does not use.

What importing and composing make is no garbage. Looking for some in it, at its end too, took Python
0.05 of the 0.32 s of `train.py --help`, and 0.07 of the 0.38 s of a finished run's answer.
"""

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minigpt.cli.command import Job, P, PlanOf
    from minigpt.cli.study import Ends


def main(
    job: "Job[P]",
    config_name: str,
    plan_of: "PlanOf[P]",
    study_ends: "Callable[[], Ends] | None" = None,
    answers: bool = False,
) -> int:
    """Plan what the command line composes, and do it; returns the exit code.

    plan_of: raises ConfigError with every problem of a composed configuration, in milliseconds.
    job: does what was planned. What needs no folder comes first; the rest it calls `Inside`.
    study_ends: how a declared study is judged and told; None where there is none.
    answers: stdout is what the command is for, so losing it is an error.
    """
    gc.disable()
    try:
        from minigpt.cli.command import run

        return run(job, config_name, plan_of, study_ends, answers)
    finally:
        gc.freeze()
        gc.enable()
