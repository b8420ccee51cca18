"""A declared study by code: its revisions resolved, its experiment spelled out for each checkout.

A commit need not have the experiment's file, so its values travel as overrides.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from minigpt.cli.overrides import options_of, quote
from minigpt.config.composed import take_apart
from minigpt.config.identity import differences, flatten
from minigpt.errors import ConfigError
from minigpt.study import checkouts
from minigpt.study.elsewhere import ElsewherePlanner
from minigpt.study.journal import read_declaration, study_folder

CODE = "code"  # the value of verdict.by


def resolved(cfg: DictConfig, study: str | None, node: dict[str, Any]) -> dict[str, Any]:
    """The `verdict` node with each arm's commit and digest. Raises ConfigError."""
    output = Path(cfg.output_dir).expanduser()
    known = None if study is None else read_declaration(study_folder(output, study))
    before = known[0].node if known is not None and known[0].by == CODE else {"arms": {}}
    return node | {"arms": checkouts.resolve(node["arms"], before["arms"], output)}


def planner(
    cfg: DictConfig, arms: dict[str, Any], shared: Sequence[str], config_dir: str | None
) -> ElsewherePlanner:
    """What plans the runs of each arm by its own code. A dry run leaves no checkouts."""
    output = Path(cfg.output_dir).expanduser()
    codes = {arm: checkouts.code_of(node) for arm, node in arms.items()}
    home = output / CODE
    passing = None
    if cfg.dry_run:
        passing = tempfile.TemporaryDirectory()
        home = Path(passing.name)
    folders = {c.digest: checkouts.checkout(home, c, output) for c in codes.values()}
    return ElsewherePlanner(codes, folders, shared, config_dir, passing)


def spelled_out(
    cfg: DictConfig,
    typed: Sequence[str],
    study: str,
    folders: Sequence[Path],
    compose: Callable[[list[str]], DictConfig],
) -> list[str]:
    """Overrides without `experiment=` that compose to the same, but for what is declared.

    folders: where groups are. Raises ConfigError for an experiment that cannot be spelled out.
    """
    keys = {override.lstrip("+~").partition("=")[0] for override in typed}
    name = take_apart(cfg).choices.get("experiment")
    path = options_of("experiment", list(folders)).get(name or "")
    content: Any = {} if path is None else OmegaConf.to_container(OmegaConf.load(path))
    chosen = [item for item in content.pop("defaults", []) if isinstance(item, dict)]
    groups = {
        key.removeprefix("override ").lstrip("/"): str(option)
        for item in chosen
        for key, option in item.items()
    }
    values = {
        key: _text(value)
        for top, node in content.items()
        if top not in ("verdict", "hydra", "study")
        for key, value in flatten(node, top).items()
    }
    found = [f"{key}={text}" for key, text in (groups | values).items() if key not in keys]
    rest = [one for one in typed if one.partition("=")[0] not in ("experiment", "study")]
    found += [*rest, f"study={quote(study)}"]
    changed = differences(_plain(cfg), _plain(compose(found)))
    if changed:
        shown = "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in changed.items())
        raise ConfigError(
            f"cannot be spelled out: experiment={name}: {shown} (with verdict.by=code it may "
            "choose options and set values, and debug= has no place)"
        )
    return found


def _plain(cfg: DictConfig) -> dict[str, Any]:
    node: Any = OmegaConf.to_container(take_apart(cfg).own)
    return {key: value for key, value in node.items() if key not in ("verdict", "study")}


def _text(value: Any) -> str:
    """A value in Hydra's grammar; a reference stays one."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, str):
        return quote(value).replace("\\${", "${")
    return "null" if value is None else str(value).lower()
