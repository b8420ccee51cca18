"""docs/extending.md from a folder outside of the repository: an optimizer, a part, a metric, a data
set and a logger of the reader's own, in one run. Code and command are those of the page."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import ROOT, SMALL, Shell

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILE = re.compile(r"^ {4}# lab/(\S+)\n((?:(?! {4}# lab/)(?: {4}.*)?\n)*)", re.MULTILINE)
# small, but not debug=smoke, which has a corpus and a logger of its own
SMALL_BUT_DATA = [word for word in SMALL if not word.startswith("debug=")]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder lab/ of the page, and the reader beside it."""
    for place, lines in FILE.findall(PAGE):
        path = tmp_path / "lab" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"^ {4}", "", lines, flags=re.MULTILINE))
    (tmp_path / "lab" / "mylab" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "lab")
    forget_mylab()  # other tests have one, too
    yield tmp_path / "lab"
    forget_mylab()


def forget_mylab() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]


def typed(script: str) -> list[str]:
    """What the page types behind a script."""
    command = re.search(rf"^ {{4}}.*python {script}\.py ((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    assert command is not None
    return shlex.split(command[1].replace("\\\n", " "))


def test_five_parts_of_ones_own_make_one_run(lab: Path, shell: Shell) -> None:
    kinds = {path.relative_to(lab / "conf").parent.as_posix() for path in lab.rglob("*.yaml")}
    assert kinds == {"optim", "model/mlp", "model", "data", "logger"}
    own = [*SMALL_BUT_DATA, "model.n_layers=2", "eval.tokens=512", "optim.hidden.momentum=0.8"]
    assert shell("train", *typed("train"), *own) == 0, shell.err
    folder = shell.run_folder()
    run, summary = (json.loads((folder / f"{x}.json").read_text()) for x in ("run", "summary"))
    choices = ("normalised_sgd", "gelu", "measured", "sums")
    assert [word for word in choices if word not in run["choices"].values()] == []
    assert 0 < summary["val_misses"] < 1
    *_, (_, loss) = map(
        str.split, (shell.folder / "outputs" / "table.txt").read_text().splitlines()
    )
    assert float(loss) == summary["val_loss"], "the last line of the logger"
    assert shell("generate", *typed("generate"), "max_new_tokens=4") == 0, shell.err
