"""minigpt: a lab bench for pretraining small GPTs. Importing it is cheap; torch comes with the
parts that need it.

    run = minigpt.train(["model=tiny", "train.steps=200"])    as train.py does it
    minigpt.runs("outputs")                                   rows for pandas.DataFrame
    minigpt.load(run["folder"]).generate("To be")             model, tokenizer, config
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.2.0"
FUNCTIONS = ("load", "runs", "train")  # of api.py


class _Package(ModuleType):
    """A package whose functions outlive the import of a module of the same name.

    `import minigpt.train.loop` would put the package `train` in the place of the function. Modules
    in there are reached by `from minigpt.train import loop`.
    """

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS:
            return getattr(import_module("minigpt.api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in FUNCTIONS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *FUNCTIONS]


sys.modules[__name__].__class__ = _Package
