"""The commands that an installation has: train.py and the others, as a shell finds them."""

import runpy
from collections.abc import Callable

from minigpt.config.places import CONF, IN_WHEEL


def _command(script: str) -> Callable[[], int]:
    def main() -> int:
        folder = CONF.parent / "scripts" if IN_WHEEL else CONF.parent
        code: int = runpy.run_path(str(folder / f"{script}.py"))["main"]()
        return code

    return main


train, generate, preprocess = map(_command, ("train", "generate", "preprocess"))
