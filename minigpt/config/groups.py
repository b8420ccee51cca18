"""Open groups against the signatures of the classes that they name."""

import ast
from typing import Any

from minigpt.config import annotations, identity, signature
from minigpt.config.signature import Parameter
from minigpt.terminal import did_you_mean

# What code hands to a constructor, so that no configuration has to.
SUPPLIED = {"model": {"vocab_size"}, "optim": {"parameters"}, "probe": {"optimizer"}}
MOST_MISTYPED = 3  # more unknown keys than this were written for another class
HYDRA_KEYS = ("_target_", "_partial_")  # others would decide a result without being part of its id


def group_problems(group: str, node: Any) -> list[str]:
    """A line for each unknown key, wrong type and missing argument of an open group."""
    if not isinstance(node, dict) or "_target_" not in node:
        return [f"missing choice: {group}={node} (choose one, e.g. {group}=... ; see --help)"]
    if group == "data" and node.get("tokenizer", "") is None:
        return ["no choice: data.tokenizer=None (choose one: data/tokenizer=... ; see --help)"]
    extra = _arguments_of_prepare() if group == "data" else {}
    for name in identity.shared_scalars(group, node):
        extra[name] = Parameter(None, None)
    return _node_problems(group, node, SUPPLIED.get(group, set()), extra)


def _arguments_of_prepare() -> dict[str, Parameter]:
    """What the data group may say beside the arguments of its source."""
    known = signature.read_signature(identity.PREPARE).parameters
    given = ("corpus", "tokenizer", "folder", "wait")
    part, text = (ast.parse(kind, mode="eval").body for kind in ("Callable", "str | None"))
    return {name: parameter for name, parameter in known.items() if name not in given} | {
        "tokenizer": Parameter(part, signature.REQUIRED),
        "out": Parameter(text, None),
    }


def _node_problems(
    path: str, node: dict[str, Any], supplied: set[str], extra: dict[str, Parameter]
) -> list[str]:
    target = node["_target_"]
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return [f"no such class: {path}._target_={target!r} (the dotted path of a class)"]
    try:
        found = signature.choose(target)
    except ModuleNotFoundError as error:
        return [
            f"missing package: {path}._target_={target}: no module {error.name!r} "
            "(install it or add its folder to PYTHONPATH, with __init__.py inside; "
            "or check the spelling)"
        ]
    except (AttributeError, ImportError) as error:
        return [f"no such class: {path}._target_={target}: {error} (check the spelling)"]
    required = [name for name, parameter in found.parameters.items() if parameter.required]
    if path == "optim" and required[:1] == ["params"]:
        block = f"{{_target_: {target}, _partial_: true, lr: 0.01}}"
        return [
            f"an optimizer without roles: {path}._target_={target} (give it to a role: optim=adamw "
            f"'~optim.hidden' '+optim.hidden={block}', or in a YAML as conf/optim/sgd.yaml does)"
        ]
    # code hands over the rest: an optimizer's parameters, the sizes of a part of the model
    if node.get("_partial_"):
        supplied = supplied | set(required[:1] if path.startswith("optim") else required)
    parameters = found.parameters | extra
    known = {name: p for name, p in parameters.items() if name not in supplied}
    problems, unknown = [], []
    for key, value in node.items():
        if key == "_partial_" and not isinstance(value, bool):
            problems.append(f"wrong type: {path}.{key}={value!r} (expects true or false)")
        if key in known:
            problems += _value_problems(f"{path}.{key}", value, known[key])
        elif key not in HYDRA_KEYS and not found.open:
            unknown.append(key)
    if len(unknown) <= MOST_MISTYPED:
        problems += [f"unknown key: {path}.{key} {did_you_mean(key, known)}" for key in unknown]
    else:
        problems.append(
            f"keys of another class: {path}: {', '.join(unknown)}: {target} has "
            f"{', '.join(sorted(known)) or 'none'} (give it a YAML of its own in "
            f"conf/{path.partition('.')[0]}/, or take out each: '~{path}.{unknown[0]}')"
        )
    way_out = f"give it, e.g. {path}.{{}}=..."
    if path.startswith(("model.", "optim.")) and not node.get("_partial_"):
        way_out = f"+{path}._partial_=true lets code give it"
    return problems + [
        f"missing value: {path}.{name} ({way_out.format(name)})"
        for name, parameter in known.items()
        if parameter.required and name not in node
    ]


def _value_problems(path: str, value: Any, parameter: Parameter) -> list[str]:
    if isinstance(value, dict) and "_target_" in value:
        return _node_problems(path, value, set(), {})
    expected = annotations.type_problem(value, parameter.annotation)
    if expected is None:
        return []
    whole = isinstance(value, float) and value.is_integer() and expected.startswith("an integer")
    hint = "; write it without exponent" if whole else ""
    return [f"wrong type: {path}={value!r} (expects {expected}{hint})"]
