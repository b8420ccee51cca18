"""Constructor signatures read from source, without importing what they belong to.

The schema of an open group is its class's constructor. Importing torch to learn one takes seconds,
so the syntax tree tells it. A dotted path is followed through packages, modules and re-exports to
the class. Its `__init__` (or that of a base class, or its dataclass fields) has the arguments.
`**kwargs` that an `__init__` hands to `super().__init__` are the arguments of the base class.
"""

import ast
import importlib
import importlib.util
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

REQUIRED = "<required>"
OPAQUE = "<not a literal>"
BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")  # where a statement has others


@dataclass(frozen=True)
class Parameter:
    """One constructor argument."""

    annotation: ast.expr | None  # None: anything goes
    default: Any  # a literal, REQUIRED or OPAQUE

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True)
class Signature:
    """The arguments of one constructor."""

    parameters: dict[str, Parameter]
    open: bool  # it takes **kwargs that no base class explains


@dataclass(frozen=True)
class Module:
    """A module that is parsed, not imported."""

    name: str
    path: Path
    tree: ast.Module

    @cached_property
    def names(self) -> dict[str, ast.stmt | ast.expr | str]:
        """What names mean: a definition, an assigned value, or the path of what was imported."""
        found: dict[str, ast.stmt | ast.expr | str] = {}
        for node in _statements(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found.setdefault(alias.asname or top, alias.name if alias.asname else top)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    path = f"{self.absolute(node)}.{alias.name}"
                    found.setdefault(alias.asname or alias.name, path)
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found[node.name] = node
            elif isinstance(node, ast.Assign):
                found |= {ast.unparse(target): node.value for target in node.targets}
        return found

    @property
    def stars(self) -> list[str]:
        """The modules that it imports all names from."""
        imports = [node for node in self.tree.body if isinstance(node, ast.ImportFrom)]
        return [self.absolute(node) for node in imports if node.names[0].name == "*"]

    def absolute(self, node: ast.ImportFrom) -> str:
        """The module that a `from ... import` names."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, the outermost first: imports are among them, and expressions are many."""
    level: list[ast.AST] = [tree]
    while level:
        blocks = [getattr(node, name, []) for node in level for name in BLOCKS]
        level = [node for block in blocks for node in block]
        yield from level


Found = tuple[Module, ast.ClassDef | ast.FunctionDef]


@cache
def read_signature(target: str) -> Signature:
    """The signature of the class or function that a dotted path names. Nothing is imported.

    Raises ModuleNotFoundError if the package is not installed, AttributeError if no source tells
    the signature.
    """
    signature = _CHOSEN.get(target) or _signature(_find(target))
    if signature is None:
        raise AttributeError(f"no source tells the arguments of {target}")
    return signature


def choose(target: str) -> Signature:
    """The signature of what a user's own configuration names: by import where no source tells it.

    From then on `read_signature` knows it too. Raises what importing it raises.
    """
    try:
        return read_signature(target)
    except AttributeError:
        return _CHOSEN.setdefault(target, _imported(target))


_CHOSEN: dict[str, Signature] = {}


@cache
def load_module(name: str) -> Module | None:
    """The source of a module, found without importing any of its parents; None if there is none."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    for part in rest:
        files = (path.parent / part / "__init__.py", path.parent / f"{part}.py")
        found = next((file for file in files if os.path.isfile(file)), None)
        if path.name != "__init__.py" or found is None:
            return None
        path = found
    return Module(name, path, ast.parse(path.read_text(encoding="utf-8")))


def _find(target: str, depth: int = 0) -> Found | None:
    """The module and definition that a path names; None where only an import could tell."""
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ModuleNotFoundError(f"no module {target!r}", name=target)
    for cut in range(len(parts) - 1, 0, -1):
        if (module := load_module(".".join(parts[:cut]))) is not None:
            return _resolve(module, parts[-1], depth) if cut == len(parts) - 1 else None
    raise ModuleNotFoundError(f"no module {parts[0]!r}", name=parts[0])


def _resolve(module: Module, name: str, depth: int = 0) -> Found | None:
    """What a name, dotted or not, means inside a module."""
    if depth > 8:
        return None
    head, dot, rest = name.partition(".")
    match module.names.get(head):
        case ast.ClassDef() | ast.FunctionDef() as node:
            return None if rest else (module, node)
        case str(path):
            return _find(f"{path}{dot}{rest}", depth + 1)
        case ast.Name() | ast.Attribute() as alias:
            return _resolve(module, f"{ast.unparse(alias)}{dot}{rest}", depth + 1)
        case None:
            found = (_find(f"{star}.{name}", depth + 1) for star in module.stars)
            return next((one for one in found if one is not None), None)
    return None


def _signature(found: Found | None) -> Signature | None:
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.FunctionDef):
        return _of_arguments(node.args)
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    initialisers = [method for method in methods if method.name == "__init__"]
    if initialisers:
        own = _of_arguments(initialisers[-1].args, skip=1)
        call = _handed_on(initialisers[-1])
        return own if call is None else _with_base(own, call, module, node)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Signature(_fields(module, node), open=False)
    if not node.bases:
        return Signature({}, open=False)
    inherited = (_signature(base) for base in _bases(module, node))
    return next((signature for signature in inherited if signature is not None), None)


def _bases(module: Module, node: ast.ClassDef) -> Iterator[Found]:
    """The base classes that source tells."""
    for base in node.bases:
        try:
            found = _resolve(module, ast.unparse(base))
        except ModuleNotFoundError:
            continue
        if found is not None:
            yield found


def _handed_on(initialiser: ast.FunctionDef) -> ast.Call | None:
    """The call `super().__init__(..., **kwargs)` that hands unknown arguments to the base."""
    rest = initialiser.args.kwarg
    for call in ast.walk(initialiser):
        if rest and isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
            unpacked = [ast.unparse(k.value) for k in call.keywords if k.arg is None]
            return call if unpacked == [rest.arg] else None
    return None


def _with_base(own: Signature, call: ast.Call, module: Module, node: ast.ClassDef) -> Signature:
    """Adds base-class parameters that `super().__init__` does not fix.

    Stays open if the base cannot be read. A base without arguments hands them on to the next.
    """
    given = {keyword.arg for keyword in call.keywords}
    for base in _bases(module, node):
        inherited = _signature(base)
        if inherited is not None and inherited.parameters:
            left = list(inherited.parameters.items())[len(call.args) :]
            added = {name: parameter for name, parameter in left if name not in given}
            return Signature(own.parameters | added | own.parameters, inherited.open)
    return own


def _of_arguments(arguments: ast.arguments, skip: int = 0) -> Signature:
    """skip: how many of the first are not for the caller, as `self` is not."""
    positional = [*arguments.posonlyargs, *arguments.args]
    without = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*without, *arguments.defaults]),
        *zip(arguments.kwonlyargs, arguments.kw_defaults),
    ]
    parameters = {a.arg: Parameter(a.annotation, _default(d)) for a, d in pairs[skip:]}
    return Signature(parameters, open=arguments.kwarg is not None)


def _fields(module: Module, node: ast.ClassDef) -> dict[str, Parameter]:
    """The fields of a dataclass, those of its bases first."""
    found: dict[str, Parameter] = {}
    for base_module, base in _bases(module, node):
        found |= _fields(base_module, base) if isinstance(base, ast.ClassDef) else {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found[item.target.id] = Parameter(item.annotation, _default(item.value))
    return found


def _default(node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    try:
        return ast.literal_eval(node)
    except ValueError:
        return OPAQUE


def _imported(target: str) -> Signature:
    """The signature by import, for what has no readable source."""
    module_name, _, name = target.rpartition(".")
    found = inspect.signature(getattr(importlib.import_module(module_name), name))
    parameters = {
        p.name: Parameter(None, REQUIRED if p.default is p.empty else p.default)
        for p in found.parameters.values()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    is_open = any(p.kind is p.VAR_KEYWORD for p in found.parameters.values())
    return Signature(parameters, is_open)
