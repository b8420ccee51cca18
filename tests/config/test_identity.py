"""The same command is the same run, and nothing else is."""

from functools import cache, partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from runs import ROOT

from minigpt.cli import composition, process
from minigpt.cli.overrides import protect
from minigpt.config import identity, schema
from minigpt.config.build import build, build_optimizer
from minigpt.config.plan import Plan, plan_of
from minigpt.errors import ConfigError
from minigpt.files import records


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    schema.register()
    process.register_resolvers()


@cache
def plan(*typed: str, config_dir: str | None = None) -> Plan:
    overrides = [protect(override, sweeping=False) for override in typed]
    return plan_of(composition.compose("train", overrides, config_dir, plan_of))


WATCHING = [
    "train.device=cpu",
    "train.compile=false",
    "train.activation_checkpointing=true",
    "train.threads=1",
    "train.micro_batch_size=4",
    "train.deterministic=true",
    "train.stop_after=5",
    "logger=none",
    "eval.every=7",
    "checkpoint.every=3",
    "log.every=1",
    "sample.prompt=x",
    "study=a",
    "accept_changes=true",
    "data.workers=2",
    "data.out=/tokens",
]
REPEATED = [
    "output_dir=/somewhere/else",
    "model.dropout=0.0",
    "train.steps=560",
    "train.tokens=2_293_760",
    "optim.hidden.ns_dtype=auto",
    "optim.lr_scale=1",
]
DECIDING = [
    "seed=1",
    "attempt=2",
    "name=mine",
    "optim=adamw",
    "optim.lr=0.03",
    "optim.adamw_lr=0.001",
    "optim.lr_scale=2",
    "model=small",
    "model.dropout=0.1",
    "schedule=wsd",
    "train.steps=601",
    "train.epochs=1",
    "train.batch_size=8",
    "train.grad_clip=null",
    "train.skip_spikes=10",
    "train.precision=bf16",
    "train.document_mask=true",
    "data=shakespeare_char",
    "data.tokenizer.vocab_size=1000",
    "data.max_tokens=1000",
]


@pytest.mark.parametrize("override", [*WATCHING, *REPEATED])
def test_what_only_watches_or_repeats_a_default_is_the_same_run(override: str) -> None:
    assert plan(override).id == plan().id
    assert override in REPEATED or plan(override).folder == plan().folder


@pytest.mark.parametrize("override", DECIDING)
@pytest.mark.faults(30)
def test_what_decides_the_result_is_another_run_with_another_name(override: str) -> None:
    found = plan(override)
    assert found.id != plan().id
    assert found.folder.name != plan().folder.name.replace(plan().id, found.id)


@pytest.mark.parametrize("word", ["null", "none"])
@pytest.mark.parametrize("group", ["probe", "experiment", "model/embedding", "model/mlp"])
def test_without_can_be_typed_and_is_the_run_of_not_naming_it(group: str, word: str) -> None:
    bare, found = plan("seed=3"), plan("seed=3", f"{group}={word}")
    assert (found.id, found.folder, found.choices) == (bare.id, bare.folder, bare.choices)
    assert found.study == bare.study


@pytest.mark.parametrize("name", ["größe", "größe eins", "1e3", "7", "true", "muon_vs_adamw"])
def test_a_name_is_the_text_that_was_typed(name: str) -> None:
    assert plan(f"study={name}").study == name
    assert protect(f"study={name}", sweeping=True) == protect(f"study={name}", sweeping=False)


@pytest.mark.parametrize("typed", ["null", "abc-1.5", "'1e3'", "a,b", "choice(a,b)", "${name}"])
def test_a_name_that_hydra_reads_right_is_left_to_it(typed: str) -> None:
    assert protect(f"study={typed}", sweeping=True) == f"study={typed}"


def test_lr_scale_and_the_lr_it_makes_are_one_run() -> None:
    scaled = plan("optim=adamw", "optim.lr_scale=2")
    assert scaled.id == plan("optim=adamw", "optim.lr=0.004").id
    assert (
        plan("optim=muon", "optim.lr_scale=2").id
        == plan("optim=muon", "optim.lr=0.028", "optim.adamw_lr=0.028").id
    )


def test_the_id_is_stable() -> None:
    """Spelled out whole, so that no tuned default moves it: a change here orphans every old run."""
    spelled_out = {"model": {"d_model": 8}, "seed": 0, "optim": {"hidden": {"lr": 0.02}}}
    assert identity.short_hash(spelled_out) == "0dc79be5"


def test_a_budget_on_the_command_line_replaces_the_files_and_two_are_an_error() -> None:
    assert plan("train.epochs=2").config["train"]["steps"] is None
    assert plan("experiment=mini_gpt").config["train"]["epochs"] == 3
    assert plan("experiment=mini_gpt", "train.steps=7").config["train"]["epochs"] is None
    with pytest.raises(
        ConfigError,
        match=r"train\.tokens=5 and train\.steps=7",
    ):
        plan("train.steps=7", "train.tokens=5")
    with pytest.raises(ConfigError, match="exactly one"):
        plan("train.steps=null")


def lrs(found: Plan) -> list[float]:
    with torch.device("meta"):
        model = build(found.config["model"], 300)
        return [group["lr"] for group in build_optimizer(found.config["optim"], model).param_groups]


@pytest.mark.parametrize("scale", [0.35, 0.1, 1.1, 3.0, 0.7])
@pytest.mark.parametrize("optim", ["muon", "adamw"])
def test_lr_scale_and_the_lr_it_makes_train_with_the_same_lr(optim: str, scale: float) -> None:
    """To the bit: a product taken twice would differ in its last digit."""

    node = plan(f"optim={optim}").config["optim"]
    given = {"optim.lr": node["hidden"]["lr"], "optim.adamw_lr": node["embed"]["lr"]}
    typed = [f"{key}={float(f'{lr * scale:.12g}')}" for key, lr in given.items()]
    scaled = plan(f"optim={optim}", f"optim.lr_scale={scale}")
    written_out = plan(f"optim={optim}", *typed)
    assert scaled.id == written_out.id
    assert lrs(scaled) == lrs(written_out)


GROUPS = [
    "model",
    "model/attention",
    "model/mlp",
    "optim",
    "schedule",
    "probe",
    "experiment",
    "debug",
]
PRESETS = [
    f"{group}={path.stem}"
    for group in GROUPS
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
    tokens, steps = plan("train.tokens=614_000"), plan("train.steps=150")
    assert (tokens.id, tokens.config) == (steps.id, steps.config)
    assert "rounded up to 150 steps" in str(tokens.rounding)
    assert steps.rounding is None


def test_an_arm_may_have_a_third_shared_scalar(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    preset = "defaults: [muon, _self_]\nhead_lr: 0.003\nhead: {lr: '${optim.head_lr}'}\n"
    (tmp_path / "optim" / "three.yaml").write_text(preset)

    three = partial(plan, "optim=three", config_dir=str(tmp_path))
    found = three("optim.head_lr=0.004")
    assert "head_lr" not in found.identity["optim"]
    assert found.identity["optim"]["head"]["lr"] == 0.004
    assert found.id == plan("optim=muon", "optim.head.lr=0.004").id != three().id
    assert 0.004 in lrs(found)
