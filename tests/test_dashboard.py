"""The workspace of a study, as it would be sent; no network."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest
from runs import ROOT

from minigpt import dashboard


def walk(node: object) -> list[object]:
    if isinstance(node, dict):
        return [node, *(found for value in node.values() for found in walk(value))]
    if isinstance(node, list):
        return [found for value in node for found in walk(value)]
    return [node]


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    if importlib.util.find_spec("wandb_workspaces") is None:
        pytest.skip("wandb-workspaces is an optional extra")
    command = [sys.executable, "-m", "minigpt.dashboard", "--study", "a question", "--print"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def sections(printed: dict[str, Any]) -> dict[str, list[Any]]:
    """The panels of each section."""
    parts = printed["spec"]["section"]["panelBankConfig"]["sections"]
    return {part["name"]: part["panels"] for part in parts}


def test_the_specification_has_the_sections_the_axis_and_the_study(
    printed: dict[str, Any], sections: dict[str, list[Any]]
) -> None:
    assert printed["display_name"] == "minigpt: a question"
    section = printed["spec"]["section"]
    assert list(sections)[:4] == ["Curves", "Learning rate", "All settings", "Health"]
    for panel in [*sections["Curves"], *sections["Health"]]:
        assert panel["viewType"] == "Run History Line Plot"
        assert panel["config"]["xAxis"] == "tokens"
    assert [panel["config"]["metrics"] for panel in sections["Curves"]] == [
        [name] for name in dashboard.CURVES
    ]
    assert {panel["config"]["groupBy"] for panel in sections["Curves"]} == {"jobType"}
    assert section["settings"]["xAxis"] == "tokens"
    (runset,) = section["runSets"]
    assert [key["name"] for key in runset["grouping"]] == ["jobType"]
    nodes = [node for node in walk(runset["filters"]) if isinstance(node, dict)]
    assert [node["key"]["name"] for node in nodes if node.get("value") == "a question"] == ["group"]


def test_the_lr_sensitivity_and_the_parallel_coordinates_name_keys_that_runs_have(
    printed: dict[str, Any], sections: dict[str, list[Any]]
) -> None:
    first = sections["Learning rate"][0]
    assert first["viewType"] == "Scatter Plot"
    assert first["config"]["xAxis"] == "config:optim.value.lr"
    assert first["config"]["yAxis"] == "summary:val_loss"
    assert first["config"]["xAxisLogScale"] is True
    (coordinates,) = sections["All settings"]
    names = [column["accessor"] for column in coordinates["config"]["columns"]]
    assert "config:choices.value.optim" in names
    assert names[-1] == "summary:val_loss"
    from minigpt.cli import composition, process
    from minigpt.config import identity, schema
    from minigpt.config.plan import plan_of

    schema.register()
    process.register_resolvers()
    plan = plan_of(composition.compose("train", [], None, plan_of))
    keys = identity.flatten({**plan.config, "choices": plan.choices})
    assert {*dashboard.COORDINATES, *dashboard.COLUMNS, *dashboard.LRS} <= keys.keys()
    pinned = printed["spec"]["section"]["runSets"][0]["runFeed"]["columnPinned"]
    for key in ("choices.value.optim", "optim.value.hidden.lr", "seed.value"):
        assert f"config:{key}" in pinned


def test_without_the_package_or_a_key_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NETRC", "/nonexistent")
    assert dashboard.main(["--study", "s"]) == 2
    no_key = "error: no key: WANDB_API_KEY (set it, or see the specification with --print)\n"
    assert capsys.readouterr().err == no_key
    code = (
        "import sys\nsys.modules['wandb_workspaces'] = None\nfrom minigpt import dashboard\n"
        "sys.exit(dashboard.main(['--study', 's', '--print']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    missing = "error: missing package: wandb-workspaces (pip install wandb-workspaces)\n"
    assert done.stderr == missing
