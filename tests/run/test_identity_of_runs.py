"""One id, one result; what a neighbour or an edit could do to it."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ROOT, SMALL, Shell, rows
from safetensors.torch import load_file

from minigpt import verify
from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.save import save_checkpoint
from minigpt.config import signature
from minigpt.optim.state_tree import decode
from minigpt.run import source_digest

WSD = [*SMALL, "schedule=wsd", "schedule.warmup=2"]


def test_two_runs_of_one_short_id_are_told_apart(shell: Shell) -> None:
    """The first eight digits of the SHA-256 of these two identities are the same."""
    assert shell("train", *SMALL, "seed=3100") == 0
    first = shell.run_folder()
    if shell("train", *SMALL, "seed=41007") == 0:  # a default has moved, and the ids with it
        record = json.loads((first / "run.json").read_text())
        record["identity"]["seed"] = 41007
        (first / "run.json").write_text(json.dumps(record))
        assert shell("train", *SMALL, "seed=3100") == 4
    assert "another run of the same id" in shell.err
    assert "seed 3100 -> 41007" in shell.err or "seed 41007 -> 3100" in shell.err


def test_lr_scale_counts_where_the_lr_is_the_class_default(shell: Shell) -> None:
    quick = [*SMALL, "train.steps=2", "~optim.hidden.lr", "optim.adamw_lr=0.01"]
    assert shell("train", *quick, "optim.lr_scale=4", "dry_run=true") == 0
    scaled = shell.out
    assert shell("train", *quick[:-1], "optim.adamw_lr=0.04", "dry_run=true") == 0
    assert folder_in(scaled) != folder_in(shell.out)


def folder_in(description: str) -> str:
    return next(line for line in description.splitlines() if line.startswith("run folder"))[-8:]


def forged(folder: Path, change: Any) -> None:
    """The newest checkpoint of a run with another content, and everything about it in order."""
    found = steps_on_disk(folder / "checkpoints")[0]
    model = load_file(found / "model.safetensors")
    state = json.loads((found / "state.json").read_text())
    tensors = load_file(found / "optimizer.safetensors")
    optimizer = decode(state.pop("optimizer"), tensors)
    change(model, state)
    shutil.rmtree(found)
    save_checkpoint(folder / "checkpoints", model, optimizer, state)


FORGERIES = {
    "weights that are not finite": lambda model, state: model["embed.weight"].fill_(torch.nan),
    "a checkpoint of another run": lambda model, state: state.update(run="deadbeef"),
    "rows cut amid": lambda model, state: state.update(metrics_bytes=3, metrics_sha256=None),
    "other tokens": lambda model, state: state.update(tokens=7),
    "seconds beyond all time": lambda model, state: state.update(seconds={"data": 1e59}),
}


@pytest.mark.faults(27)
def test_a_neighbour_that_does_not_fit_itself_decides_nothing(shell: Shell, other: Shell) -> None:
    assert shell("train", *WSD) == 0
    trunk, longer = shell.run_folder(), [*WSD, "train.steps=14"]
    assert other("train", *longer, "branch=off") == 0
    (trunk / "summary.json").unlink()
    whole = shutil.copytree(trunk, shell.folder / "whole")
    for name, change in FORGERIES.items():
        forged(trunk, change)
        assert shell("train", *longer) == 0, shell.err
        (branched,) = {*shell.runs()} - {trunk}
        assert json.loads((branched / "run.json").read_text())["branched_from"] is None, name
        assert rows(branched) == rows(other.run_folder()), name
        shutil.rmtree(branched)
        shutil.rmtree(trunk)
        shutil.copytree(whole, trunk)
    assert shell("train", *longer) == 0, shell.err
    assert "going on from step" in shell.err, "as it was, it is taken"


def test_verify_trusts_runs_that_were_watched_otherwise_later(shell: Shell) -> None:
    assert shell("train", *SMALL, "train.stop_after=5") == 0
    assert shell("train", *SMALL, "log.every=4", "eval.every=null") == 0
    assert verify.main([str(shell.run_folder())]) == 0


def test_verify_does_not_depend_on_where_it_is_typed(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("train", *SMALL, "data_dir=tokens") == 0
    assert Path(
        json.loads((shell.run_folder() / "run.json").read_text())["data"]["folder"]
    ).is_absolute()
    monkeypatch.chdir("/")
    assert verify.main([str(shell.run_folder())]) == 0


def test_rows_that_were_edited_stop_a_resume(shell: Shell) -> None:
    assert shell("train", *SMALL, "train.stop_after=6") == 0
    metrics = shell.run_folder() / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"train/loss": 5', '"train/loss": 6', 1))
    assert shell("train", *SMALL) == 4
    assert "rows were changed" in shell.err
    assert shell("train", *SMALL, "accept_changes=true") == 0


def test_a_checkpoint_is_pruned_only_after_the_next_one_was_proved(shell: Shell) -> None:
    """Weights that have not been through a step may be the fault: those before them stay."""
    often = [*SMALL, "checkpoint.every=1", "checkpoint.keep=1"]
    assert shell("train", *often, "train.stop_after=6") == 0
    kept = lambda: [path.name for path in steps_on_disk(shell.run_folder() / "checkpoints")]
    assert kept() == ["step_00000005", "step_00000006"]
    assert shell("train", *often) == 0
    assert kept() == ["step_00000012"]


def test_a_digest_is_of_all_but_docstrings_comments_and_layout() -> None:
    """The values that runs have recorded: of what `ast.dump` says."""
    for name in ("minigpt.optim.muon", "minigpt.config.signature", "minigpt.study"):
        module = signature.load_module(name)
        assert module is not None
        imports: list[str] = []
        dumped = source_digest._dump(module.tree, imports)
        plain = ast.parse(module.path.read_text())
        for node in ast.walk(plain):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:] or [ast.Pass()]
        shown: Any = {"show_empty": True} if sys.version_info >= (3, 13) else {}
        assert dumped == ast.dump(plain, **shown).replace(", type_params=[]", "")
        assert ("minigpt.optim.newton_schulz" in imports) == (name == "minigpt.optim.muon")


def test_a_digest_is_one_in_every_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 gives definitions `type_params`, and some strings an empty end."""
    tree = ast.parse('class A:\n    def f(self, x):\n        return f"{x:>{self}}"')
    told = "format_spec=JoinedStr(values=[Constant(value='>'), FormattedValue("
    before = source_digest._dump(tree, [])
    assert told in before
    assert "type_params" not in before
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            fields = dict.fromkeys([*type(node)._fields, "type_params"])
            monkeypatch.setattr(type(node), "_fields", tuple(fields))
            node.type_params = []  # type: ignore[attr-defined, unused-ignore]
        elif isinstance(node, ast.JoinedStr):
            node.values.append(ast.Constant(""))
    assert source_digest._dump(tree, []) == before


