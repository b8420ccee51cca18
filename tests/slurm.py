"""Stand-ins for sbatch, srun, sacct and scontrol: an array's jobs are processes on this machine.

`python slurm.py COMMAND STATE ARGUMENTS...`; `install(folder)` makes shell commands of it. The
folder STATE holds script_<array>.sh, pid_<job> while a job runs, end_<job> with its final state,
requeue_<job> when it asked to run again. Arrays are numbered from 77 on, as they are submitted.
"""

import os
import re
import subprocess
import sys
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


def sbatch(state: Path, script: str) -> None:
    text = Path(script).read_text()
    number = str(FIRST_ARRAY + len(list(state.glob("script_*.sh"))))
    (state / f"script_{number}.sh").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    for task in range(int(array[1]) + 1 if array else 1):
        subprocess.Popen(
            [sys.executable, __file__, "task", str(state), number, str(task)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    print(f"Submitted batch job {number}")


def task(state: Path, array: str, index: str) -> None:
    """One job of an array, again and again while it asks for it."""
    job = f"{array}_{index}"
    names = {
        "SLURM_JOB_ID": f"1{array}{index}",
        "SLURM_ARRAY_JOB_ID": array,
        "SLURM_ARRAY_TASK_ID": index,
    }
    while True:
        done = subprocess.run(
            ["bash", state / f"script_{array}.sh"], check=False, env={**os.environ, **names}
        )
        if not (state / f"requeue_{job}").exists():
            break
        (state / f"requeue_{job}").rename(state / f"requeued_{job}")
    (state / f"end_{job}").write_text("FAILED" if done.returncode else "COMPLETED")


def srun(state: Path, *arguments: str) -> None:
    rest, files = list(arguments), {}
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option in ("--output", "--error"):
            name = rest.pop(0).replace("%A_%a", job).replace("%t", "0")
            files[option] = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(files["--output"], 1)
    os.dup2(files["--error"], 2)
    (state / f"pid_{job}").write_text(str(os.getpid()))
    os.execvp(rest[0], rest)


def sacct(state: Path, *arguments: str) -> None:
    print("JobID|State|NodeList")
    for path in sorted(state.glob("pid_*")):
        job = path.name.removeprefix("pid_")
        end = state / f"end_{job}"
        print(f"{job}|{end.read_text() if end.exists() else 'RUNNING'}|here")


def scontrol(state: Path, action: str, job: str) -> None:
    assert action == "requeue"
    (state / f"requeue_{job}").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
