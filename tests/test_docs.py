"""README.md, docs/ and the headers of conf/: links lead somewhere, commands are understood."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from runs import ROOT

from minigpt.cli import composition, overrides, process
from minigpt.config import schema
from minigpt.errors import ConfigError

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = ("train", "generate", "preprocess")
NOT_OURS = ("train.batchsize=3", "lab/conf")  # shown to be refused; with files of the reader


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands() -> list[str]:
    """Indented lines that start a program of ours, each once, without its comment."""
    found = []
    for path in (ROOT / "conf").rglob("*.yaml"):
        text = re.sub(r" \\\n# +", " ", path.read_text())
        found += re.findall(r"^# {2,}((?:python|sbatch) .+?)(?: {3}.*)?$", text, re.MULTILINE)
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        lines = re.findall(r"^ {4}((?:python|torchrun|sbatch) .*)$", text, re.MULTILINE)
        spans = re.findall(r"`(?:PYTHONPATH=lab )?(python [^`]+)`", text)
        found += [" ".join(line.split()) for line in [*lines, *spans]]
    return [c for c in dict.fromkeys(found) if not any(words in c for words in NOT_OURS)]


def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {link}"
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in map(slug, headings), f"{page.name}: {link}"


def test_readme_names_every_page_and_is_short() -> None:
    readme = PAGES[0].read_text()
    assert len(readme.splitlines()) <= 150
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme] == []
    for page in PAGES:
        assert [line for line in page.read_text().splitlines() if len(line) > 100] == [], page


@pytest.fixture(scope="module")
def own_optimizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of options with the one that README adds."""
    block = re.search(r"^    # The sign.*?\n\n", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    folder = tmp_path_factory.mktemp("conf")
    (folder / "optim").mkdir()
    text = re.sub(r"^    ", "", block.group(), flags=re.MULTILINE)
    (folder / "optim" / "sign_sgd.yaml").write_text(text)
    return folder


def test_the_optimizer_of_the_readme_steps(own_optimizer: Path) -> None:
    block = re.search(r"^    import torch\n.*?\n\n(?=\S)", PAGES[0].read_text(), re.M | re.S)
    assert block is not None
    names: dict[str, Any] = {}
    exec(re.sub(r"^    ", "", block.group(), flags=re.M), names)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([3.0, -4.0])
    names["SignSGD"]([weight], lr=0.5).step()
    assert weight.tolist() == [0.5, 1.5]
    preset = yaml.safe_load((own_optimizer / "optim" / "sign_sgd.yaml").read_text())
    assert preset["hidden"]["_target_"] == "minigpt.optim.sign_sgd.SignSGD"


def test_every_command_is_understood(own_optimizer: Path) -> None:
    """By names of modules, options and keys; what none of these tells is composed."""
    schema.register()
    process.register_resolvers()
    folders = composition.groups_in(str(own_optimizer), [])
    usual = {name: composition.compose(name, [], None, lambda _: None) for name in SCRIPTS}

    def understood(words: list[str]) -> bool:
        if "-m" in words[:2]:
            return find_spec(words[2]) is not None
        script = next(word for word in words[1:] if not word.startswith("-"))
        name = Path(script).stem
        if name not in SCRIPTS:
            return (ROOT / script).is_file()
        typed = [word for word in words if re.match(r"[+a-z][\w./@]*=", word)]
        if all(is_known(word, usual[name], folders) for word in typed):
            return True
        typed = [overrides.first_value(overrides.protect(word, "-m" in words)) for word in typed]
        typed = composition.each_logger(typed, None)
        composition.compose(name, typed, str(own_optimizer), lambda _: None)
        return True

    wrong = {}
    for command in commands():
        try:
            if not understood(shlex.split(command, comments=True)):
                wrong[command] = "no such file or module"
        except ConfigError as error:
            wrong[command] = str(error)
    assert wrong == {}
    assert len(commands()) > 60


def is_known(typed: str, usual: DictConfig, folders: list[Path]) -> bool:
    """Whether there is such an option, or such a key in what is usual or in a file of its group."""
    key, _, value = typed.partition("=")
    if options := overrides.options_of(key, folders):
        return all(option in options for option in value.split(","))
    if OmegaConf.select(usual, key, default=...) is not ...:
        return True
    group, _, name = key.partition(".")
    files = overrides.options_of(group, folders).values()
    return any(re.search(rf"^{name}:", path.read_text(), re.MULTILINE) for path in files)
