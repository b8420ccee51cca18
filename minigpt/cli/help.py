"""What --help shows: a page of the script, of a group of options, of an option, of a key."""

import json
import re
import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from minigpt.cli.explain import LAUNCHERS, broken
from minigpt.cli.overrides import groups_for, groups_of, options_of, unknown_choice
from minigpt.config.places import CONF, as_typed_here
from minigpt.errors import ConfigError
from minigpt.terminal import did_you_mean, escape_controls

WIDTH = 80  # columns of a page; the files that it quotes may have more


def help_of(
    typed: list[str], script: str, compose: Callable[[list[str]], DictConfig], folders: list[Path]
) -> str:
    """The page of each group, option or key that is typed, else that of the script.

    Its values are those that the other overrides compose to. folders: where groups are.
    Raises ConfigError for what is not there.
    """
    groups = groups_of(folders)
    topics = [each for each in typed if "=" not in each or _parts(each)[0] in groups]
    cfg = compose([each for each in typed if each not in topics])
    choices = {str(group): option or "none" for group, option in cfg.hydra.runtime.choices.items()}
    options = {group: options_of(group, folders) for group in sorted(groups_for(cfg, folders))}
    if not topics:
        return as_typed_here(_script(cfg, options, choices))
    pages = [_page(topic, script, options, choices, folders) for topic in topics]
    return escape_controls(as_typed_here("\n\n".join(pages)))


def first_sentence(path: Path) -> str:
    """What an option is for: the beginning of the comment on top of its file."""
    try:
        header, _ = _read(path)
    except OSError as error:
        return f"(cannot be read: {error.strerror})"
    paragraph = " ".join(re.split(r"\n(?:\n|  )", header, maxsplit=1)[0].split())
    return re.split(r"(?<=[.?!]) (?=[A-Z]|arXiv)", paragraph, maxsplit=1)[0]


def _script(cfg: DictConfig, options: dict[str, dict[str, Path]], choices: dict[str, str]) -> str:
    """hydra.help.template with the choices for $CHOICES and the value of each $key."""
    values = OmegaConf.to_container(cfg, resolve=False)

    def block(found: re.Match[str]) -> str:
        lines = (line[1:].partition(" ") for line in found[0].splitlines())
        rows = [(_value(values, key), text.strip()) for key, _, text in lines]
        return "\n".join(_columns([(value, text) for value, text in rows if value])) + "\n"

    rows = []
    for group, found in options.items():
        names = {*found, *_of_packages(group, choices)}
        in_order = sorted(names, key=lambda name: (name != choices.get(group), name))
        rows.append((group, ", ".join(in_order)))
    page = re.sub(r"(?m)(?:^\$[\w.]+ .*\n)+", block, cfg.hydra.help.template)
    return page.replace("$CHOICES", "\n".join(_columns(rows, most=5)))


def _of_packages(group: str, choices: dict[str, str]) -> set[str]:
    """Options that have no file in a folder of ours or the user's."""
    if group == "hydra/launcher":
        return {choices[group], *LAUNCHERS}
    return {choices[group]} if group.startswith("hydra/") else set()


def _value(tree: Any, key: str) -> str | None:
    """`key=value`, a long value cut short; None if there is no such key."""
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return None
        tree = tree[part]
    text = tree if tree and isinstance(tree, str) else json.dumps(tree)
    return f"{key}={text if len(text) <= 20 else text[:17] + '...'}"


def _columns(rows: Sequence[tuple[str, str]], most: int | None = None) -> list[str]:
    """Names and what is said of each, side by side. most: lines that one may take."""
    left = max((len(name) for name, _ in rows), default=0)
    lines = []
    for name, text in rows:
        right = textwrap.wrap(
            text, max(WIDTH - left - 4, 20), max_lines=most, placeholder=" ...",
            break_on_hyphens=False, break_long_words=False,
        )  # fmt: skip
        for cell, line in zip_longest([name], right, fillvalue=""):
            lines.append(f"  {cell:{left}}  {line}".rstrip())
    return lines


