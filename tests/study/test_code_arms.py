"""Arms that are code: commits and the working tree, each trained from a copy of its own."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from declared import SMALL_STUDY, verdict
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from runs import ROOT, SMALL, Shell

from minigpt.cli import plans
from minigpt.cli.code_arms import spelled_out
from minigpt.cli.composition import compose, groups_in
from minigpt.cli.process import set_up_process
from minigpt.compare.__main__ import main as compare
from minigpt.config import schema
from minigpt.config.plan import plan_of
from minigpt.errors import CheckpointError, ConfigError, DataError, NumericsError
from minigpt.study import checkouts
from minigpt.study.checkouts import checkout, code_of, resolve
from minigpt.study.declaration import declaration_of
from minigpt.study.elsewhere import ElsewherePlanner, train_elsewhere
from minigpt.study.planned import PlannedRun

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")
EDIT = ("scaler.scale(loss /", "scaler.scale(0.5 * loss /")  # of minigpt/train/loop.py


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=n@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path, subject: str) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", subject)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits on `main` with a file each, as the code that runs."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / ".gitignore").write_text("__pycache__/\n")
    (folder / "one.py").write_text("one = 1\n")
    commit(folder, "One")
    (folder / "two.py").write_text("two = 2\n")
    commit(folder, "Two")
    monkeypatch.setattr(checkouts, "ROOT", folder.resolve())
    return folder


def test_a_commit_and_the_working_tree(repository: Path, tmp_path: Path) -> None:
    (repository / "two.py").unlink()
    (repository / "new").mkdir()
    (repository / "new" / "three.py").write_text("three = 3\n")
    (repository / "notes.txt").write_text("not of the code\n")
    before = (
        git(repository, "status", "--porcelain=v2", "--branch"),
        git(repository, "stash", "list"),
    )
    found = resolve({"base": "main", "mine": "dirty"}, {}, tmp_path / "outputs")
    head = git(repository, "rev-parse", "HEAD")
    assert [(c["commit"], c["subject"]) for c in found.values()] == [(head, "Two")] * 2
    home = tmp_path / "outputs" / "code"
    folders = {arm: checkout(home, code_of(node), home.parent) for arm, node in found.items()}
    names = {
        arm: {path.name for path in folder.rglob("*.*") if ".git/" not in str(path)}
        for arm, folder in folders.items()
    }
    assert names["base"] - {".git"} == {".gitignore", "one.py", "two.py"}
    assert names["mine"] - {".git"} == {".gitignore", "one.py", "three.py"}
    assert "-two = 2" in git(folders["mine"], "diff", "HEAD"), "a run records commit and diff"
    assert git(folders["base"], "status", "--porcelain") == ""
    after = (
        git(repository, "status", "--porcelain=v2", "--branch"),
        git(repository, "stash", "list"),
    )
    assert before == after
    assert not (repository / ".git" / "worktrees").exists()


def test_what_was_declared_stays(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "one.py").write_text("one = 1.5\n")
    asked = {"base": "main", "mine": "dirty"}
    declared = resolve(asked, {}, tmp_path)
    mine = checkout(tmp_path / "code", code_of(declared["mine"]), tmp_path)
    (repository / "one.py").write_text("one = 1.75\n")
    commit(repository, "Three")
    assert resolve(asked, declared, tmp_path) == declared
    assert "mine is the working tree as it was declared" in capsys.readouterr().err
    assert checkout(tmp_path / "code", code_of(declared["mine"]), tmp_path) == mine
    assert (mine / "one.py").read_text() == "one = 1.5\n"
    named = asked | {"base": declared["base"]["commit"][:8]}
    assert resolve(named, declared, tmp_path) == declared
    forged = declared | {"base": declared["base"] | {"digest": "0" * 12}}
    with pytest.raises(CheckpointError, match="no such commit: "):
        resolve(asked, forged, tmp_path)
    for planted in (mine / "json.py", mine / "torch", mine / "__pycache__" / "one.cpython-311.pyc"):
        planted.parent.mkdir(exist_ok=True)
        planted.symlink_to(tmp_path) if planted.name == "torch" else planted.touch()
        with pytest.raises(CheckpointError, match="changed code: "):
            checkout(tmp_path / "code", code_of(declared["mine"]), tmp_path)
        planted.unlink()
    (mine / "one.py").write_text("one = 2\n")
    with pytest.raises(CheckpointError, match="changed code: "):
        checkout(tmp_path / "code", code_of(declared["mine"]), tmp_path)
    shutil.rmtree(mine)
    with pytest.raises(CheckpointError, match="not the code of the study: "):
        checkout(tmp_path / "code", code_of(declared["mine"]), tmp_path)
    assert checkout(tmp_path / "code", code_of(declared["base"]), tmp_path).is_dir()


def test_documents_and_tests_are_no_code(repository: Path, tmp_path: Path) -> None:
    (repository / "tests").mkdir()
    (repository / "tests" / "test_one.py").write_text("assert 1\n")
    (repository / "README.md").write_text("Words.\n")
    with pytest.raises(ConfigError, match=r"nothing differs: .* base .* and mine "):
        resolve({"base": "HEAD", "mine": "dirty"}, {}, tmp_path)
    runs = repository / "runs" / "a"
    runs.mkdir(parents=True)
    (runs / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ConfigError, match="nothing differs"):  # nor are runs
        resolve({"base": "HEAD", "mine": "dirty"}, {}, repository / "runs")


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({"base": "HEAD", "mine": "nowhere"}, "unknown commit: verdict.arms.mine=nowhere"),
        ({"base": "HEAD", "mine": "--help"}, "unknown commit: verdict.arms.mine=--help"),
        (["HEAD", "dirty"], "no code: verdict.arms="),
    ],
)
def test_what_is_no_code(repository: Path, tmp_path: Path, arms: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(arms, {}, tmp_path)


def test_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkouts, "ROOT", tmp_path)
    with pytest.raises(ConfigError, match="not a git repository: "):
        resolve({"base": "HEAD", "mine": "dirty"}, {}, tmp_path)


def test_the_runs_of_an_arm_name_its_code() -> None:
    code = {"asked": "main", "commit": "c" * 40, "subject": "One", "digest": "0123456789ab"}
    arms = {"base": code, "mine": code | {"asked": "dirty", "digest": "ba9876543210"}}
    node = verdict(by="code", arms=arms, baseline="base")
    declaration = declaration_of("a_study", node)
    assert declaration.arms == ("base", "mine")
    run = PlannedRun((), "mine", (("optim.lr_scale", 2),), 200, 7)
    assert run.overrides(declaration) == [
        "code=ba9876543210", "optim.lr_scale=2", "seed=7", "train.steps=200",
    ]  # fmt: skip
    assert declaration.code_lines[1] == 'mine: the working tree on cccccccccc "One"'
    for wrong in (
        ["a", "b"],
        {"base": "HEAD", "mine": code},
        {"base": code | {"digest": "../x"}},
        {"base": code | {"commit": "--all"}},
    ):
        with pytest.raises(ConfigError, match=r"verdict\.arms"):
            declaration_of("a_study", node | {"arms": wrong})
    with pytest.raises(ConfigError, match=r"with verdict\.by=optim: a list"):
        declaration_of("a_study", node | {"by": "optim"})


@pytest.fixture
def composed() -> Any:
    set_up_process()
    schema.register()
    return lambda overrides: compose("train", overrides, None, plan_of)


def test_an_experiment_is_spelled_out(composed: Any) -> None:
    """A commit that lacks its file composes to the same run."""
    typed = ["experiment=my_change", "log.every=7", "study=of_mine"]
    found = spelled_out(composed(typed), typed, "of_mine", groups_in(None, []), composed)
    assert {"train.threads=1", "eval.every=null", "log.every=7", "study='of_mine'"} <= {*found}
    assert not [one for one in found if one.startswith(("experiment", "verdict", "log.every=5"))]
    typed = ["experiment=my_change", "debug=smoke"]
    with pytest.raises(ConfigError, match=r"cannot be spelled out: .*eval\.every"):
        spelled_out(composed(typed), typed, "of_mine", groups_in(None, []), composed)


def test_plans_for_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = [*SMALL, f"output_dir={tmp_path}", "code=0123456789ab"]
    requests = [{"plan": [["seed=0", *own], ["seed=1", *own]]}, {"plan": [["seed=-1", *own]]}]
    lines = "".join(json.dumps({"shared": own, **request}) + "\n" for request in requests)
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    monkeypatch.setattr(sys, "argv", ["plans"])
    with (tmp_path / "answers").open("w") as answers:
        plans.serve(answers)
    found, bad = map(json.loads, (tmp_path / "answers").read_text().splitlines())
    assert [plan["config"]["seed"] for plan in found["plans"]] == [0, 1]
    assert found["plans"][0]["identity"]["code"] == "0123456789ab"
    assert "seed=-1" in bad["problems"][0]


def test_an_arm_is_planned_by_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the folder that one types in has a `minigpt` too."""
    monkeypatch.chdir(ROOT)
    code = code_of({"asked": "a", "commit": "c", "subject": "One", "digest": "0123456789ab"})
    stub = tmp_path / "minigpt" / "cli" / "plans.py"
    planner = partial(ElsewherePlanner, {"base": code}, {code.digest: tmp_path}, [], None)
    with pytest.raises(ConfigError, match=r"too old for an arm: .*base: c"):
        planner()
    stub.parent.mkdir(parents=True)
    stub.write_text('input(); print(\'{"problems": ["own"]}\', flush=True); input()')
    with closing(planner()) as own:
        with pytest.raises(ConfigError, match=r'^own \[base: c "One"\]$'):
            own.all([["code=0123456789ab"]])
        with pytest.raises(ConfigError, match="its process ended"):
            own.all([["code=0123456789ab"]])


