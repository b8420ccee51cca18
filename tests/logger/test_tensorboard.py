"""Event files, read back with TensorBoard's own reader."""

import errno
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from runs import SMALL, Shell, rows

from minigpt import mirror
from minigpt.logger import tensorboard


def read(folder: Path) -> Any:
    """What TensorBoard finds in the folder of a run."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(folder), {"scalars": 0, "tensors": 0})
    return found.Reload()


def scalars(found: Any) -> dict[str, list[tuple[int, float]]]:
    """Tag -> its points, in the order of the files."""
    return {
        tag: [(point.step, pytest.approx(point.value)) for point in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.jsonl."""
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for key, value in row.items():
            if key != "tokens" and value is not None:
                expected.setdefault(key, []).append((row["tokens"], value))
    return expected


def test_a_resumed_run_has_each_row_once_and_its_configuration(shell: Shell) -> None:
    pytest.importorskip("tensorboard")
    command = [*SMALL, "logger=[tensorboard,none]", "checkpoint.every=4"]
    assert shell("train", *command, "train.stop_after=6") == 0, shell.err
    folder = shell.run_folder()
    checkpoint = max((folder / "checkpoints").iterdir())
    for path in checkpoint.iterdir():  # so that rows come again
        path.unlink()
    assert shell("train", *command) == 0, shell.err
    assert "resuming at step 4" in shell.err
    logdir = shell.folder / "outputs" / "tensorboard" / folder.name
    assert len(list(logdir.iterdir())) == 2
    found = read(logdir)
    assert scalars(found) == points(folder)
    assert len(found.Scalars("train/loss")) == 12
    (sample,) = found.Tensors("sample")
    assert sample.step == 12 * 8 * 16
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    assert start.group_name == folder.name[-8:]
    assert start.hparams["choices.optim"].string_value == "muon"
    assert start.hparams["train.steps"].number_value == 12
    assert start.hparams["train.grad_clip"].number_value == 1
    assert start.hparams["accept_changes"].HasField("bool_value")


@pytest.mark.slow
def test_a_finished_run_is_mirrored_once_by_each_logger(
    shell: Shell, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    assert shell("train", *SMALL, "logger=none") == 0, shell.err
    folder = shell.run_folder()
    typed = [str(folder), "logger=[none,tensorboard]"]
    assert mirror.main(typed) == mirror.main(typed) == 0
    assert capfd.readouterr().out.splitlines() == [f"sent: {folder}", f"there already: {folder}"]
    there = folder.parent / "tensorboard" / folder.name
    assert scalars(read(there)) == points(folder)
    (summary,) = read(there).Tensors("summary")
    assert b'"val_loss"' in summary.tensor_proto.string_val[0]
    assert mirror.main([*typed, f"logger.tensorboard.logdir={shell.folder / 'other'}"]) == 0
    assert scalars(read(shell.folder / "other" / folder.name)) == points(folder)


@pytest.mark.faults(49)
@pytest.mark.parametrize(
    "fault",
    [
        "full disk",
        *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("no folder", "hangs")),
    ],
)
def test_it_can_neither_stop_nor_change_a_run(
    shell: Shell, other: Shell, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    written, ended = [], threading.Event()

    def write(self: Any, data: bytes) -> None:
        written.append(data)
        if len(written) > 4 and fault == "full disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        if len(written) > 4:
            ended.wait()

    monkeypatch.setattr(tensorboard, "PATIENCE_S", 0.1)
    logdir = shell.folder / "logdir"
    if fault == "no folder":
        logdir.touch()
    else:
        monkeypatch.setattr(writer, "write", write)
    assert other("train", *SMALL, "logger=none") == 0
    assert shell("train", *SMALL, "logger=tensorboard", f"logger.logdir={logdir}") == 0
    ended.set()
    why = {"no folder": "Not a directory", "full disk": "No space left", "hangs": "no answer"}
    (warning,) = [line for line in shell.err.splitlines() if "tensorboard" in line]
    assert warning.startswith("warning: tensorboard stopped: ")
    assert why[fault] in warning
    assert rows(shell.run_folder()) == rows(other.run_folder())


def test_without_the_package_a_line_says_how_to_install_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert shell("train", *SMALL, "logger=[none,tensorboard]") == 2
    assert shell.err == (
        "error: missing package: logger=tensorboard needs tensorboard (pip install tensorboard)\n"
    )


def test_what_is_wrong_with_one_of_several_loggers_is_told(shell: Shell) -> None:
    assert shell("train", "logger=[wandb,none]", "logger.wandb.projekt=x") == 2
    assert shell.err == (
        "error: unknown key: logger.wandb.projekt (did you mean logger.wandb.project?)\n"
    )
    assert shell("train", "logger=[wandb,tensorbord]") == 2
    assert shell.err == (
        "error: unknown choice: logger=[wandb,tensorbord] (did you mean tensorboard?)\n"
    )
