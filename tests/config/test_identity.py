"""The same command is the same run, and nothing else is."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from runs import ROOT

from minigpt.cli import composition, process
from minigpt.config import identity, schema
from minigpt.config.build import build, build_optimizer
from minigpt.config.plan import Plan, plan_of
from minigpt.errors import ConfigError
from minigpt.files import records


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    schema.register()
    process.register_resolvers()


def plan(*overrides: str) -> Plan:
    return plan_of(composition.compose("train", list(overrides), None, plan_of))


DEFAULT = None


@pytest.mark.parametrize(
    "override",
    [
        "train.device=cpu",
        "train.compile=false",
        "train.activation_checkpointing=true",
        "train.threads=1",
        "train.micro_batch_size=4",
        "logger=none",
        "eval.every=7",
        "checkpoint.every=3",
        "log.every=1",
        "output_dir=/somewhere/else",
        "study=a",
        "data.workers=2",
        "data.out=/tokens",
        "train.stop_after=5",
        "model.dropout=0.0",
        "train.steps=600",
        "train.tokens=1_228_800",
        "sample.prompt=x",
        "optim.hidden.ns_dtype=auto",
        "train.deterministic=true",
        "accept_changes=true",
        "optim.lr_scale=1",
    ],
)
def test_what_only_watches_or_repeats_a_default_is_the_same_run(override: str) -> None:
    assert plan(override).id == plan().id


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "attempt=2",
        "optim=adamw",
        "optim.lr=0.03",
        "optim.adamw_lr=0.001",
        "model=small",
        "model.dropout=0.1",
        "schedule=wsd",
        "train.steps=601",
        "train.epochs=1",
        "train.batch_size=8",
        "train.grad_clip=null",
        "train.skip_spikes=10",
        "name=mine",
        "train.precision=bf16",
        "data.tokenizer.vocab_size=1000",
        "data=shakespeare_char",
        "train.document_mask=true",
        "optim.lr_scale=2",
        "data.max_tokens=1000",
    ],
)
@pytest.mark.faults(30)
def test_what_decides_the_result_is_another_run(override: str) -> None:
    assert plan(override).id != plan().id


def test_lr_scale_and_the_lr_it_makes_are_one_run() -> None:
    scaled = plan("optim=adamw", "optim.lr_scale=2")
    assert scaled.id == plan("optim=adamw", "optim.lr=0.004").id
    assert (
        plan("optim=muon", "optim.lr_scale=2").id
        == plan("optim=muon", "optim.lr=0.028", "optim.adamw_lr=0.028").id
    )


def test_the_id_is_stable() -> None:
    """Spelled out whole, so that no tuned default moves it: if this changes, every old run is
    orphaned.
    """
    identity = {"model": {"d_model": 8}, "seed": 0, "optim": {"hidden": {"lr": 0.02}}}
    from minigpt.config.identity import short_hash

    assert short_hash(identity) == "0dc79be5"


def test_names_read_like_the_command() -> None:
    assert plan("optim.lr=0.04", "seed=1").folder.name.startswith(
        "tiny-muon-shakespeare-lr0.04-s1-"
    )
    assert plan("schedule=wsd").folder.name.startswith("tiny-muon-shakespeare-wsd-")
    assert plan("name=mine").folder.name.startswith("mine-")
    assert len(plan(*(f"sample.prompt={'x' * 300}",)).folder.name) < 100


def test_a_budget_on_the_command_line_replaces_the_files_and_two_are_an_error() -> None:
    assert plan("train.epochs=2").config["train"]["steps"] is None
    assert plan("experiment=mini_gpt").config["train"]["epochs"] == 3
    assert plan("experiment=mini_gpt", "train.steps=7").config["train"]["epochs"] is None
    with pytest.raises(
        ConfigError,
        match=r"train.tokens=5 and train.steps=7|train.steps=7 and train.tokens=5",
    ):
        plan("train.steps=7", "train.tokens=5")
    with pytest.raises(ConfigError, match="exactly one"):
        plan("train.steps=null")


@pytest.mark.parametrize("scale", [0.35, 0.1, 1.1, 3.0, 0.7])
@pytest.mark.parametrize("optim", ["muon", "adamw"])
def test_lr_scale_and_the_lr_it_makes_train_with_the_same_lr(optim: str, scale: float) -> None:
    """To the bit: a product taken twice would differ in its last digit."""
    import torch

    def lrs(found: Plan) -> list[float]:
        with torch.device("meta"):
            model = build(found.config["model"], 300)
            return [
                group["lr"] for group in build_optimizer(found.config["optim"], model).param_groups
            ]

    node = plan(f"optim={optim}").config["optim"]
    given = {"optim.lr": node["hidden"]["lr"], "optim.adamw_lr": node["embed"]["lr"]}
    typed = [f"{key}={float(f'{lr * scale:.12g}')}" for key, lr in given.items()]
    scaled = plan(f"optim={optim}", f"optim.lr_scale={scale}")
    written_out = plan(f"optim={optim}", *typed)
    assert scaled.id == written_out.id
    assert lrs(scaled) == lrs(written_out)


PRESETS = [
    f"{group}={path.stem}"
    for group in (
        "model",
        "model/attention",
        "model/mlp",
        "optim",
        "schedule",
        "probe",
        "experiment",
        "debug",
    )
    for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
    if not path.stem.startswith("_")
]


@pytest.mark.parametrize(
    "preset", [*PRESETS, "data=copy_task", "data=one_play", "data=fineweb_edu", "name='1e3'"]
)
def test_config_yaml_tells_the_identity_without_hydra(preset: str, tmp_path: Path) -> None:
    """What verify does for every run: config.yaml, as plain values, hashes to the id that the run
    was given.
    """
    found = plan(preset, *(["data.path=corpus.jsonl"] if "speedrun" in preset else []))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(found.config)))
    read = records.read_config(tmp_path)
    assert read == found.config
    assert identity.differences(identity.run_identity(read), found.identity) == {}
    assert identity.short_hash(identity.run_identity(read)) == found.id


def test_tokens_and_the_steps_that_they_come_to_are_one_plan_with_one_budget() -> None:
    tokens, steps = plan("train.tokens=614_000"), plan("train.steps=300")
    assert (tokens.id, tokens.config) == (steps.id, steps.config)
    assert "rounded up to 300 steps" in str(tokens.rounding)
    assert steps.rounding is None


def test_every_key_says_whether_it_decides_and_may_stand_in_a_name() -> None:
    for override in (
        "train.stop_after=7",
        "data.workers=2",
        "logger=none",
        "eval.every=5",
        "study=x",
    ):
        assert (plan(override).id, plan(override).folder) == (plan().id, plan().folder), override
    for override in ("train.skip_spikes=10", "train.batch_size=8", "attempt=2", "seed=1"):
        found = plan(override)
        assert found.id != plan().id, override
        assert found.folder.name != f"{plan().folder.name.rpartition('-')[0]}-{found.id}", override


def test_an_arm_may_have_a_third_shared_scalar(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    preset = "defaults: [muon, _self_]\nhead_lr: 0.003\nhead: {lr: '${optim.head_lr}'}\n"
    (tmp_path / "optim" / "three.yaml").write_text(preset)

    def three(*overrides: str) -> Plan:
        typed = ["optim=three", *overrides]
        return plan_of(composition.compose("train", typed, str(tmp_path), plan_of))

    found = three("optim.head_lr=0.004")
    assert "head_lr" not in found.identity["optim"]
    assert found.identity["optim"]["head"]["lr"] == 0.004
    assert found.id == plan("optim=muon", "optim.head.lr=0.004").id != three().id
    with torch.device("meta"):
        optimizer = build_optimizer(found.config["optim"], build(found.config["model"], 300))
    assert 0.004 in {group["lr"] for group in optimizer.param_groups}
    assert not any("head_lr" in group for group in optimizer.param_groups)
