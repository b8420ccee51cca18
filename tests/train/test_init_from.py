"""A run that starts from weights is the run of those weights, wherever they lie and whatever
becomes of their place.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import SMALL, Shell, rows, tensors

from minigpt import verify
from minigpt.config.plan import Plan, plan_of
from minigpt.errors import CheckpointError
from minigpt.files.durable import sha256_file
from minigpt.generate.load import init_weights_from, load_run
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator
from minigpt.train import training

SOURCE = [*SMALL, "name=source", "checkpoint.every=4"]


def folders(shell: Shell, *known: Path) -> list[Path]:
    """Run folders that are not among the known ones."""
    return sorted({*shell.runs()} - {*known})


def weights_of(source: Path) -> str:
    return sha256_file(sorted((source / "checkpoints").glob("step_*"))[-1] / "model.safetensors")


def held_by(run: Path) -> str:
    """The weights that a run started from, by its identity."""
    return json.loads((run / "run.json").read_text())["identity"]["init_from"]


def planned(shell: Shell, *overrides: str) -> Plan:
    from minigpt.cli import composition, process
    from minigpt.config import schema

    schema.register()
    process.register_resolvers()
    places = [f"output_dir={shell.folder / 'outputs'}", f"data_dir={shell.folder / 'tokens'}"]
    return plan_of(composition.compose("train", [*places, *overrides], None, plan_of))


@pytest.mark.faults(27)
def test_a_source_that_trained_on_starts_another_run(shell: Shell) -> None:
    assert shell("train", *SOURCE, "train.stop_after=4") == 0, shell.err
    (source,) = folders(shell)
    child = [*SMALL, "schedule=wsd", f"init_from={source}"]
    assert shell("train", *child) == 0, shell.err
    (first,) = folders(shell, source)
    assert rows(first)[0]["train/loss"] < rows(source)[0]["train/loss"], "weights that have learnt"
    assert shell("train", *child) == 0, shell.err
    assert "already finished" in shell.err

    assert shell("train", *SOURCE) == 0, shell.err
    assert shell("train", *child) == 0, shell.err
    assert "already finished" not in shell.err
    (second,) = folders(shell, source, first)
    assert rows(first)[0]["train/loss"] != rows(second)[0]["train/loss"]
    assert held_by(first) != held_by(second) == weights_of(source)

    # Nor does a longer one go on from what was trained from the other weights.
    longer = [*child, "train.steps=16"]
    assert shell("train", *longer, f"branch={first}") == 4
    assert "init_from differs" in shell.err


def test_a_model_of_another_shape_adapts_the_weights(shell: Shell) -> None:
    assert shell("train", *SOURCE, "train.steps=2") == 0, shell.err
    (source,) = folders(shell)
    saved = load_run(str(source)).model
    sizes = {"d_model": 32, "n_heads": saved.n_heads, "max_seq_len": 16, "qk_norm": True}
    grown = Transformer(len(saved.embed.weight), n_layers=len(saved.blocks) + 1, **sizes)
    grown.init_weights(generator(0, "init"))
    fresh = grown.blocks[-1].mlp.up.weight.clone()
    with pytest.raises(CheckpointError, match=r"adapt\(weights\)"):
        init_weights_from(grown, source, weights_of(source))
    grown.adapt = lambda weights: dict(grown.named_parameters()) | weights
    init_weights_from(grown, source, weights_of(source))
    assert torch.equal(grown.embed.weight, saved.embed.weight)
    assert torch.equal(grown.blocks[-1].mlp.up.weight, fresh)


def test_the_path_of_the_weights_decides_nothing(shell: Shell) -> None:
    assert shell("train", *SOURCE) == 0, shell.err
    (source,) = folders(shell)
    assert shell("train", *SMALL, f"init_from={source}") == 0, shell.err
    copy = Path(shutil.copytree(source, shell.folder / "a copy"))
    assert shell("train", *SMALL, f"init_from={copy}") == 0, shell.err
    assert "already finished" in shell.err


@pytest.mark.faults(27)
def test_verify_trusts_a_run_that_started_from_weights(shell: Shell, tmp_path: Path) -> None:
    from minigpt import export

    assert shell("train", *SOURCE, "train.stop_after=8") == 0, shell.err
    (source,) = folders(shell)
    assert export.main([str(source), str(tmp_path / "exported")]) == 0
    assert shell("train", *SMALL, f"init_from={tmp_path / 'exported'}") == 0, shell.err
    assert shell("train", *SMALL, f"init_from={source}") == 0, shell.err
    children = folders(shell, source)
    assert {held_by(run) for run in children} == {
        sha256_file(tmp_path / "exported" / "model.safetensors"),
        weights_of(source),
    }
    assert verify.main([str(run) for run in children]) == 0
    assert shell("train", *SOURCE) == 0
    assert verify.main([str(run) for run in children]) == 0, "the source trained on"
    shutil.rmtree(source)
    assert verify.main([str(run) for run in children]) == 0, "the source is gone"


@pytest.mark.faults(27)
@pytest.mark.parametrize("kind", ["run", "export"])
def test_weights_that_change_between_plan_and_start_are_refused(
    shell: Shell, tmp_path: Path, kind: str
) -> None:
    from minigpt import export

    assert shell("train", *SOURCE, "train.stop_after=4") == 0, shell.err
    (source,) = folders(shell)
    folder = source
    if kind == "export":
        folder = tmp_path / "exported"
        assert export.main([str(source), str(folder)]) == 0
    plan = planned(shell, *SMALL, f"init_from={folder}")
    assert shell("train", *SOURCE) == 0, shell.err  # and the checkpoint of step 4 is pruned
    if kind == "export":
        shutil.rmtree(folder)
        assert export.main([str(source), str(folder)]) == 0
    with pytest.raises(CheckpointError, match="weights changed: init_from=") as error:
        training.run(plan)
    assert error.value.exit_code == 4
    assert not plan.folder.exists()


def test_the_weights_planned_with_are_found_beside_newer_ones(shell: Shell) -> None:
    assert shell("train", *SOURCE, "train.stop_after=4") == 0, shell.err
    (source,) = folders(shell)
    plan = planned(shell, *SMALL, f"init_from={source}")
    assert shell("train", *SOURCE, "train.stop_after=8") == 0, shell.err
    assert training.run(plan) is not None
    others = shell.folder / "others"
    assert shell("train", *SMALL, f"output_dir={others}", f"init_from={source}") == 0
    other = next(others.glob("*-????????"))
    assert other.name[-8:] != plan.id
    assert tensors(other) != tensors(plan.folder)


@pytest.mark.faults(33)
def test_weights_of_another_tokenizer_are_taken_only_by_name(shell: Shell) -> None:
    for name, letters in (("one", "abcdefgh"), ("other", "stuvwxyz")):
        lines = [f"{letters[i % 8]}{letters[i * i % 8]}{letters[i * 7 % 5]}" for i in range(2000)]
        (shell.folder / f"{name}.txt").write_text("\n".join(lines))

    def train(text: str, *more: str) -> int:
        path = shell.folder / f"{text}.txt"
        data = ["data@stand_in=files", "data/tokenizer@stand_in.tokenizer=char"]
        return shell("train", *SMALL, *data, f"stand_in.path={path}", *more)

    assert train("one") == 0, shell.err
    (source,) = folders(shell)
    assert train("one", f"init_from={source}") == 0, shell.err
    same = folders(shell, source)
    assert train("other", f"init_from={source}") == 4
    (line,) = [line for line in shell.err.splitlines() if line.startswith("error: ")]
    assert "another tokenizer: init_from=" in line
    assert " -> " in line
    assert folders(shell, source, *same) == []
    assert train("other", f"init_from={source}", "accept_changes=true") == 0, shell.err
    (mixed,) = folders(shell, source, *same)
    (change,) = json.loads((mixed / "run.json").read_text())["mixed"]
    assert change.startswith("tokenizer of init_from: ")
    assert verify.main([str(mixed)]) == 0


def test_a_damaged_newest_checkpoint_is_not_the_source(shell: Shell) -> None:
    assert shell("train", *SOURCE, "train.stop_after=8") == 0, shell.err
    (source,) = folders(shell)
    older, newer = sorted((source / "checkpoints").glob("step_*"))
    weights = newer / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert shell("train", *SMALL, f"init_from={source}") == 0, shell.err
    (child,) = folders(shell, source)
    assert held_by(child) == sha256_file(older / "model.safetensors")
    assert "damaged checkpoint" in shell.err
    shutil.rmtree(older)
    assert shell("train", *SMALL, f"init_from={source}") == 4
    assert "no usable checkpoint" in shell.err
    shutil.rmtree(newer)
    assert shell("train", *SMALL, f"init_from={source}") == 2
    assert "has no checkpoint yet" in shell.err


def test_an_untrained_model_is_a_source_too(shell: Shell) -> None:
    assert shell("train", *SOURCE, "train.stop_after=0") == 0, shell.err
    (source,) = folders(shell)
    assert [path.name for path in (source / "checkpoints").iterdir()] == ["step_00000000"]
    assert verify.main([str(source)]) == 0
    assert shell("generate", f"run={source}", "max_new_tokens=2") == 0, shell.err
    assert shell("train", *SMALL, f"init_from={source}") == 0, shell.err
    (child,) = folders(shell, source)
    assert shell("train", *SOURCE) == 0, shell.err
    assert tensors(child) == tensors(source), "the same weights, data and steps"
    assert rows(child) == rows(source)
    assert shell("train", *SOURCE, "attempt=2", "train.stop_after=-1") == 2
    assert "train.stop_after=-1 (at least 0)" in shell.err