def _parts(topic: str) -> tuple[str, str]:
    """Group and options, which are empty where none is typed."""
    group, _, options = topic.lstrip("+").partition("=")
    return group.partition("@")[0], options.strip("[]")


def _page(
    topic: str,
    script: str,
    options: dict[str, dict[str, Path]],
    choices: dict[str, str],
    folders: list[Path],
) -> str:
    group, chosen = _parts(topic)
    if group in options and not chosen:
        return _group(group, script, options, choices)
    if group in options:
        names = [name.strip() for name in chosen.split(",")]
        for name in names:
            if name not in options[group]:
                others = _of_packages(group, choices)
                if name in others:
                    typed = f"python {script}.py {group}={name} --cfg hydra"
                    raise ConfigError(f"of a package: {group}={name} (its keys: {typed})")
                raise ConfigError(unknown_choice(topic, name, {*options[group], *others}))
        return "\n\n".join(_option(group, options[group][name], folders) for name in names)
    text = (CONF / f"{script}.yaml").read_text(encoding="utf-8")
    key = re.search(rf"(?m)^(?:#.*\n)*{re.escape(topic.partition('.')[0])}:.*\n(?: .*\n)*", text)
    if key is None or topic in ("defaults", "hydra"):
        keys = [name for name in re.findall(r"(?m)^(\w+):", text) if name not in options]
        near = did_you_mean(topic, {*options, *keys} - {"defaults", "hydra"})
        raise ConfigError(f"unknown group: {topic} {near}")
    return f"conf/{script}.yaml\n\n{key[0].rstrip()}"


def _group(
    group: str, script: str, options: dict[str, dict[str, Path]], choices: dict[str, str]
) -> str:
    found = options[group]
    lines = [f"{group}=<option>: without it {choices.get(group, 'none')}", ""]
    rows = dict.fromkeys(_of_packages(group, choices), "(of a package)")
    rows |= {name: first_sentence(path) for name, path in found.items()}
    lines += _columns(sorted(rows.items()))
    # one with keys, the default if it has some
    example = min(found, key=lambda name: (name == "none", name != choices.get(group), name))
    lines += ["", f"The keys of one:  python {script}.py --help {group}={example}"]
    if parts := [name for name in options if name.startswith(f"{group}/")]:
        lines += [f"Its parts:        --help {' '.join(parts)}"]
    return "\n".join(lines)


def _option(group: str, path: Path, folders: list[Path]) -> str:
    """The file of an option, and those of its group that it builds upon."""
    files = [path]
    for file in files:
        if problem := broken(file):
            raise ConfigError(problem)
        defaults = OmegaConf.to_container(OmegaConf.load(file), resolve=False).get("defaults")  # type: ignore[union-attr]
        for name in defaults if isinstance(defaults, list) else []:
            below = (folder / group / f"{name}.yaml" for folder in folders)
            base = next((path for path in below if path.is_file()), None)
            if base is not None and base not in files:
                files.append(base)
    place = re.search(r"(?m)^# *@package +(\S+)", path.read_text(errors="replace"))
    package = place[1] if place else group.replace("/", ".")
    prefix = "" if package == "_global_" else f"{package}."
    pages = []
    for number, file in enumerate(files):
        header, keys = _read(file)
        name = file.relative_to(CONF.parent) if file.is_relative_to(CONF) else file
        says = f"Keys ({prefix}<key>=<value>, a dot between levels)"
        says = says if number == 0 else "Its keys hold where those above say nothing else"
        pages.append(f"{name}\n\n{textwrap.indent(header, '  ')}\n\n{says}\n\n{keys}".rstrip())
    return "\n\n".join(pages)


def _read(path: Path) -> tuple[str, str]:
    """The comment on top of a file without its signs, and the keys below it."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    end = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header = [line[1:].removeprefix(" ") for line in lines[:end] if "@package" not in line]
    return "\n".join(header).strip(), "\n".join(lines[end:]).strip()
