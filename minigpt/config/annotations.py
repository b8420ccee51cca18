"""Values against the annotations of constructors, as syntax trees."""

import ast
from typing import Any


def type_problem(value: Any, annotation: ast.expr | None) -> str | None:
    """What an annotation expects ("an integer") of a value that does not fit; None if it fits.

    An annotation that is not understood fits everything.
    """
    if annotation is not None and _is_part(annotation):
        fits = value is None or (isinstance(value, dict) and "_target_" in value)
        return None if fits else "a choice of its own, or a mapping with _target_"
    expected = _alternatives(annotation)
    if expected is None or any(_fits(value, name) for name in expected):
        return _item_problem(value, annotation) if expected and isinstance(value, list) else None
    return _in_words(expected)


def _is_part(annotation: ast.expr) -> bool:
    """Whether a configuration builds the argument: a part of a model, the optimizer of a role."""
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return bool(names & {"Callable", "BuildOptimizer"})


def _item_problem(value: list[Any], annotation: ast.expr | None) -> str | None:
    """What the items of a list should be, if one of them is not."""
    lists = ("list", "tuple", "Sequence")
    for part in ast.walk(annotation) if annotation is not None else ():
        if isinstance(part, ast.Subscript) and ast.unparse(part.value) in lists:
            kinds = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
            expected = _union([kind for kind in kinds if not isinstance(kind, ast.Constant)])
            if expected and not all(any(_fits(item, name) for name in expected) for item in value):
                return f"a list, each item {_in_words(expected)}"
    return None


def _in_words(names: list[str]) -> str:
    return " or ".join(dict.fromkeys(_WORDS.get(name, name) for name in names))


def canonical_number(value: Any, annotation: ast.expr | None) -> Any:
    """An integer where only a float is meant, as that float: 1 and 1.0 are one configuration."""
    expected = _alternatives(annotation)
    wants_float = expected is not None and "float" in expected and "int" not in expected
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if wants_float and is_integer else value


_WORDS = {
    "int": "an integer", "float": "a number", "bool": "true or false",
    "str": "text", "None": "null", "list": "a list", "dict": "a mapping",
}  # fmt: skip


def _alternatives(annotation: ast.expr | None) -> list[str] | None:
    """An annotation as names out of _WORDS and quoted literals; None if a part is unknown."""
    if annotation is None:
        return None
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _union([annotation.left, annotation.right])
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return ["None"]
        if isinstance(annotation.value, str):
            return _alternatives(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Name) and annotation.id in _WORDS:
        return [annotation.id]
    if isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value).rpartition(".")[2]
        inner = (
            annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        )
        if outer == "Literal":
            return [ast.unparse(item) for item in inner]
        if outer in ("Optional", "Union"):
            union = _union(inner)
            return union and union + (["None"] if outer == "Optional" else [])
        if outer in ("list", "List", "tuple", "Tuple", "Sequence"):
            return ["list"]
        if outer in ("dict", "Dict", "Mapping"):
            return ["dict"]
    return None


def _union(members: list[ast.expr]) -> list[str] | None:
    """The alternatives of all members but tensors, which no YAML value can be."""
    parts = [_alternatives(m) for m in members if ast.unparse(m) not in ("Tensor", "torch.Tensor")]
    if any(part is None for part in parts):
        return None
    return [name for part in parts if part for name in part]


def _fits(value: Any, name: str) -> bool:
    match name:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "bool":
            return isinstance(value, bool)
        case "str":
            return isinstance(value, str)
        case "None":
            return value is None
        case "list":
            return isinstance(value, list | tuple)
        case "dict":
            return isinstance(value, dict)
        case literal:
            return repr(value) == literal
