"""Every YAML is found, composes, passes the check and builds; a new file needs no new test."""

from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from stand_ins import stand_ins

from minigpt.cli import composition, overrides, process
from minigpt.config import schema
from minigpt.config.build import build, check_built
from minigpt.config.plan import Plan, plan_of
from minigpt.errors import ConfigError, DataError

CONF = overrides.CONF
TRAIN_GROUPS = [
    "model",
    "optim",
    "schedule",
    "data",
    "logger",
    "probe",
    "experiment",
    "debug",
    "data/tokenizer",
    "model/mlp",
    "model/attention",
    "model/embedding",
    "hydra/launcher",
    "hydra/sweeper",
]


def options(group: str) -> list[str]:
    return sorted(
        path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_")
    )


CHOICES = [f"{group}={option}" for group in TRAIN_GROUPS for option in options(group)]


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    schema.register()
    process.register_resolvers()


def compose(*overrides: str) -> DictConfig:
    return composition.compose("train", list(overrides), None, plan_of)


def planned(*overrides: str) -> Plan:
    """The plan of a choice; values that it leaves to its user are made up by their type."""
    cfg = compose(*overrides)
    made_up = stand_ins(cfg)
    if not made_up:
        return plan_of(cfg)
    try:
        return plan_of(compose(*overrides, *made_up))
    except ConfigError as error:
        typed = " ".join(overrides)
        pytest.skip(f"{typed} cannot be tested with {' '.join(made_up)}, made up: {error}")


def test_discovery_finds_the_groups_there_are() -> None:
    groups = {path.parent.relative_to(CONF).as_posix() for path in CONF.glob("*/**/*.yaml")}
    assert groups == set(TRAIN_GROUPS), "a new group of options belongs into TRAIN_GROUPS"
    assert len(CHOICES) > 20


def test_values_left_to_the_user_are_made_up_by_their_type(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "defaults: [_base, tokenizer: byte, _self_]\n"
        "_target_: minigpt.data.copy_task.CopyTask\n"
        "n_documents: ???\nlength: 8\nn_letters: 16\nseed: 0\n"
    )
    made_up = stand_ins(compose("data=mine", f"hydra.searchpath=[file://{tmp_path}]"))
    assert made_up == ["data.n_documents=1"]
    assert stand_ins(compose("data=bin")) == ["data.train=x", "data.val=x"]
    assert stand_ins(compose("data=one_play")) == []


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_checks_and_builds(choice: str) -> None:
    import importlib.util

    if choice.startswith("hydra/launcher"):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    if choice == "logger=tensorboard":
        pytest.importorskip("tensorboard")
    plan = planned(choice)
    optim = (
        yaml.safe_load((CONF / f"{choice.replace('=', '/')}.yaml").read_text())
        if choice.startswith("optim=")
        else {}
    )
    target = str((optim.get("hidden") or {}).get("_target_", "minigpt."))
    if importlib.util.find_spec(target.partition(".")[0]) is None:
        pytest.skip(f"{target} is an optional extra")
    try:
        check_built(plan)
    except DataError as error:  # a path that was made up holds nothing
        if not stand_ins(compose(choice)):
            raise
        pytest.skip(f"{choice} cannot be built with made-up values: {error}")
    build(plan.config["logger"])


def test_what_is_not_made_for_its_place_is_refused_before_anything_begins() -> None:
    plan = planned("logger=none")
    plan.config["logger"] = {"_target_": "types.SimpleNamespace"}
    plan.config["optim"] = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
    plan.config["schedule"] = plan.config["logger"]
    with pytest.raises(ConfigError) as refused:
        check_built(plan)
    optim, logger, schedule = refused.value.problems
    assert schedule.startswith("not made for schedule: SimpleNamespace has no __call__ (")
    assert optim.startswith("not made for optim: ")
    assert "has no step, state_tree (give it as optim.hidden of ByRole: " in optim
    assert logger == (
        "not made for logger: SimpleNamespace has no start, log, finish "
        "(as in minigpt/logger/none.py)"
    )
    plan.config["model"] = {"_target_": "torch.nn.Embedding", "embedding_dim": 8}
    with pytest.raises(ConfigError, match="Embedding has no roles, init_weights, flops_per_token"):
        check_built(plan)


@pytest.mark.parametrize(
    "choice",
    [c for c in CHOICES if c.startswith(("model=", "data=", "data/tokenizer=", "experiment="))],
)
def test_smoke_shrinks_the_model_and_swaps_the_source_of_anything(choice: str) -> None:
    plan = planned("debug=smoke", choice)
    assert plan.config["data"]["plays"] == ["macbeth"]
    assert plan.config["model"]["d_model"] == 64
    check_built(plan)


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix()
)
def test_every_header_says_what_it_is_and_how_to_type_it(path: Path) -> None:
    header = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    header = [line for line in header if "@package" not in line]
    assert header, "no header"
    assert any(
        f"python {script}.py" in line
        for line in header
        for script in ("train", "generate", "preprocess")
    )


def test_muon_and_its_rival_differ_only_in_the_hidden_block_and_the_lr_it_reads() -> None:
    muon, adamw = (
        plan_of(compose(f"optim={arm}")).config["optim"] for arm in ("muon", "adamw_by_role")
    )
    assert {key for key in muon if muon[key] != adamw[key]} == {"hidden", "lr"}


def test_one_value_serves_all_roles_of_adamw() -> None:
    optim = plan_of(compose("optim=adamw", "optim.lr=0.001")).config["optim"]
    assert {optim[role]["lr"] for role in ("hidden", "embed", "head", "scalar")} == {0.001}


def test_a_job_is_composed_while_hydra_runs_others() -> None:
    """A study that tunes `schedule` composes its next jobs between two launches."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        running = GlobalHydra.instance().hydra
        assert compose("schedule=constant").schedule._target_.endswith("Constant")
        assert GlobalHydra.instance().hydra is running
