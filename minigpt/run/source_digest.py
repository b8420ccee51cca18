"""Which code computes a run: a digest per source file, so that a change since can be named.

Only files that can change a result count: the classes that the configuration names, the loop and
the windows of a step, and whatever they import of minigpt, or classes of your own of packages that
are not installed. Comments, docstrings and layout do not count. Neither does a new file that the
run does not use: adding an optimizer leaves old runs alone.
"""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from minigpt.config import signature
from minigpt.config.places import PACKAGE
from minigpt.terminal import few

CODE = "code changed: "  # before the file of a module, where changes are told
COMPUTES = (
    "minigpt.train.loop",
    "minigpt.train.batches",
    "minigpt.train.evaluate",
    "minigpt.train.progress",  # which gradient norms are spikes
    "minigpt.train.replicas",
    "minigpt.data.windows",
    "minigpt.data.tokens",
)
# Imported by what computes, without a say in any number.
SILENT = {
    "minigpt",
    "minigpt.errors",
    "minigpt.files",
    "minigpt.files.durable",
    "minigpt.files.lock",
    "minigpt.files.reading",
    "minigpt.files.shape",
    "minigpt.interrupt",
    "minigpt.terminal",
    "minigpt.train.bar",
    "minigpt.train.clocks",
    "minigpt.train.run",
    "minigpt.data.manifest",
    "minigpt.data.aside",
    "minigpt.data.unigram",
}
DOCUMENTED = {ast.Module, ast.ClassDef, ast.FunctionDef}


def source_digest(config: dict[str, Any]) -> dict[str, str]:
    """Module -> short digest, for every module that computes what this configuration describes."""
    pending = [*COMPUTES, *(target.rpartition(".")[0] for target in _targets(config))]
    digests: dict[str, str] = {}
    while pending:
        name = pending.pop()
        if name not in digests and name not in SILENT and (found := _digest_and_imports(name)):
            digests[name], imports = found
            pending += imports
    return dict(sorted(digests.items()))


def changed_modules(record: dict[str, Any]) -> list[str]:
    """Modules that are not what they were, by the `source` of a run.json.

    What is not found here tells nothing. What is not ours is not even read.
    """
    return [
        name
        for name, digest in record["source"].items()
        if _is_ours(name) and (now := _digest_and_imports(name)) and now[0] != digest
    ]


def in_short(changes: Sequence[str]) -> list[str]:
    """For people: all modules that changed on one line, of many the first."""
    code = [name for change in changes if (name := change.removeprefix(CODE)) != change]
    return [f"{CODE}{few(code)}"] * bool(code) + [c for c in changes if not c.startswith(CODE)]


def _is_ours(name: str) -> bool:
    """Whether a name out of a file is of a module whose package is not installed."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
        return False
    package = signature.load_module(name.partition(".")[0])
    return package is not None and not _is_installed(package.path)


def _targets(node: Any) -> list[str]:
    """Every `_target_` in a configuration that computes: loggers and probes left out."""
    if isinstance(node, list):
        return [target for item in node for target in _targets(item)]
    if not isinstance(node, dict):
        return []
    found = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
    for key, value in node.items():
        found += [] if key in ("logger", "probe") else _targets(value)
    return found


# Of the modules whose digest was just taken: file, and when it was last changed.
_files: dict[str, tuple[Path, int]] = {}


@cache
def _digest_and_imports(name: str) -> tuple[str, list[str]] | None:
    """Digest of one module, and the modules that it imports of minigpt and of packages beside it.

    None for installed packages, whose versions are recorded.
    """
    module = signature.load_module(name)
    if module is None or _is_installed(module.path):
        return None
    _files[name] = module.path, _changed_at(module.path)
    imports: list[str] = []
    digest = hashlib.sha256(_dump(module.tree, imports).encode()).hexdigest()[:16]
    package = name if module.path.name == "__init__.py" else name.rpartition(".")[0]
    if package:
        imports = [importlib.util.resolve_name(x, package) for x in imports]
    beside = not name.startswith("minigpt.")
    return digest, [
        x
        for x in imports
        if x.startswith("minigpt.") or (beside and _is_beside(x.partition(".")[0]))
    ]


@cache
def _is_beside(package: str) -> bool:
    """Whether a package is neither minigpt nor installed: somebody's own."""
    try:
        spec = importlib.util.find_spec(package) if package not in ("", "minigpt") else None
    except (ImportError, ValueError):
        return False
    if spec is None or not spec.has_location or spec.origin is None:
        return False
    return not _is_installed(Path(spec.origin))


def _dump(node: Any, imports: list[str]) -> str:
    """What `ast.dump` of Python 3.11 says of a tree without its docstrings; imports are added.

    One pass takes half the time of three: docstrings removed, imports found, `ast.dump`.
    """
    kind = type(node)
    if kind is list:
        return f"[{', '.join([_dump(item, imports) for item in node])}]"
    if not issubclass(kind, ast.AST):
        return repr(node)
    fields = node.__dict__
    if kind in DOCUMENTED and ast.get_docstring(node, clean=False) is not None:
        fields = fields | {"body": node.body[1:] or [ast.Pass()]}
    elif kind is ast.ImportFrom:
        base = "." * node.level + (node.module or "")
        inner = base if base.endswith(".") else f"{base}."
        imports += [base, *(f"{inner}{alias.name}" for alias in node.names)]
    elif kind is ast.Import:
        imports += [alias.name for alias in node.names]
    elif kind is ast.JoinedStr:  # Python 3.12 ends some with an empty string
        filled = [x for x in node.values if not (isinstance(x, ast.Constant) and x.value == "")]
        fields = fields | {"values": filled}
    parts = []
    for name in kind._fields:
        if name == "type_params" and not fields[name]:  # which Python 3.11 has not
            continue
        if (value := fields[name]) is not None or getattr(kind, name, ...) is not None:
            parts.append(f"{name}={_dump(value, imports)}")
    return f"{kind.__name__}({', '.join(parts)})"


def edited_since_digest() -> list[str]:
    """Modules that were edited since their digest was taken. Each is asked about once.

    Python imports a module once, soon after its digest was taken. An edit in between would make a
    run of one code bear the digest of another. Edits after the import change nothing that runs.
    """
    edited = [name for name, (path, then) in _files.items() if _changed_at(path) != then]
    _files.clear()
    return edited


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_installed(path: Path) -> bool:
    """Whether a file's version is recorded, or Python's; minigpt counts by its files, always."""
    installed = "site-packages" in path.parts or path.is_relative_to(Path(ast.__file__).parent)
    return installed and not path.is_relative_to(PACKAGE)
