"""YAML files whose aliases multiply: a few lines can stand for billions of values."""

from typing import Any, cast

import yaml

from minigpt.errors import ConfigError

MOST_REPEATED = 10_000  # values that aliases may add to those that are written out


def refuse_multiplying_aliases() -> None:
    """Make OmegaConf, and so Hydra, raise ConfigError for such a file instead of expanding it."""
    from omegaconf import _utils

    plain = _utils.get_yaml_loader
    if plain.__module__ == __name__:
        return

    def get_yaml_loader() -> Any:
        class Bounded(plain()):  # type: ignore[misc]
            def get_single_node(self) -> yaml.Node | None:
                node = cast(yaml.Node | None, super().get_single_node())
                sizes: dict[yaml.Node, int] = {}
                if node is not None and _size(node, sizes) - len(sizes) > MOST_REPEATED:
                    raise ConfigError(
                        f"configuration: {self.name}: aliases repeat more than "
                        f"{MOST_REPEATED:,} values (write fewer)"
                    )
                return node

        return Bounded

    _utils.get_yaml_loader = get_yaml_loader


def _size(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """How many values a node stands for, its aliases followed.

    sizes: what is known of other nodes; one that holds itself counts as 1, as OmegaConf refuses it.
    """
    if node not in sizes:
        sizes[node] = 1
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for item in below for part in (item if isinstance(item, tuple) else (item,))]
        sizes[node] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[node]
