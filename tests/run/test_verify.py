"""Each kind of damage to a run's folder is told from a run that is whole."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from runs import ROOT, SMALL, Shell, vouch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from minigpt import verify
from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.save import prune
from minigpt.config import identity


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made once; tests work on copies."""
    folder = tmp_path_factory.mktemp("finished")
    places = [f"output_dir={folder}/outputs", f"data_dir={folder}/tokens"]
    command = [sys.executable, "train.py", *SMALL, *places]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    source = next((finished / "outputs").glob("*/run.json")).parent
    return Path(shutil.copytree(source, tmp_path / source.name))


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def newest(run: Path) -> Path:
    return steps_on_disk(run / "checkpoints")[-1]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


Damage = Callable[[Path], object]  # to the folder of a run


def edited(name: str, change: Callable[[dict], object]) -> Damage:
    return lambda run: edit_json(run / name, change)


def replaced(name: str, old: str, new: str) -> Damage:
    return lambda run: (run / name).write_text((run / name).read_text().replace(old, new))


def written(name: str, text: str) -> Damage:
    return lambda run: (run / name).write_text(text)


def lines(change: Callable[[list[str]], list[str]]) -> Damage:
    def damage(run: Path) -> None:
        path = run / "metrics.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


def not_finite(run: Path) -> None:
    """As if NaN had been saved: everything about the checkpoint is in order but its values."""
    found = newest(run)
    model = load_file(found / "model.safetensors")
    next(iter(model.values())).view(-1)[3] = float("nan")
    vouch(found, model=to_bytes(model))


def of_another_run(run: Path) -> None:
    state = json.loads((newest(run) / "state.json").read_text()) | {"run": "0badc0de"}
    vouch(newest(run), state=json.dumps(state).encode())


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz")
)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a bit of the weights": (
        lambda run: flip_a_bit(newest(run) / "model.safetensors"),
        "hash differs",
    ),
    "a bit of the state": (lambda run: flip_a_bit(newest(run) / "state.json"), "hash differs"),
    "weights missing": (lambda run: (newest(run) / "model.safetensors").unlink(), "missing"),
    "no checkpoint": (lambda run: shutil.rmtree(newest(run)), "no whole checkpoint"),
    "not finite": (not_finite, "is not finite"),
    "foreign checkpoint": (of_another_run, "is of run 0badc0de"),
    "checkpoint renamed": (
        lambda run: newest(run).rename(run / "checkpoints" / "step_00000099"),
        "holds step 12",
    ),
    "no run.json": (lambda run: (run / "run.json").unlink(), "no run.json"),
    "run.json torn": (written("run.json", '{"schema": 1,'), "not JSON"),
    "identity edited": (
        edited("run.json", lambda r: r["identity"].update(seed=7)),
        "is not the hash of",
    ),
    "id edited": (edited("run.json", lambda r: r.update(id="12345678")), "is not the hash of"),
    "config edited": (replaced("config.yaml", "seed: 0", "seed: 1"), "config.yaml is of run"),
    "config missing": (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing"),
    "config is something else": (
        written("config.yaml", "- 1\n"),
        "config.yaml: not a YAML mapping",
    ),
    "torn last line": (lines(lambda all: [*all, '{"step": 12, "tr']), "the last line is torn"),
    "torn line between": (lines(lambda all: [all[0][:9] + "\n", *all[1:]]), "line 1 is not a row"),
    "row missing": (lines(lambda all: all[:2] + all[3:]), "shorter than when"),
    "evaluation missing": (
        lines(lambda all: [line for line in all if '"step": 4' not in line or "val" not in line]),
        "shorter than when",
    ),
    "row repeated": (lines(lambda all: [*all[:3], all[2], *all[3:]]), "comes twice"),
    "rows cut off": (lines(lambda all: all[:-3]), "shorter than when"),
    "a row edited": (
        lines(lambda all: [all[0].replace("5", "6"), *all[1:]]),
        "rows were changed",
    ),
    "metrics missing": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
    "other tokens counted": (
        lines(lambda all: [all[0].replace('"tokens": 128', '"tokens": 129'), *all[1:]]),
        "tokens a step change",
    ),
    "loss edited": (
        edited("summary.json", lambda s: s.update(val_loss=s["val_loss"] - 0.5)),
        "val_loss",
    ),
    "step edited": (edited("summary.json", lambda s: s.update(step=11)), "ends at step 11"),
    "summary torn": (written("summary.json", "{"), "summary.json: not JSON"),
    "a pipe for a summary": (
        lambda run: a_pipe(run / "summary.json"),
        "summary.json: not a regular file",
    ),
    "an endless summary": (
        lambda run: linked(run / "summary.json", "/dev/zero"),
        "a link that leads out",
    ),
    "NaN in a summary": (
        edited("summary.json", lambda s: s.update(val_loss=float("nan"))),
        "summary.json: NaN is not a finite number",
    ),
    "a summary of another kind": (
        edited("summary.json", lambda s: s.update(seconds=[1])),
        "seconds is not a mapping",
    ),
    "a bomb of aliases": (written("config.yaml", BOMB), "config.yaml: an alias"),
    "interpolation": (
        replaced("config.yaml", "seed: 0", "seed: ${oc.env:HOME}"),
        "config.yaml is of run",
    ),
    "a deep record": (
        written("run.json", '{"a": ' * 100_000),
        "run.json: deeper than 64 levels",
    ),
    "a pipe for rows": (
        lambda run: a_pipe(run / "metrics.jsonl"),
        "metrics.jsonl: not a regular file",
    ),
    "a step of 2^60": (
        lines(lambda all: [*all, f'{{"step": {2**60}, "tokens": {2**67}, "train/loss": 1}}\n']),
        "metrics.jsonl at step 1152921504606846976",
    ),
    "a row of another kind": (
        lines(lambda all: [*all[:-1], '{"step": 12, "tokens": [1]}\n']),
        "is not a row",
    ),
    "record of another kind": (
        edited("run.json", lambda r: r.update(data=[])),
        "data is not a mapping",
    ),
}


