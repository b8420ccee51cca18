"""Stand-ins for sbatch, srun, sacct and scontrol: an array's jobs are processes on this machine.

`python slurm.py COMMAND STATE ARGUMENTS...`; `install(folder)` makes shell commands of it. The
folder STATE holds script_<array>.sh, log_<array>, pid_<job> while a job runs (one for each task),
end_<job> with its final state, requeue_<job> when it asked to run again. Arrays are numbered from
77 on, as they are submitted. All machines are this one.
"""

import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

FIRST_ARRAY = 77


def install(folder: Path) -> Path:
    """A folder for PATH with the commands."""
    (folder / "bin").mkdir(parents=True)
    (folder / "state").mkdir()
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        command = folder / "bin" / name
        command.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "{folder / "state"}" "$@"\n'
        )
        command.chmod(0o755)
    return folder / "bin"


def sbatch(state: Path, *arguments: str) -> None:
    options = list(takewhile(lambda argument: argument.startswith("--"), arguments))
    script, *rest = arguments[len(options) :]
    text = Path(script).read_text()
    number = str(FIRST_ARRAY + len(list(state.glob("script_*.sh"))))
    (state / f"script_{number}.sh").write_text(text)
    asked = dict(re.findall(r"^(?:#SBATCH )?--([\w-]+)=(\d+)", "\n".join([text, *options]), re.M))
    tasks = int(asked.get("nodes", 1)) * int(asked.get("ntasks-per-node", 1))
    array = re.search(r"--array=0-(\d+)", text)
    for index in range(int(array[1]) + 1 if array else 1):
        with (state / f"log_{number}").open("ab") as log:
            subprocess.Popen(
                [sys.executable, __file__, "task", str(state), number, str(index), *rest],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "SLURM_NTASKS": str(tasks)},
            )  # fmt: skip
    print(f"Submitted batch job {number}")


def task(state: Path, array: str, index: str, *arguments: str) -> None:
    """One job of an array, again and again while it asks for it."""
    job, restarts = f"{array}_{index}", 0
    names = {
        "SLURM_JOB_ID": f"1{array}{index}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_ARRAY_JOB_ID": array,
        "SLURM_ARRAY_TASK_ID": index,
    }
    while True:
        environment = {**os.environ, **names, "SLURM_RESTART_COUNT": str(restarts)}
        command = ["bash", str(state / f"script_{array}.sh"), *arguments]
        done = subprocess.run(command, check=False, env=environment)
        if not (state / f"requeue_{job}").exists():
            break
        (state / f"requeue_{job}").rename(state / f"requeued_{job}")
        restarts += 1
    (state / f"end_{job}").write_text("FAILED" if done.returncode else "COMPLETED")


def srun(state: Path, *arguments: str) -> None:
    rest, files = list(arguments), {}
    job = own_job()
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option in ("--output", "--error"):
            name = rest.pop(0).replace("%A_%a", job).replace("%t", "0")
            files[option] = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if files:
        os.dup2(files["--output"], 1)
        os.dup2(files["--error"], 2)
    if (tasks := int(os.environ["SLURM_NTASKS"])) == 1:
        (state / f"pid_{job}").write_text(str(os.getpid()))
        os.execvp(rest[0], rest)
    nodes = os.environ["SLURM_JOB_NODELIST"]
    step = {"STEP_ID": "0", "STEP_NUM_TASKS": str(tasks), "STEP_NODELIST": nodes}
    numbers = [step | {"PROCID": str(n), "LOCALID": str(n)} for n in range(tasks)]
    own = [{f"SLURM_{name}": value for name, value in one.items()} for one in numbers]
    processes = [subprocess.Popen(rest, env={**os.environ, **one}) for one in own]
    (state / f"pid_{job}").write_text(" ".join(str(process.pid) for process in processes))
    codes = [process.wait() for process in processes]
    sys.exit(max(code if code >= 0 else 128 - code for code in codes))


def own_job() -> str:
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def sacct(state: Path, *arguments: str) -> None:
    print("JobID|State|NodeList")
    for path in sorted(state.glob("pid_*")):
        job = path.name.removeprefix("pid_")
        end = state / f"end_{job}"
        print(f"{job}|{end.read_text() if end.exists() else 'RUNNING'}|here")


def scontrol(state: Path, action: str, what: str, *more: str) -> None:
    if action == "show":
        print("127.0.0.1\n127.0.0.1")
        return
    assert action == "requeue"
    job = own_job() if what == os.environ["SLURM_JOB_ID"] else what
    (state / f"requeue_{job}").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
