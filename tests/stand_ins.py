"""Values for what a YAML leaves to its user ("???"), so that a new one is tested as it stands."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from minigpt.config import annotations, signature

CANDIDATES = ("x", 1, 0.5, True, ["x"], {})


def stand_in(target: str, name: str) -> Any:
    """A value that the argument `name` of the class `target` takes, by its annotation."""
    annotation = signature.read_signature(target).parameters[name].annotation
    for value in CANDIDATES:
        if annotations.type_problem(value, annotation) is None:
            return value
    raise AssertionError(
        f"{target}({name}=???): no stand-in for {signature.ast.unparse(annotation)} in {__file__}"
    )


def stand_ins(cfg: DictConfig) -> list[str]:
    """An override for every missing value of a composed configuration, Hydra's own left out."""
    overrides = []
    for key in sorted(OmegaConf.missing_keys(cfg)):
        if not key.startswith("hydra."):
            parent, _, name = key.rpartition(".")
            value = stand_in(OmegaConf.select(cfg, parent)["_target_"], name)
            overrides.append(f"{key}={value}".replace("'", ""))
    return overrides
