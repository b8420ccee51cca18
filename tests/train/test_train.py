"""Whole runs: the same command a second time, what is refused, and nothing leaks between runs."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ROOT, SMALL, Shell, held, rows, tensors

from minigpt.data.windows import TrainWindows
from minigpt.model.transformer import Transformer


def test_a_run_leaves_what_the_design_names_and_reports_it(shell: Shell) -> None:
    assert shell("train", *SMALL) == 0, shell.err
    folder = shell.run_folder()
    names = {"config.yaml", "run.json", "metrics.jsonl", "checkpoints", "summary.json", "train.log"}
    assert names | {"sample.txt"} <= {path.name for path in folder.iterdir()}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert (summary["step"], summary["tokens"]) == (12, 12 * 8 * 16)
    assert summary["flops_per_token"] > 6 * 0.5 * summary["parameters"]
    assert f"{summary['val_loss']:.4f} nats" in shell.out
    assert "bits per byte" in shell.out
    assert str(folder) in shell.out
    validations = [row for row in rows(folder) if "val/loss" in row]
    assert [row["step"] for row in validations] == [4, 8, 12]
    assert validations[-1]["val/loss"] == summary["val_loss"]
    assert validations[-1]["val/tokens"] == summary["val_tokens"] > validations[0]["val/tokens"]
    training = [row for row in rows(folder) if "train/loss" in row]
    assert [row["step"] for row in training] == list(range(1, 13))
    assert {"grad_norm", "lr/hidden", "lr/embed", "lr/scalar"} <= training[0].keys()
    assert training[-1]["train/loss"] < training[0]["train/loss"]


def test_a_model_that_cannot_write_ends_with_its_losses(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Transformer, "next_logits")
    short = [*SMALL, "train.steps=2", "sample.every=1"]
    assert shell("train", *short) == 0, shell.err
    assert "no sample: AttributeError: 'Transformer' object has no attribute" in shell.err
    assert json.loads((shell.run_folder() / "summary.json").read_text())["status"] == "finished"
    assert shell("train", *short, "seed=1", "sample.max_new_tokens=0") == 0
    assert "no sample" not in shell.err


@pytest.mark.parametrize(
    ("optim", "precision"),
    [
        pytest.param("muon", "bf16", marks=pytest.mark.faults(10)),
        pytest.param("adamw", "fp32", marks=pytest.mark.faults(10)),
        pytest.param("muon", "fp32", marks=pytest.mark.slow),
        pytest.param("adamw", "bf16", marks=pytest.mark.slow),
    ],
)
def test_six_steps_and_six_more_in_a_new_process_are_twelve_steps(
    optim: str, precision: str, shell: Shell, other: Shell
) -> None:
    command = [
        *SMALL, f"optim={optim}", f"train.precision={precision}", "model.dropout=0.2",
        "train.micro_batch_size=2", "checkpoint.keep_optimizer=true", "train.threads=1",
    ]  # fmt: skip
    assert shell("train", *command) == 0, shell.err
    assert other("train", *command, "train.stop_after=6") == 0, other.err
    assert not (other.run_folder() / "summary.json").exists()
    process = subprocess.run(
        other.command(*command), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "resuming at step 6 of 12" in process.stderr
    assert rows(other.run_folder()) == rows(shell.run_folder())
    saved = tensors(shell.run_folder())
    assert saved.keys() == {"model.safetensors", "optimizer.safetensors"}
    assert tensors(other.run_folder()) == saved


def interrupted(shell: Shell, number: signal.Signals, *command: str) -> tuple[int, str]:
    """train.py in a process that has a signal after its first step: exit code, and what it said."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        shell.command(*command), cwd=ROOT, stderr=pipe, stdout=pipe, text=True
    )
    assert process.stderr is not None
    next(line for line in process.stderr if line.startswith("step "))
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    return process.returncode, said