def trains(output: Path, script: str) -> Any:
    """The configuration of a job whose code is this script."""
    folder = output / "code" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(script)
    node = {"hydra": {"overrides": {"task": ["seed=3"]}, "job": {"num": 0}}}
    HydraConfig.instance().cfg = OmegaConf.create(node)  # type: ignore[assignment]
    return OmegaConf.create({"output_dir": str(output), "code": folder.name})


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("import sys; print('error: a; b', file=sys.stderr); sys.exit(3)", DataError, "a; b"),
        ("import sys; sys.exit(5)", NumericsError, "exit code 5"),
        ("import os; os.kill(os.getpid(), 9)", Exception, "exit code -9"),
    ],
)
def test_a_job_ends_as_its_process_does(
    tmp_path: Path, script: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train_elsewhere(None, trains(tmp_path, script))


def test_a_job_dies_with_its_study(tmp_path: Path) -> None:
    """Killed, not told: then the same command finds no run busy."""
    said = tmp_path / "said"
    script = f"import os, time; open({str(said)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    job = os.fork()
    if not job:
        train_elsewhere(None, trains(tmp_path, script))
        os._exit(0)
    while not said.exists() or not said.read_text():
        time.sleep(0.01)
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    gone = Path("/proc") / said.read_text()
    until = time.monotonic() + 10
    while gone.exists() and "\nState:\tZ" not in (gone / "status").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_code_that_is_not_there(shell: Shell) -> None:
    assert shell("train", *SMALL, "code=0123456789ab") == 2
    assert "no such code: code=0123456789ab" in shell.err


STUDY = (
    SMALL_STUDY
    + """\
  by: code
  arms: {base: main, mine: dirty}
  baseline: base
  margin: 0.01
  budgets: {train.steps: [4]}
  tune: {over: {optim.lr_scale: [1, 2]}, seeds: [0], extend: 1}
  confirm: {first_seed: 100, looks: [2, 3]}
"""
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of this code, with an edit of the loop and a study of it."""
    folder = tmp_path_factory.mktemp("clone") / "minigpt"
    shutil.copytree(ROOT / "minigpt", folder / "minigpt", ignore=shutil.ignore_patterns("__py*"))
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    for name in ("train.py", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    git(folder, "init", "-q", "-b", "main")
    files = (folder / "minigpt" / "config" / "schema.py", folder / "conf" / "train.yaml")
    whole = [path.read_text() for path in files]
    for path, text in zip(files, whole):
        path.write_text(re.sub("  +max_bad_steps: .*\n", "", text))
    commit(folder, "No max_bad_steps")
    git(folder, "tag", "lacking")
    for path, text in zip(files, whole):
        path.write_text(text)
    commit(folder, "The loop")
    corpus = "".join(f"{n} green bottles hanging on the wall.\n" for n in range(60))
    (folder / "corpus.txt").write_text(corpus)
    (folder / "conf" / "experiment" / "loops.yaml").write_text(STUDY)
    loop = folder / "minigpt" / "train" / "loop.py"
    loop.write_text(loop.read_text().replace(*EDIT))
    assert EDIT[1] in loop.read_text()
    return folder


def typed(folder: Path, *more: str) -> list[str]:
    return [
        sys.executable, "train.py", "-m", "experiment=loops", "data=files", "logger=none",
        f"data.path={folder / 'corpus.txt'}", "data/tokenizer=byte", *more,
    ]  # fmt: skip


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        typed(folder, *more),
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_change_of_the_loop_is_judged(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = git(clone, "status", "--porcelain")
    plan = run(clone, "dry_run=true")
    assert "mine: the working tree on " in plan.stdout, plan.stderr
    assert not (clone / "outputs").exists()
    done = run(clone, "hydra/launcher=basic")
    assert done.returncode == 0, done.stderr
    assert "base: " in done.stdout
    assert '"The loop"' in done.stdout
    assert "mine against base: " in done.stdout
    assert git(clone, "status", "--porcelain") == before
    records = [json.loads(path.read_text()) for path in clone.glob("outputs/*/run.json")]
    loops = {(r["identity"]["code"], r["source"]["minigpt.train.loop"]) for r in records}
    assert len(loops) == 2, "each arm by its own loop"
    assert {r["git"]["commit"] for r in records} == {git(clone, "rev-parse", "main")}
    assert not any((Path(path) / "run.json").exists() for path in clone.glob("outputs/code/*"))

    loop = clone / "minigpt" / "train" / "loop.py"
    loop.write_text(loop.read_text().replace("0.5 * loss", "0.25 * loss"))
    again = run(clone)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert "has changed since" in again.stderr
    assert len(list(clone.glob("outputs/*/run.json"))) == len(records)
    assert compare([str(clone / "outputs"), "--study", "loops"]) == 0
    assert capsys.readouterr().out.startswith(done.stdout.rpartition("\nreport ")[0])
    alone = [sys.executable, "train.py", *records[0]["overrides"]]
    answered = subprocess.run(alone, cwd=clone, capture_output=True, text=True, check=False)
    assert "already finished" in answered.stderr, "a run typed by itself goes to its own code"

    other = run(clone, "study=old", "verdict.arms.base=lacking", "train.max_bad_steps=3")
    assert other.returncode == 2
    assert "unknown key: train.max_bad_steps" in other.stderr
    assert '"No max_bad_steps"' in other.stderr.splitlines()[-1]
    whole = loop.read_text()
    loop.write_text(f"{whole}x = (\n")
    broken = run(clone, "study=broken")
    loop.write_text(whole)
    assert broken.returncode == 2
    assert "error: SyntaxError: '(' was never closed (loop.py" in broken.stderr.splitlines()[-1]
    assert len(list(clone.glob("outputs/*/run.json"))) == len(records)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_typed_again(clone: Path, tmp_path: Path) -> None:
    """By each launcher the same runs as undisturbed."""
    environment = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    losses = []
    for launcher, kills in (("basic", 0), ("basic", 2), ("joblib", 2)):
        output = tmp_path / f"{launcher}{kills}"
        more = ["study=killed", f"output_dir={output}", f"hydra/launcher={launcher}"]
        for n in range(kills):
            with subprocess.Popen(
                typed(clone, *more), cwd=clone, env=environment, start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            ) as process:  # fmt: skip
                while len(list(output.glob("*/summary.json"))) < 2 + 4 * n:
                    time.sleep(0.1)
                os.killpg(process.pid, signal.SIGKILL)
        done = run(clone, *more)
        assert done.returncode == 0, done.stderr
        ended = [json.loads(path.read_text()) for path in output.glob("*/summary.json")]
        losses.append(sorted(summary["val_loss"] for summary in ended))
    assert losses[0] == losses[1] == losses[2]
