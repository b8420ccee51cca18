"""Plans jobs for the process of a study whose arms are code: each arm's own code plans its runs.

    python -m minigpt.cli.plans [--config-dir=DIR]

Requests come on stdin and answers go to stdout, a line of JSON each. `shared` are the overrides
that all jobs of the study share.

    {"shared": [...], "plan": [["seed=0"], ...]}    {"plans": [...]}
    {"shared": [...], "check": ["seed=0"]}          {}
    {"shared": [...], "flops": ["seed=0"]}          {"flops": 762240.0}     per token

Instead of any of them: {"problems": ["..."]}.
"""

import json
import os
import sys
import traceback
from dataclasses import asdict
from functools import cache, partial
from importlib import import_module
from typing import Any, TextIO

from minigpt.cli.composition import compose
from minigpt.cli.flags import parse
from minigpt.cli.process import set_up_process
from minigpt.config.plan import plan_of
from minigpt.errors import MinigptError
from minigpt.study.jobs import Planner


def serve(answers: TextIO) -> None:
    """Answer what stdin asks, until it ends."""
    set_up_process()
    composed = partial(compose, "train", config_dir=parse(sys.argv[1:]).config_dir, check=plan_of)

    @cache
    def planner(shared: tuple[str, ...]) -> Planner:
        return Planner(composed(list(shared)), composed, shared)

    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _answer(planner(tuple(request["shared"])), request)
        except MinigptError as error:
            answer = {"problems": error.problems}
        except Exception as error:  # of code that is being tried
            traceback.print_exc()
            answer = {"problems": [f"{type(error).__name__}: {error} (mend the code)"]}
        print(json.dumps(answer, default=str), file=answers, flush=True)


def _answer(planner: Planner, request: dict[str, Any]) -> dict[str, Any]:
    if "plan" in request:
        return {"plans": [asdict(plan) for plan in planner.all(request["plan"])]}
    if "check" in request:
        import_module("minigpt.train.training")  # whatever trains
        planner.check(*planner.all([request["check"]]))
        return {}
    return {"flops": planner.flops_per_token(*planner.all([request["flops"]]))}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    serve(answers)