@pytest.mark.faults(5)
def test_a_signal_saves_and_the_same_command_goes_on(shell: Shell, other: Shell) -> None:
    command = [*SMALL, "train.steps=150", "checkpoint.every=null", "eval.every=null"]
    code, err = interrupted(shell, signal.SIGTERM, *command, "train.threads=1")
    assert code == 143, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert shell("train", *command, "train.threads=1") == 0, shell.err
    assert "resuming at step" in shell.err
    assert other("train", *command, "train.threads=1") == 0
    assert rows(other.run_folder()) == rows(shell.run_folder())
    assert tensors(other.run_folder()) == tensors(shell.run_folder())


@pytest.mark.faults(10)
def test_a_finished_run_answers_without_touching_anything(shell: Shell) -> None:
    assert shell("train", *SMALL) == 0
    folder, said = shell.run_folder(), shell.out
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}
    assert shell("train", *SMALL, "train.compile=true", "log.every=3") == 0
    assert shell.out == said
    assert "already finished (cpu, fp32, commit" in shell.err
    assert "ignored: log.every, train.compile" in shell.err
    assert {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")
    } == before


@pytest.mark.faults(49)
def test_what_only_watches_changes_no_weight(shell: Shell, other: Shell) -> None:
    assert shell("train", *SMALL, "model.dropout=0.1") == 0
    watching = ["eval.every=1", "sample.every=2", "log.every=5", "checkpoint.every=3"]
    watching += ["probe=optimizer", "probe.every=2"]
    command = [*SMALL, "model.dropout=0.1", *watching]
    assert other("train", *command, "train.stop_after=7") == 0, other.err
    on_the_way = (other.run_folder() / "sample.txt").read_text()
    wandb = ["logger=wandb", f"logger.folder={other.folder / 'wandb'}"]
    assert other("train", *command, *wandb) == 0, other.err
    assert shell.run_folder().name == other.run_folder().name
    assert tensors(shell.run_folder()) == tensors(other.run_folder())
    losses = [
        {row["step"]: row["train/loss"] for row in rows(run.run_folder()) if "train/loss" in row}
        for run in (shell, other)
    ]
    assert losses[1].items() <= losses[0].items()
    assert {5, 10} <= losses[1].keys()
    assert list((other.folder / "wandb").glob("offline-run-*/*.wandb"))
    texts = {}
    for table in (other.folder / "wandb").glob("offline-run-*/files/media/table/*.json"):
        texts |= dict(json.loads(table.read_text())["data"])
    assert sorted(texts) == [8, 10, 12]
    assert f"sample at step 6:\n{on_the_way}" in (other.run_folder() / "train.log").read_text()
    assert texts[12] == (other.run_folder() / "sample.txt").read_text()
    assert "warning" not in other.err
    looked = [row for row in rows(other.run_folder()) if "probe/hidden/q/relative_update" in row]
    assert [row["step"] for row in looked] == [2, 4, 6, 8, 10, 12]


@pytest.mark.faults(27)
def test_changed_tokens_and_changed_code_stop_a_run_and_can_be_accepted(shell: Shell) -> None:
    assert shell("train", *SMALL, "train.stop_after=6") == 0
    path = shell.run_folder() / "run.json"
    record = json.loads(path.read_text())
    record["source"]["minigpt.train.loop"] = "something else"
    record["data"]["fingerprint"] = "another fingerprint"
    record["chosen"]["threads"] += 1
    path.write_text(json.dumps(record))
    assert shell("train", *SMALL) == 4
    assert "code changed: minigpt/train/loop.py" in shell.err
    assert "tokens changed: another fing" in shell.err
    assert "threads:" in shell.err
    assert "Traceback" not in shell.err
    assert shell("train", *SMALL, "accept_changes=true") == 0, shell.err
    summary = json.loads((shell.run_folder() / "summary.json").read_text())
    assert any("loop.py" in change for change in summary["mixed"])
    assert "mixed" in shell.out


