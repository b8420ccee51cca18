"""Which code computes a run: a digest per source file, so that a change since can be named.

Only files that can change a result count: the classes that the configuration names, the loop and
the windows of a step, and whatever of minigpt they import. Comments, docstrings and layout do not
count, and neither does a new file that the run does not use, so adding an optimizer leaves old runs
as they are.
"""

import ast
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from minigpt.config import signature

COMPUTES = (
    "minigpt.train.loop",
    "minigpt.train.evaluate",
    "minigpt.data.windows",
    "minigpt.data.tokens",
)
# Imported by what computes, without a say in any number.
SILENT = {
    "minigpt.errors",
    "minigpt.files",
    "minigpt.files.durable",
    "minigpt.files.lock",
    "minigpt.interrupt",
    "minigpt.train.bar",
    "minigpt.train.clocks",
    "minigpt.train.run",
    "minigpt.files.reading",
    "minigpt.terminal",
    "minigpt",
}
SILENT |= {"minigpt.data.manifest", "minigpt.data.shape", "minigpt.data.aside"}


def source_digest(config: dict[str, Any]) -> dict[str, str]:
    """Module -> short digest, for every module that computes what this configuration describes."""
    pending = [*COMPUTES, *(target.rpartition(".")[0] for target in targets(config))]
    digests: dict[str, str] = {}
    while pending:
        name = pending.pop()
        if name in digests or name in SILENT:
            continue
        found = _digest_and_imports(name)
        if found is not None:
            digests[name], imports = found
            pending += imports
    return dict(sorted(digests.items()))


def changed_modules(record: dict[str, Any]) -> list[str]:
    """Modules that are not what they were, by the `source` of a run.json. What is not found here
    tells nothing.
    """
    return [
        name
        for name, digest in record["source"].items()
        if (now := _digest_of(name)) and now != digest
    ]


def _digest_of(name: str) -> str | None:
    """The digest of a module that a file names; None for what is not ours, which is not even
    read.
    """
    top = name.partition(".")[0]
    found = signature.load_module(top) if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) else None
    return (
        None
        if found is None or _is_installed(found.path)
        else (_digest_and_imports(name) or (None,))[0]
    )


def targets(node: Any) -> list[str]:
    """Every `_target_` in a configuration that computes: loggers and probes left out."""
    if isinstance(node, list):
        return [target for item in node for target in targets(item)]
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
    return own + [
        target
        for key, value in node.items()
        if key not in ("logger", "probe")
        for target in targets(value)
    ]


@cache
def _digest_and_imports(name: str) -> tuple[str, list[str]] | None:
    """Digest and imported minigpt modules of one module; None for installed packages, whose
    versions are recorded.
    """
    module = signature.load_module(name)
    if module is None or _is_installed(module.path):
        return None
    _files[name] = module.path, _changed_at(module.path)
    tree = _without_docstrings(module.tree)  # in place: nothing reads a docstring from it
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            imports += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
    return digest, [name for name in imports if name.startswith("minigpt.")]


# Of the modules whose digest was taken: file, and when it was last changed. None once confirmed.
_files: dict[str, tuple[Path, int]] = {}
_confirmed: list[bool] = []


def edited_since_digest() -> list[str]:
    """Modules that were edited between their digest and the first question; [] at any later one.

    Python imports a module once, soon after its digest was taken. An edit in between would make a
    run of one code bear the digest of another. Edits after the import change nothing that runs.
    """
    if _confirmed:
        return []
    _confirmed.append(True)
    return [name for name, (path, then) in _files.items() if _changed_at(path) != then]


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_installed(path: Path) -> bool:
    return "site-packages" in path.parts or path.is_relative_to(Path(ast.__file__).parent)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree
