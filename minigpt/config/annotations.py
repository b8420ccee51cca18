"""Values against the annotations of constructors, as syntax trees."""

import ast
from typing import Any

_KINDS: dict[str, tuple[str, Any]] = {  # name -> in words, the types that fit
    "int": ("an integer", int),
    "float": ("a number", int | float),
    "bool": ("true or false", bool),
    "str": ("text", str),
    "None": ("null", type(None)),
    "list": ("a list", list | tuple),
    "dict": ("a mapping", dict),
}
_LISTS = ("list", "List", "tuple", "Tuple", "Sequence")


def type_problem(value: Any, annotation: ast.expr | None) -> str | None:
    """What an annotation expects ("an integer") of a value that does not fit; None if it fits.

    An annotation that is not understood fits everything.
    """
    if annotation is not None and _is_part(annotation):
        fits = value is None or (isinstance(value, dict) and "_target_" in value)
        return None if fits else "a choice of its own, or a mapping with _target_"
    expected = _alternatives(annotation)
    if expected is None:
        return None
    if not _fits(value, expected):
        return _in_words(expected)
    return _item_problem(value, annotation) if isinstance(value, list) else None


def canonical_number(value: Any, annotation: ast.expr | None) -> Any:
    """An integer where only a float is meant, as that float: 1 and 1.0 are one configuration."""
    expected = _alternatives(annotation) or []
    wants_float = "float" in expected and "int" not in expected
    return float(value) if wants_float and _fits(value, ["int"]) else value


def _is_part(annotation: ast.expr) -> bool:
    """Whether a configuration builds the argument: a part of a model, the optimizer of a role."""
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return bool(names & {"Callable", "BuildOptimizer"})


def _item_problem(value: list[Any], annotation: ast.expr | None) -> str | None:
    """What the items of a list should be, if one of them is not."""
    for part in ast.walk(annotation) if annotation is not None else ():
        if isinstance(part, ast.Subscript) and (outer := ast.unparse(part.value)) in _LISTS:
            kinds = [kind for kind in _inside(part) if not isinstance(kind, ast.Constant)]
            fixed = outer in ("tuple", "Tuple") and len(kinds) == len(_inside(part))
            if fixed and len(value) != len(kinds):
                return f"a list of {len(kinds)}"
            expected = _union(kinds)
            if expected and not all(_fits(item, expected) for item in value):
                return f"a list, each item {_in_words(expected)}"
    return None


def _alternatives(annotation: ast.expr | None) -> list[str] | None:
    """An annotation as names out of _KINDS and quoted literals; None if a part is unknown."""
    match annotation:
        case ast.BinOp(op=ast.BitOr()):
            return _union([annotation.left, annotation.right])
        case ast.Constant(value=None):
            return ["None"]
        case ast.Constant(value=str(text)):
            return _alternatives(ast.parse(text, mode="eval").body)
        case ast.Name(id=name) if name in _KINDS:
            return [name]
        case ast.Subscript():
            outer = ast.unparse(annotation.value).rpartition(".")[2]
            if outer == "Literal":
                return [ast.unparse(item) for item in _inside(annotation)]
            if outer in ("Optional", "Union"):
                union = _union(_inside(annotation))
                return union and union + (["None"] if outer == "Optional" else [])
            if outer in _LISTS:
                return ["list"]
            if outer in ("dict", "Dict", "Mapping"):
                return ["dict"]
    return None


def _inside(annotation: ast.Subscript) -> list[ast.expr]:
    inner = annotation.slice
    return inner.elts if isinstance(inner, ast.Tuple) else [inner]


def _union(members: list[ast.expr]) -> list[str] | None:
    """The alternatives of all members but tensors, which no YAML value can be."""
    parts = [_alternatives(m) for m in members if ast.unparse(m) not in ("Tensor", "torch.Tensor")]
    if any(part is None for part in parts):
        return None
    return [name for part in parts if part for name in part]


def _fits(value: Any, expected: list[str]) -> bool:
    if isinstance(value, bool):  # which Python counts as an integer
        return "bool" in expected or repr(value) in expected
    kinds = [_KINDS[name][1] for name in expected if name in _KINDS]
    return any(isinstance(value, kind) for kind in kinds) or repr(value) in expected


def _in_words(expected: list[str]) -> str:
    words = (_KINDS[name][0] if name in _KINDS else name for name in expected)
    return " or ".join(dict.fromkeys(words))