@pytest.mark.faults(27)
def test_a_finished_run_of_changed_code_does_not_answer(shell: Shell) -> None:
    assert shell("train", *SMALL) == 0
    path = shell.run_folder() / "run.json"
    record = json.loads(path.read_text())
    record["source"]["minigpt.optim.muon"] = "something else"
    path.write_text(json.dumps(record))
    assert shell("train", *SMALL) == 4
    assert "code changed: minigpt/optim/muon.py" in shell.err
    assert shell("train", *SMALL, "dry_run=true") == 0, shell.err
    assert "FLOPs per token" in shell.out
    (note,) = (line for line in shell.err.splitlines() if line.startswith("note: "))
    assert "without dry_run=true: changed since the run began" in note
    assert shell("train", *SMALL, "accept_changes=true") == 0


@pytest.mark.faults(27)
def test_deterministic_kernels_are_not_switched_in_mid_run(shell: Shell) -> None:
    """They decide bits on a GPU: no part of the id, but a run keeps to them once it has begun."""
    assert shell("train", *SMALL, "train.stop_after=4") == 0, shell.err
    assert shell("train", *SMALL, "train.deterministic=true") == 4
    assert "deterministic: False -> True" in shell.err
    assert shell("train", *SMALL) == 0, shell.err
    assert shell("train", *SMALL, "train.deterministic=true") == 0, shell.err
    assert "ignored: train.deterministic" in shell.err


@pytest.mark.faults(22)
def test_only_damaged_checkpoints_never_start_afresh(shell: Shell) -> None:
    assert shell("train", *SMALL, "train.stop_after=6") == 0
    for path in (shell.run_folder() / "checkpoints").glob("*/model.safetensors"):
        path.write_bytes(b"not tensors")
    assert shell("train", *SMALL) == 4
    assert "no usable checkpoint" in shell.err


@pytest.mark.faults(15)
def test_a_folder_in_use_is_refused_with_its_owner(shell: Shell) -> None:
    assert shell("train", *SMALL, "train.stop_after=2") == 0
    with held(shell.run_folder()) as owner:
        assert shell("train", *SMALL) == 7
        assert f"pid {owner.pid} on" in shell.err
    assert shell("train", *SMALL) == 0


@pytest.mark.faults(45)
def test_a_sweep_runs_every_job_as_if_alone(shell: Shell, other: Shell) -> None:
    assert shell("train", "-m", *SMALL, "optim=muon,adamw", "seed=0,1") == 0, shell.err
    folders = {path.name: path for path in shell.runs()}
    assert len(folders) == 4
    assert shell.err.count("  done  ") == 4
    assert other("train", *SMALL, "optim=adamw", "seed=1") == 0
    alone = other.run_folder()
    assert rows(folders[alone.name]) == rows(alone)
    assert tensors(folders[alone.name]) == tensors(alone)


