"""The tour of README.md, in a fresh clone: the lines that stand there, in their order."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

MINUTES = 10  # what README.md says; of one core, so that a busy machine changes nothing


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed, and nothing else."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout to clone")
    folder = tmp_path_factory.mktemp("readme") / "minigpt"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


def tour(clone: Path) -> list[str]:
    """The commands of the tour, without their comments."""
    section = re.search(r"^## The tour.*?(?=^## )", (clone / "README.md").read_text(), re.M | re.S)
    assert section is not None
    lines = section.group().replace("\\\n", " ")
    return [re.sub(r" {2,}(#.*)?", " ", line) for line in re.findall(r"^ {4}(.*)", lines, re.M)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_of_the_tour_keeps_its_promise(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(clone)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime

    def run(command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done

    said = {command: run(command).stdout for command in tour(clone)}
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    print(f"{len(said)} commands, {spent:.0f} s of one core")
    assert spent < 60 * MINUTES

    def output(words: str) -> str:
        (found,) = (text for command, text in said.items() if re.fullmatch(words, command.strip()))
        return found

    again = run("python train.py")
    assert "already finished" in again.stderr
    assert "validation loss" in again.stdout
    runs = [line.parent for line in (clone / "outputs").glob("*/summary.json")]
    assert len(runs) == 5, "one run and a sweep of four"
    trained = output(r"python train\.py")
    assert re.search(r"^validation loss +\d\.\d+ nats per token", trained, re.M)
    folder = re.search(r"^run folder +(\S+)$", trained, re.M)
    assert folder is not None
    assert (clone / folder[1] / "sample.txt").read_text().strip() in trained
    assert len(output(r"python generate\.py prompt=.*")) > 100
    assert "4 jobs: 4 done" in output(r"python -m minigpt\.compare .*--status.*")
    assert len(output(r"python -m minigpt\.runs .*").splitlines()) == 6
    assert "Exploratory" in output(r"python -m minigpt\.compare .*--out.*")
    assert (clone / "outputs" / "first" / "report.html").is_file()
    assert (clone / "outputs" / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert "tune" in output(r"python train\.py -m experiment=\S+ dry_run=true")
    study = output(r"python train\.py -m experiment=\S+ debug=smoke .*")
    assert re.search(r"^\[[+=?-]\] muon against adamw_by_role: .* 8 pairs;", study, re.M)
    report = re.search(r"^report +(\S+)$", study, re.M)
    assert report is not None
    assert (clone / report[1]).is_file()
    exported = clone / "outputs" / "exported"
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(exported)) == 2048
    assert "ROMEO:" in output(r"python generate\.py run=.*")
    assert len(output(r"python -m minigpt\.verify .*").splitlines()) == 5
    assert subprocess.check_output(["git", "status", "--short"], cwd=clone) == b"", (
        "all in outputs/"
    )
