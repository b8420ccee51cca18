"""The wheel holds what a checkout has beside minigpt/, and works from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from runs import ROOT, SMALL

import minigpt
from minigpt.run.source_digest import changed_modules

HELD = """
from setuptools import Distribution
package = Distribution({"script_name": "setup.py"})
package.parse_config_files()
build = package.get_command_obj("build_py")
build.ensure_finalized()
print(*build.get_outputs(include_bytecode=False), sep="\\n")
"""


def test_what_a_wheel_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    expected = {path.relative_to(ROOT) for path in (ROOT / "minigpt").rglob("*.py")}
    conf = {path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    expected |= {"minigpt" / path for path in conf if path.parts[1] != "local"}
    scripts = ("train.py", "generate.py", "preprocess.py")
    expected |= {Path("minigpt/scripts", name) for name in scripts}
    assert {Path(line).relative_to("build/lib") for line in done.stdout.split()} == expected


def test_what_is_cited_is_this_version() -> None:
    assert f"\nversion: {minigpt.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
def test_an_installed_wheel_works_from_an_empty_folder(tmp_path: Path) -> None:
    source, here, venv = (tmp_path / name for name in ("source", "here", "venv"))
    here.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str | Path, cwd: Path = here, code: int = 0) -> str:
        done = subprocess.run(
            command, check=False, cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    source.mkdir()
    for name in ("minigpt", "conf"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("train.py", "generate.py", "preprocess.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copy(ROOT / "LICENSE", source)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    run(sys.executable, "-c", build, cwd=source)
    wheel = tmp_path / f"minigpt-{minigpt.__version__}-py3-none-any.whl"
    shutil.rmtree(source)
    run(sys.executable, "-m", "venv", venv)
    python = venv / "bin" / "python"
    (packages,) = venv.glob("lib/python*/site-packages")
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    (packages / "present.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    train = venv / "bin" / "minigpt-train"
    small = [*SMALL, "output_dir=outputs"]
    run(train, "-m", *small, "optim=muon,adamw", "hydra/launcher=joblib")
    runs = [json.loads(path.read_text()) for path in here.glob("outputs/*/run.json")]
    assert len(runs) == 2
    for record in runs:  # a checkout goes on with them
        assert "minigpt.train.loop" in record["source"]
        assert changed_modules(record) == []
        assert (record["git"], record["minigpt"]) == (None, minigpt.__version__)
    assert run(venv / "bin" / "minigpt-generate", "prompt=ROMEO", "max_new_tokens=4")
    assert "Exploratory" in run(venv / "bin" / "minigpt-compare", "outputs", "--by", "optim")
    assert "tokens in   outputs/" in run(venv / "bin" / "minigpt-preprocess", "data=one_play")
    assert "minigpt-train --help" in run(train, "--help", "optim")
    study = run(train, "experiment=muon_vs_adamw", code=2)
    assert study == (
        "error: this experiment is a study: add -m (minigpt-train -m experiment=...)\n"
    )
    assert not [path for path in here.iterdir() if path.name != "outputs"]
