"""Imports point down, Hydra stays at the command line, what must start fast loads no torch."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMALL

PACKAGE = Path(__file__).parent.parent / "minigpt"
# Floor by floor, from the ground up: a room imports rooms on lower floors, and itself.
FLOORS = [
    {"errors", "roles", "seeding", "interrupt", "ranks"}
    | {"terminal", "streams", "text", "formats", "files"},
    {"model", "optim", "schedule", "tokenizer", "logger"},
    {"data"},
    {"checkpoint"},
    {"config"},
    {"run"},
    {"generate"},
    {"train"},
    {"study"},
    {"cli"},
    {"compare", "bench", "export", "verify", "dashboard", "mirror", "runs"},
    {"plot", "evaluate", "api"},
]  # fmt: skip
KNOW_HYDRA = {"config", "cli", "run", "generate", "study"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {node.module}
    return found


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    room = room_of(module)
    floor = next((n for n, rooms in enumerate(FLOORS) if room in rooms), None)
    assert floor is not None or not room, f"minigpt/{room} stands on no floor: put it into FLOORS"
    lower = set().union(*FLOORS[:floor], FLOORS[0], {room, ""}) if room else {""}
    upward = {name for name in IMPORTS[module] & MODULES.keys() if room_of(name) not in lower}
    assert not upward, f"{module} imports {sorted(upward)}, which stand above or beside it"


def test_no_import_circle() -> None:
    def reaches(module: str, seen: set[str]) -> set[str]:
        for name in IMPORTS[module] & MODULES.keys() - seen:
            seen.add(name)
            reaches(name, seen)
        return seen

    assert not [module for module in MODULES if module in reaches(module, set())]


@pytest.mark.parametrize("module", MODULES)
def test_hydra_stays_at_the_command_line(module: str) -> None:
    if room_of(module) not in KNOW_HYDRA:
        assert not {
            name for name in IMPORTS[module] if name.split(".")[0] in ("hydra", "omegaconf")
        }


@pytest.mark.parametrize("script", ["train", "generate", "preprocess"])
def test_help_loads_neither_torch_nor_other_heavy_packages(script: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path('{script}.py', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = 'torch numpy datasets wandb transformers tokenizers tiktoken'.split()\n"
        "assert not {*heavy} & {*sys.modules}\n"
        "assert not [name for name in sys.modules if name.startswith('minigpt.study')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"python {script}.py" in done.stdout
    assert "_base" not in done.stdout  # `_*.yaml` are no options


def test_training_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """Each takes half a second to two; a finished run's answer does not even need torch.

    One run loads no room that only studies use.
    """
    arguments = ["train.py", *SMALL, f"output_dir={tmp_path}", f"data_dir={tmp_path / 'tokens'}"]
    code = (
        "import json, runpy, sys\n"
        f"sys.argv = {arguments!r}\n"
        "try:\n"
        "    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = 'torch numpy torch._dynamo torch._inductor sympy wandb matplotlib datasets '\n"
        "heavy += 'pandas scipy transformers tokenizers'\n"
        "rooms = tuple(f'minigpt.{room}' for room in ('study', 'compare', 'bench'))\n"
        "found = {*heavy.split()} & {*sys.modules}\n"
        "found |= {name for name in sys.modules if name.startswith(rooms)}\n"
        "print(json.dumps(sorted(found)))\n"
    )
    for expected in (["numpy", "torch"], []):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            check=False, cwd=PACKAGE.parent, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == expected