@pytest.mark.faults(20, 21, 22, 46, 49)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(run: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGES[damage][0](run)
    assert verify.main([str(run)]) == 4
    said = capsys.readouterr().out
    assert said.startswith(f"NOT to be trusted: {run}: ")
    assert said.count("\n") == 1, "one line a run"
    assert DAMAGES[damage][1] in said


def test_a_whole_run_is_trusted_and_left_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert verify.main([str(run), str(run)]) == 0
    said = capsys.readouterr().out
    assert said == f"ok: {run}: finished at step 12, 1 checkpoint\n" * 2
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("name", ["step_00000004", "step_00000012.superseded"])
def test_a_foreign_folder_is_named_and_no_fault_of_the_run(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = run / "checkpoints" / name / "notes"
    notes.parent.mkdir()
    notes.write_text("mine")
    assert verify.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert (
        said == f"ok: {run}: finished at step 12, 1 checkpoint, {name} is foreign, no checkpoint\n"
    )
    assert steps_on_disk(run / "checkpoints") == [run / "checkpoints" / "step_00000012"]
    prune(run / "checkpoints", 1, json.loads((run / "run.json").read_text())["id"])
    assert notes.read_text() == "mine"


def test_one_bad_run_among_good_ones_decides_the_exit_code(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main([str(run), str(run / "nowhere"), str(run)]) == 4
    verdicts = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert verdicts == ["ok", "NOT to be trusted", "ok"]


def test_tokens_that_are_not_there_any_more_are_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(run / "run.json", lambda record: record["data"].update(folder="/gone"))
    assert verify.main([str(run)]) == 0
    assert "tokens not here" in capsys.readouterr().out


@pytest.mark.faults(31, 35)
def test_other_and_damaged_tokens_are_told(
    run: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tokens,) = (path.parent for path in (finished / "tokens").glob("*/manifest.json"))
    copy = Path(shutil.copytree(tokens, tmp_path / "tokens"))
    edit_json(run / "run.json", lambda record: record["data"].update(folder=str(copy)))
    assert verify.main([str(run)]) == 0
    flip_a_bit(copy / "val_00000.bin")
    assert verify.main([str(run)]) == 4
    assert "damaged shard" in capsys.readouterr().out
    edit_json(
        run / "run.json",
        lambda record: record["data"].update(folder=str(tokens), fingerprint="0" * 64),
    )
    assert verify.main([str(run)]) == 4
    assert "are not those of the run" in capsys.readouterr().out


def test_a_run_that_was_stopped_and_one_that_diverged_can_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capfd)
    assert shell("train", *SMALL, "train.stop_after=6") == 0
    stopped = shell.run_folder()
    assert verify.line_about(stopped) == (True, f"ok: {stopped}: not finished, 1 checkpoint")
    shutil.rmtree(stopped)
    wild = ["optim=adamw", "optim.lr=1e30", "train.grad_clip=null", "train.max_bad_steps=2"]
    assert shell("train", *SMALL, *wild) == 5
    trusted, line = verify.line_about(shell.run_folder())
    assert trusted, line
    assert "diverged at step" in line


def test_nobody_reads_what_it_finds(tmp_path: Path) -> None:
    """A closed pipe hides the lines, not the exit code."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "minigpt.verify", str(tmp_path / "a"), str(tmp_path / "b")]
    assert subprocess.run(command, check=False, stdout=write, cwd=ROOT).returncode == 4
    os.close(write)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        verify.main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(
        name in said
        for name in ("metrics.jsonl", "run.json", "summary.json", "python -m minigpt.verify", "4")
    )


def test_an_unknown_class_is_no_fault_of_the_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package that is not installed here: the line says so, and the rest is verified."""
    ours, theirs = "minigpt.schedule.linear", "no_such_lab.schedule"
    config = (run / "config.yaml").read_text().replace(ours, theirs)
    (run / "config.yaml").write_text(config)
    assert verify.main([str(run)]) == 4
    assert "config.yaml names other classes than run.json" in capsys.readouterr().out
    record = json.loads((run / "run.json").read_text().replace(ours, theirs))
    record["id"] = identity.short_hash(record["identity"])
    (run / "run.json").write_text(json.dumps(record))
    for folder in steps_on_disk(run / "checkpoints"):
        shutil.rmtree(folder)  # they are of the run as it was
    (run / "summary.json").unlink()
    assert verify.main([str(run)]) == 0
    assert "config.yaml not hashed: no module 'no_such_lab'" in capsys.readouterr().out


def test_every_way_to_a_finished_run_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capfd)
    short = [*SMALL, "train.steps=4", "eval.every=2"]
    assert shell("train", *short, "train.stop_after=2", "schedule=wsd") == 0
    assert shell("train", *short, "schedule=wsd") == 0
    source = shell.run_folder()
    for more in (
        [f"init_from={source}"],
        ["schedule=wsd", "train.steps=8"],
        ["model=tiny_ensemble", "optim=adamw"],
        ["data@stand_in=copy_task", "probe=optimizer"],
        ["train.precision=bf16", "optim=lion"],
    ):
        assert shell("train", *short, *more) == 0, shell.err
    assert len(shell.runs()) == 6
    assert verify.main([str(run) for run in shell.runs()]) == 0, capfd.readouterr().out


@pytest.mark.faults(50)
def test_control_sequences_of_a_folder_are_escaped(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = run.rename(run.parent / "\x1b]0;owned\x07\x1b[2J\n\udcff")
    assert verify.main([str(odd)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert r"\x1b[2J\n\udcff" in said
    assert said.count("\n") == 1
