"""Imports point one way, Hydra stays at the door, and what must start fast does not load torch."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMALL

PACKAGE = Path(__file__).parent.parent / "minigpt"
LEAVES = {
    "errors",
    "roles",
    "seeding",
    "durable",
    "interrupt",
    "budget",
    "peak",
    "precision",
    "text",
    "terminal",
    "arguments",
    "signature",
    "startup",
    "reading",
    "tensor_tree",
    "parameters",
    "records",
    "streams",
}
SIBLINGS = {"model", "optim", "schedule", "data", "tokenizer"}
# Layer by layer, each may import the ones before it.
ABOVE = [
    {"identity", "metrics", "progress", "source_digest", "schema", "logger", "typed"},
    {"config", "checkpoint", "evaluate"},
    {"run"},
    {"run_folder", "corpus", "sampling", "rebuild", "study"},
    {"loop", "export", "load", "branch"},
    {"training", "generation"},
    {"memory", "sweep", "dashboard", "verify"},
    {"describe"},
    {"cli", "compare"},
    {"bench"},
]
# These may know Hydra or OmegaConf.
DOOR = {"config", "schema", "typed", "cli", "run_folder", "generation", "study", "sweep"}


def imports_of(path: Path) -> set[str]:
    """First names below `minigpt` that a file imports, and other top-level packages; those inside functions too."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "minigpt":
            found |= {f"minigpt.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    inside = {name.split(".")[1] for name in imports_of(path) if name.startswith("minigpt.")} - {part, "__version__"}
    if part in LEAVES | SIBLINGS:
        allowed = LEAVES
    else:
        level = next((index for index, layer in enumerate(ABOVE) if part in layer), None)
        assert level is not None, f"minigpt/{part} has no layer: put it into tests/test_imports.py"
        allowed = LEAVES | SIBLINGS | set().union(*ABOVE[: level + 1])
    upward = inside - allowed
    assert not upward, f"minigpt/{part} imports {sorted(upward)}, which stand above or beside it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_hydra_stays_at_the_door(path: Path) -> None:
    if part_of(path) not in DOOR:
        assert not {name for name in imports_of(path) if name.split(".")[0] in ("hydra", "omegaconf")}


@pytest.mark.parametrize("script", ["train", "generate", "preprocess"])
def test_help_loads_neither_torch_nor_other_heavy_packages(script: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path('{script}.py', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'datasets', 'wandb', 'transformers', 'tokenizers', 'tiktoken'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python {script}.py" in done.stdout


def test_training_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """Each of these takes from half a second to two; a finished run's answer does not even need torch."""
    arguments = ["train.py", *SMALL, f"output_dir={tmp_path}", f"data_dir={tmp_path / 'tokens'}"]
    code = (
        "import json, runpy, sys\n"
        f"sys.argv = {arguments!r}\n"
        "try:\n"
        "    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'torch._dynamo', 'torch._inductor', 'sympy', 'wandb', 'matplotlib', 'datasets', "
        "'pandas', 'scipy', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "print(json.dumps(sorted(heavy)))\n"
    )
    for expected in (["numpy", "torch"], []):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            check=False, cwd=PACKAGE.parent, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == expected
