"""A process that has imported torch and runs the scripts in forked children.

A start of Python and torch costs seconds, a fork milliseconds. The parent is a process of its own,
since a forked test runner, which has threads, could hang. One request a line (JSON) on stdin, one
answer a line on stdout.
"""

import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]


def import_everything() -> None:
    """By one run of a step: torch imports half of itself only when it is used."""
    from runs import ROOT, SMALL, load_script

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        places = [f"output_dir={folder}/outputs", f"data_dir={folder}/tokens"]
        sys.argv = ["train.py", *SMALL, "train.steps=1", *places]
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            code = load_script(ROOT / "train.py").main()
        assert code == 0, "the first run failed"


@cache
def composed(script: str, arguments: tuple[str, ...]) -> Any:
    """What Hydra makes of a command, checked; composing takes longer than a small run."""
    from minigpt.cli import composition
    from minigpt.config.build import check_built
    from minigpt.config.plan import data_of, plan_of
    from minigpt.run.source_digest import source_digest

    check = plan_of if script == "train" else data_of
    made: Any = check(composition.compose(script, list(arguments), None, check))
    if script == "train":
        check_built(made)
        source_digest(made.config)  # it remembers every file, which a child forgets
    return made


def directly(script: str, arguments: list[str]) -> int:
    """What train.py and preprocess.py do once Hydra has composed."""
    from minigpt import interrupt
    from minigpt.cli.arguments import report
    from minigpt.config.corpus import prepare_tokens
    from minigpt.errors import MinigptError
    from minigpt.run.answer import answer, print_outcome
    from minigpt.train import training

    interrupt.install()
    made = composed(script, tuple(arguments))
    try:
        if script == "preprocess":
            prepare_tokens(*made, wait=False)
            return 0
        summary = answer(made) or training.run(made)
        if summary is not None:
            print_outcome(made.folder, summary)
    except MinigptError as error:
        report(error)
        return error.exit_code
    return 0


def disturb(moment: str, calls: str, action: str) -> None:
    """Send this process a signal in the so many-th call of what all ranks do at that moment."""
    from itertools import count

    from minigpt.train import run

    name = {"step": "sum_gradients", "save": "check_equal", "evaluation": "evaluate"}[moment]
    real, calls_so_far = getattr(run, name), count(1)

    def disturbed(*arguments: Any, **keywords: Any) -> Any:
        if next(calls_so_far) == int(calls):
            os.kill(os.getpid(), getattr(signal, f"SIG{action}"))
        return real(*arguments, **keywords)

    setattr(run, name, disturbed)


def child(request: dict[str, Any], report: Path) -> int:
    from injector import Injector
    from runs import ROOT, load_script

    from minigpt import streams
    from minigpt.checkpoint import beside
    from minigpt.train import run

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for standard in (1, 2):
        os.dup2(log, standard)
    for standard, place in request["watchers"].items():
        os.close(int(standard))
        if place is None:  # as `2>&-` does
            setattr(sys, {"1": "stdout", "2": "stderr"}[standard], None)
        else:
            assert os.open(place, os.O_WRONLY | os.O_NOCTTY) == int(standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    if "BESIDE" in os.environ:
        beside.AT_ONCE, run.writes_beside = 0, lambda device: True
    if "DISTURB" in os.environ:
        disturb(*os.environ["DISTURB"].split())
    os.chdir(request["folder"])
    module = load_script(ROOT / f"{request['script']}.py")
    sys.argv = [f"{request['script']}.py", *request["arguments"]]
    injector = Injector(**request["fault"])
    real_open = open
    injector.install()
    try:
        if request["direct"]:
            with streams.standard():
                code = directly(request["script"], request["arguments"])
        else:
            code = int(module.main())
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:
        traceback.print_exc()
        code = 1
    with real_open(report, "w") as file:
        json.dump(injector.seen, file)
    return code


def main() -> None:
    import_everything()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if request["direct"]:
            composed(request["script"], tuple(request["arguments"]))
        report = Path(request["log"] + ".operations")
        report.unlink(missing_ok=True)
        gc.freeze()  # else a collection in the child would copy every page of the parent's objects
        number = os.fork()
        if number == 0:
            code = 1
            try:
                code = child(request, report)
            finally:
                os._exit(code)
        if request["signals"]:
            begin = time.monotonic()
            for after, name in request["signals"]:
                while os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    left = begin + after - time.monotonic()
                    if left <= 0:
                        os.kill(number, getattr(signal, name))
                        break
                    time.sleep(min(left, 0.002))
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        # a process that is killed may have written half of it
        seen = json.loads(report.read_text()) if code >= 0 and report.exists() else None
        answers.write(json.dumps({"code": code, "operations": seen}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
