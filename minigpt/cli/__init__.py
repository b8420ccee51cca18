"""The command line: overrides, composition, explained errors. The only room that starts Hydra."""

from minigpt.cli.composition import compose
from minigpt.cli.entry import main
from minigpt.cli.overrides import CONF
from minigpt.cli.process import register_resolvers

__all__ = ["CONF", "compose", "main", "register_resolvers"]