def test_what_decides_a_step_beside_the_loop_counts() -> None:
    """Which steps are skipped as spikes, and how gradients are summed over ranks."""
    found = source_digest.source_digest({})
    assert found.keys() >= {"minigpt.train.progress", "minigpt.train.replicas", "minigpt.ranks"}
    assert not found.keys() & source_digest.SILENT


def test_what_a_class_of_ones_own_imports_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "lab_of_mine/__init__.py": "",
        "lab_of_mine/optim.py": (
            "import json, torch, numpy.linalg, beside_it\n"
            "from . import one\nfrom .two import Two\nfrom lab_of_mine import three\n"
        ),
        "lab_of_mine/one.py": "from .deep.four import f\n",
        "lab_of_mine/two.py": "from minigpt.optim import muon",
        "lab_of_mine/three.py": "",
        "lab_of_mine/deep/__init__.py": "",
        "lab_of_mine/deep/four.py": "from ..one import x",
        "lab_of_mine/unused.py": "",
        "beside_it.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    found = source_digest.source_digest({"optim": {"_target_": "lab_of_mine.optim.Mine"}})
    lab = {name for name in found if not name.startswith("minigpt.")}
    expected = {
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in files
    }
    assert lab == expected - {"lab_of_mine.deep", "lab_of_mine.unused"}
    assert "minigpt.optim.muon" in found


def test_an_edit_while_a_run_starts_is_refused(tmp_path: Path) -> None:
    """Between the digest of the code and its import."""
    code = (
        "import os, sys\n"
        "from minigpt.run import source_digest\n"
        "from minigpt.config import signature\n"
        "source_digest.source_digest({})\n"
        "name, (path, then) = next(iter(source_digest._files.items()))\n"
        "source_digest._files[name] = (path, then - 1)\n"
        "edited = [source_digest.edited_since_digest() for _ in range(2)]\n"
        "print(edited == [[name], []])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


def test_what_a_stand_in_replaces_is_said(shell: Shell) -> None:
    assert shell("train", *SMALL, "data.max_tokens=500") == 0
    assert "ignored: data.max_tokens" in shell.err
    assert shell("train", *SMALL, "data.max_tokens=500") == 0
    assert "ignored: data.max_tokens" in shell.err


@pytest.mark.parametrize("override", ["name=..", "name=.x", f"study={'s' * 121}"])
def test_names_that_hide_or_break_a_line_are_refused(shell: Shell, override: str) -> None:
    assert shell("train", *SMALL, override) == 2
    assert "bad name" in shell.err or "unreadable" in shell.err
    assert not (shell.folder / "outputs").exists()


@pytest.mark.parametrize("sweep", ["seed=0,a", "train.steps=12,null", "seed=range(0)"])
def test_a_bad_value_of_a_sweep_is_one_line(shell: Shell, sweep: str) -> None:
    assert shell("train", "-m", *SMALL, sweep) == 2, shell.err
    assert "Traceback" not in shell.err


def test_many_changed_modules_are_told_in_one_line() -> None:
    changes = ["tokens changed: a -> b", *(f"code changed: {name}.py" for name in "fedcba")]
    assert source_digest.in_short(changes) == [
        "code changed: a.py, b.py, c.py, d.py and 2 more",
        "tokens changed: a -> b",
    ]