def test_arms_see_the_same_batches_and_start_from_the_same_weights(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole runs of several optimizers, in a sweep: what reaches the model differs in nothing but
    its weights later.
    """
    seen: list[list[bytes]] = []
    draw, read = Transformer.init_weights, TrainWindows.sequences

    def init_weights(model: Transformer, generator: torch.Generator) -> None:
        draw(model, generator)
        seen.append([parameter.detach().numpy().tobytes() for parameter in model.parameters()])

    def sequences(windows: TrainWindows, numbers: Any) -> Any:
        tokens = read(windows, numbers)
        seen[-1].append(tokens.tobytes())
        return tokens

    monkeypatch.setattr(Transformer, "init_weights", init_weights)
    monkeypatch.setattr(TrainWindows, "sequences", sequences)
    command = ["-m", *SMALL, "optim=muon,adamw,lion", "model.dropout=0.1"]
    assert shell("train", *command) == 0, shell.err
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    batches = seen[0][-24:]  # 12 steps of two micro-batches
    assert len(set(batches)) == 24


@pytest.mark.faults(45)
def test_a_failing_job_lets_the_others_run_and_sets_the_exit_code(shell: Shell) -> None:
    assert shell("train", "-m", *SMALL, "model.n_heads=4,3", "seed=0,1") == 2
    assert shell.err.count("failed (2)") == 2
    assert shell.err.count("  done  ") >= 2
    assert "n_heads=3" in shell.err
    assert "Traceback" not in shell.err
    assert len(shell.runs()) == 2
    assert sorted((shell.folder / "outputs").glob("*-????????")) == shell.runs()


@pytest.mark.faults(46)
def test_a_diverging_run_says_so_and_stays_diverged(shell: Shell) -> None:
    command = [
        *SMALL, "optim=adamw", "optim.lr=1e30", "train.grad_clip=null", "train.max_bad_steps=2",
        "train.steps=40",
    ]  # fmt: skip
    assert shell("train", *command) == 5, shell.err
    assert "diverged" in shell.err
    assert json.loads((shell.run_folder() / "summary.json").read_text())["status"] == "diverged"
    assert shell("train", *command) == 5
    assert "diverged before" in shell.err


def test_a_new_run_names_the_one_it_differs_from_in_one_key(shell: Shell) -> None:
    assert shell("train", *SMALL) == 0
    first = shell.run_folder().name
    assert shell("train", *SMALL, "train.steps=14") == 0
    assert f"differs from {first} only in train.steps 12 -> 14" in shell.err


@pytest.mark.faults(19)
def test_a_moved_run_is_still_whole(shell: Shell) -> None:
    assert shell("train", *SMALL) == 0
    folder = shell.run_folder()
    moved = shell.folder / "elsewhere with spaces"
    folder.rename(moved)
    assert shell("generate", f"run={moved}", "prompt=MAC", "max_new_tokens=8") == 0, shell.err
    assert shell.out.startswith("MAC")


@pytest.mark.faults(14)
def test_an_unwritable_place_is_one_line_and_exit_code_6(shell: Shell) -> None:
    blocked = shell.folder / "file"
    blocked.write_text("x")
    assert shell("train", *SMALL, f"output_dir={blocked}/below") == 6
    assert "error: cannot write" in shell.err
    assert "Traceback" not in shell.err


@pytest.mark.faults(31)
def test_missing_text_is_exit_code_3_and_leaves_no_trace(shell: Shell) -> None:
    data = ["data=files", f"data.path={shell.folder}/missing.txt", "model.max_seq_len=16"]
    assert shell("train", *data) == 3
    assert "missing.txt" in shell.err
    assert "Traceback" not in shell.err
    assert list((shell.folder / "outputs").iterdir()) == []


def test_a_job_of_a_sweep_does_not_inherit_the_threads_of_the_one_before(shell: Shell) -> None:
    for job in (["seed=0", "train.steps=3", "train.threads=2"], ["train.steps=4"]):
        assert shell("train", "-m", *SMALL, *job, "train.stop_after=0") == 0, shell.err
    records = [json.loads((run / "run.json").read_text()) for run in shell.runs()]
    threads = {record["steps"]: record["chosen"]["threads"] for record in records}
    assert threads[3] == 2
    assert threads[4] != 2


def test_overfit_gets_near_zero(shell: Shell) -> None:
    assert shell("train", "debug=overfit", "train.steps=100") == 0, shell.err
    last = [row for row in rows(shell.run_folder()) if "train/loss" in row][-1]
    assert last["train/loss"] < 0.3


@pytest.mark.faults(8)
def test_ctrl_c_ends_a_sweep_with_130(shell: Shell) -> None:
    command = ["-m", *SMALL, "train.steps=3000", "eval.every=null", "seed=0,1", "train.threads=1"]
    code, err = interrupted(shell, signal.SIGINT, *command)
    assert code == 130, err
    assert "stopped" in err
    assert len(shell.runs()) == 1


@pytest.mark.faults(12)
def test_a_full_disk_on_the_way_is_a_warning_and_at_the_end_an_error(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minigpt.files import durable

    real, full = durable.write_synced, [True]

    def write(path: Path, content: bytes) -> None:
        if full[0] and path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(durable, "write_synced", write)
    assert shell("train", *SMALL, "checkpoint.every=4") == 6
    assert shell.err.count("warning: cannot save a checkpoint") == 2
    assert "error: cannot save a checkpoint" in shell.err
    assert "MiB free" in shell.err
    assert list((shell.run_folder() / "checkpoints").iterdir()) == []
    full[0] = False
    assert shell("train", *SMALL, "checkpoint.every=4") == 0, shell.err
