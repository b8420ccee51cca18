"""Constructor signatures read from source, without importing what they belong to.

The schema of an open configuration group is its class's constructor. Importing torch to learn one
takes seconds, so signatures are read from the syntax tree. A dotted path is followed through
packages, modules and re-exports to the class. Its `__init__` (or that of a base class, or its
dataclass fields) has the arguments. `**kwargs` that an `__init__` hands to `super().__init__` are
the arguments of the base class.
"""

import ast
import importlib
import importlib.util
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REQUIRED = "<required>"
OPAQUE = "<not a literal>"


@dataclass(frozen=True)
class Parameter:
    """One constructor argument.

    annotation: a syntax tree; None: anything goes.  default: a literal, REQUIRED or OPAQUE.
    """

    name: str
    annotation: ast.expr | None
    default: Any

    @property
    def required(self) -> bool:
        return isinstance(self.default, str) and self.default is REQUIRED


@dataclass(frozen=True)
class Signature:
    """The arguments of one constructor; `open` if it takes **kwargs that no base class explains."""

    target: str
    parameters: dict[str, Parameter]
    open: bool


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@cache
def read_signature(target: str) -> Signature:
    """The signature of the class or function that a dotted path names, also if a file says so:
    nothing is imported.

    Raises ModuleNotFoundError if the package is not installed, AttributeError if no source tells
    the signature.
    """
    found = _find(target)
    signature = _CHOSEN.get(target) or (_of(*found, target) if found is not None else None)
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


def _find(target: str, depth: int = 0) -> tuple[Module, ast.ClassDef | ast.FunctionDef] | None:
    """The module and definition that `target` names; None where only an import could tell."""
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ModuleNotFoundError(f"no module {target!r}", name=target)
    for cut in range(len(parts) - 1, 0, -1):
        module = load_module(".".join(parts[:cut]))
        if module is not None:
            break
    else:
        raise ModuleNotFoundError(f"no module {parts[0]!r}", name=parts[0])
    if cut < len(parts) - 1 or depth > 8:
        return None
    name = parts[-1]
    for node in reversed(module.tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and name in [
            ast.unparse(target) for target in node.targets
        ]:
            return _resolve(module, ast.unparse(node.value), depth + 1)
    for statement in ast.walk(module.tree):
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return _find(f"{_absolute(module, statement)}.{alias.name}", depth + 1)
    stars = (
        s for s in module.tree.body if isinstance(s, ast.ImportFrom) and s.names[0].name == "*"
    )
    found = (_find(f"{_absolute(module, star)}.{name}", depth + 1) for star in stars)
    return next((one for one in found if one is not None), None)


def _resolve(
    module: Module, name: str, depth: int = 0
) -> tuple[Module, ast.ClassDef | ast.FunctionDef] | None:
    """What a name means inside a module: a definition there or something imported."""
    head, _, rest = name.partition(".")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name) == head and rest:
                    return _find(f"{alias.name}.{rest}", depth + 1)
    return _find(f"{module.name}.{name}", depth + 1)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    base = module.package.split(".")
    base = base[: len(base) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


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
        if path.name != "__init__.py":
            return None
        folder = path.parent
        path = next(
            (p for p in (folder / part / "__init__.py", folder / f"{part}.py") if p.is_file()), path
        )
        if path.parent == folder and path.name != f"{part}.py":
            return None
    return Module(name, path, ast.parse(path.read_text(encoding="utf-8")))


def _of(module: Module, node: ast.ClassDef | ast.FunctionDef, target: str) -> Signature | None:
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, target, skip_self=False)
    initialisers = [
        item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    ]
    if initialisers:
        own = _of_function(initialisers[-1], target, skip_self=True)
        handed_on = _handed_on(initialisers[-1])
        return own if handed_on is None else _with_base(own, handed_on, module, node)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return _of_dataclass(module, node, target)
    for base in node.bases:
        found = _resolve(module, ast.unparse(base))
        signature = _of(*found, target) if found else None
        if signature is not None:
            return signature
    return None if node.bases else Signature(target, {}, open=False)


def _handed_on(initialiser: ast.FunctionDef) -> ast.Call | None:
    """The call `super().__init__(..., **kwargs)` that hands unknown arguments to the base."""
    rest = initialiser.args.kwarg
    if rest is None:
        return None
    for call in (node for node in ast.walk(initialiser) if isinstance(node, ast.Call)):
        unpacked = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
        if ast.unparse(call.func) == "super().__init__" and unpacked == [rest.arg]:
            return call
    return None


def _with_base(own: Signature, call: ast.Call, module: Module, node: ast.ClassDef) -> Signature:
    """Adds base-class parameters that `super().__init__` does not fix.

    Stays open if the base cannot be read.
    """
    given = {keyword.arg for keyword in call.keywords}
    for base in node.bases:
        try:
            found = _resolve(module, ast.unparse(base))
        except (ImportError, AttributeError):
            continue
        inherited = _of(*found, own.target) if found else None
        # one without a constructor hands it on to the next
        if inherited is not None and inherited.parameters:
            left = {
                name: p
                for name, p in list(inherited.parameters.items())[len(call.args) :]
                if name not in given
            }
            return Signature(own.target, own.parameters | left | own.parameters, inherited.open)
    return own


def _of_function(node: ast.FunctionDef, target: str, skip_self: bool) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(
        arguments.defaults
    )
    pairs = [*zip(positional, defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
    parameters = {
        a.arg: Parameter(a.arg, a.annotation, _default(d))
        for a, d in pairs[1 if skip_self else 0 :]
    }
    return Signature(target, parameters, open=arguments.kwarg is not None)


def _of_dataclass(module: Module, node: ast.ClassDef, target: str) -> Signature:
    parameters: dict[str, Parameter] = {}
    for base in node.bases:
        found = _resolve(module, ast.unparse(base))
        if found and isinstance(found[1], ast.ClassDef):
            parameters |= _of_dataclass(found[0], found[1], target).parameters
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            parameters[item.target.id] = Parameter(
                item.target.id, item.annotation, _default(item.value)
            )
    return Signature(target, parameters, open=False)


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
    found = getattr(importlib.import_module(module_name), name)
    parameters: dict[str, Parameter] = {}
    is_open = False
    for parameter in inspect.signature(found).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            default = REQUIRED if parameter.default is parameter.empty else parameter.default
            parameters[parameter.name] = Parameter(parameter.name, None, default)
    return Signature(target, parameters, is_open)
