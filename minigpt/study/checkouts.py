"""Arms that are code: commits, or the working tree as it stands, each in a folder of its own.

<output_dir>/code/<digest>/    a repository that borrows the objects of the one that is studied

Nothing is checked out or noted in that one. The digest is of what may change a result: tracked
files and new .py and .yaml files, without documents, tests and experiments.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import minigpt
from minigpt.errors import CheckpointError, ConfigError, StorageError
from minigpt.files import durable
from minigpt.terminal import say

DIRTY = "dirty"
NO_CODE = ("tests/", "experiments/", "conf/experiment/")
ROOT = Path(minigpt.__file__).resolve().parent.parent  # of the code that runs


@dataclass(frozen=True)
class Code:
    """An arm's code. asked: a revision as typed, or `dirty`; commit: with it, or below it."""

    asked: str
    commit: str
    subject: str
    digest: str

    def __str__(self) -> str:
        tree = "the working tree on " if self.asked == DIRTY else ""
        return f'{tree}{self.commit[:10]} "{self.subject}"'


def code_of(node: Any) -> Code:
    """An arm as a declaration holds it. Raises ValueError for anything else."""
    try:
        code = Code(**{key: str(value) for key, value in node.items()})
    except (AttributeError, TypeError):
        raise ValueError(f"no code: {node}") from None
    if not re.fullmatch("[0-9a-f]{12}", code.digest) or not re.fullmatch("[0-9a-f]+", code.commit):
        raise ValueError(f"no code: {node}")
    return code


def fault_of_arms(by: str | None, arms: Any) -> str | None:
    """What is wrong with `verdict.arms`: resolved where they are code, else a list."""
    if by != "code" and isinstance(arms, list):
        return None
    if by != "code" or not isinstance(arms, dict):
        how = "name: commit" if by == "code" else "a list"
        return f"wrong type: verdict.arms={arms} (with verdict.by={by}: {how})"
    try:
        _ = [code_of(node) for node in arms.values()]
    except ValueError as error:
        return f"wrong value: verdict.arms: {error}"
    return None


def resolve(arms: Any, known: Mapping[str, Any], output: Path) -> dict[str, dict[str, str]]:
    """What revisions name now; what they named when the study was declared, where that is known.

    known: the arms of the declaration on disk. Raises ConfigError.
    """
    if not isinstance(arms, dict):
        raise ConfigError(
            f"no code: verdict.arms={arms} (verdict.by=code: {{base: <commit>, mine: {DIRTY}}})"
        )
    _refuse_no_repository()
    found: dict[str, Code] = {}
    for arm, asked in arms.items():
        before = code_of(known[arm]) if arm in known else None
        if before is not None and before.asked == str(asked):
            found[str(arm)] = before
            if asked != DIRTY:
                _refuse_another(before)
            elif _digest_of(ROOT, _files(output)) != before.digest:
                say(f"note: {arm} is the working tree as it was declared; it has changed since")
            continue
        commit = _commit("HEAD" if asked == DIRTY else str(asked), arm)
        if before is not None and before.commit == commit and DIRTY not in (asked, before.asked):
            found[str(arm)] = before
            _refuse_another(before)
            continue
        dirty = asked == DIRTY
        digest = _digest_of(ROOT, _files(output)) if dirty else _commit_digest(commit)
        subject = _git(ROOT, "log", "-1", "--format=%s", commit).strip()
        found[str(arm)] = Code(str(asked), commit, subject, digest)
    first: dict[str, str] = {}
    for arm, code in found.items():
        if (other := first.setdefault(code.digest, arm)) != arm:
            raise ConfigError(
                f"nothing differs: verdict.arms: {other} ({found[other]}) and {arm} ({code}) are "
                "the same code (documents, tests and experiments aside)"
            )
    return {arm: asdict(code) for arm, code in found.items()}


def checkout(home: Path, code: Code, output: Path) -> Path:
    """The folder of an arm's code, made if it is not there.

    Raises CheckpointError if it was changed, or if it is gone and cannot be made again.
    """
    folder = home / code.digest
    if not folder.is_dir():
        with durable.writing(home):
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".tmp-", dir=home) as made:
                fresh = Path(made) / code.digest
                try:
                    _export(fresh, code, output)
                except subprocess.CalledProcessError as error:
                    why = " ".join(str(error.stderr).split())
                    raise StorageError(f"cannot copy {code}: {folder}: {why}") from None
                if _digest_of(fresh, _copied(fresh)) != code.digest:
                    raise CheckpointError(
                        f"not the code of the study: {folder}: {code} has changed since "
                        "(restore the folder, or another study=)"
                    )
                with suppress(OSError):  # another process was faster
                    fresh.rename(folder)
    if _digest_of(folder, _copied(folder)) != code.digest:
        raise CheckpointError(
            f"changed code: {folder}: its files are not those of {code} (move it away: of a "
            "commit it is made again)"
        )
    with durable.writing(folder):  # runs ask git for their commit: its settings can run code too
        durable.write_atomic(folder / ".git" / "config", b"[core]\n\trepositoryformatversion = 0\n")
    local = ROOT / "conf" / "local"  # of this machine: no repository has it
    if local.is_dir() and not os.path.lexists(folder / "conf" / "local"):
        (folder / "conf" / "local").symlink_to(local)
    return folder


def _export(folder: Path, code: Code, output: Path) -> None:
    folder.mkdir()
    _git(folder, "init", "--quiet", "--template=")
    objects = ROOT / _git(ROOT, "rev-parse", "--git-path", "objects").strip()
    info = folder / ".git" / "objects" / "info"
    info.mkdir(exist_ok=True)
    (info / "alternates").write_text(f"{objects.resolve()}\n")
    _git(folder, "checkout", "--quiet", "--detach", code.commit)
    if code.asked == DIRTY:
        kept = set(_files(output))
        for name in set(_copied(folder)) - kept:
            (folder / name).unlink()
        for name in kept:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).unlink(missing_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def _digest_of(root: Path, names: Sequence[str]) -> str:
    """Of files as they stand. Git is not asked: in a foreign folder its settings can run code."""
    lines = []
    for name in filter(_is_code, names):
        path = root / name
        link = os.readlink(path).encode() if path.is_symlink() else None
        mode = "100755" if os.access(path, os.X_OK) else "100644"
        content = path.read_bytes() if link is None else link
        blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        lines.append(f"{mode if link is None else '120000'} {blob} {name}")
    return _digest(lines)


def _commit_digest(commit: str) -> str:
    entries = (line.split("\t") for line in _git(ROOT, "ls-tree", "-rz", commit).split("\0")[:-1])
    blobs = ((about.split(), name) for about, name in entries if _is_code(name))
    return _digest([f"{mode} {blob} {name}" for (mode, _, blob), name in blobs])


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]


def _is_code(name: str) -> bool:
    return not name.startswith(NO_CODE) and not name.endswith(".md")


def _copied(folder: Path) -> list[str]:
    """All files and links of a copy, but for what Git and this machine add."""
    found = [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    names = {path.relative_to(folder).as_posix(): path.resolve() for path in found}
    local = ("conf/local", (ROOT / "conf" / "local").resolve())
    return [name for name in names if name[:5] != ".git/" and (name, names[name]) != local]


def _files(output: Path) -> list[str]:
    """Tracked files that are there, and new .py and .yaml files outside of the folder of runs."""
    tracked = _git(ROOT, "ls-files", "-z").split("\0")
    others = _git(ROOT, "ls-files", "-zo", "--exclude-standard").split("\0")
    new = [
        name
        for name in others
        if name.endswith((".py", ".yaml")) and output.resolve() not in (ROOT / name).parents
    ]
    kept = filter(None, (*tracked, *new))
    return [name for name in kept if (ROOT / name).is_file() or (ROOT / name).is_symlink()]


def _refuse_another(code: Code) -> None:
    """Raise CheckpointError for a commit that is not here, or whose code has another digest."""
    try:
        if _commit_digest(code.commit) == code.digest:
            return
    except subprocess.CalledProcessError:
        pass
    raise CheckpointError(f"no such commit: {code} with the code {code.digest} (fetch it)")


def _refuse_no_repository() -> None:
    try:
        top = Path(_git(ROOT, "rev-parse", "--show-toplevel").strip()).resolve()
    except (OSError, subprocess.CalledProcessError):
        top = None
    if top != ROOT:
        raise ConfigError(
            f"not a git repository: {ROOT}: verdict.by=code (arms that are code need its history)"
        )


def _commit(revision: str, arm: str) -> str:
    try:
        return _git(
            ROOT, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"
        ).strip()
    except subprocess.CalledProcessError:
        raise ConfigError(
            f"unknown commit: verdict.arms.{arm}={revision} (a commit, branch or tag of {ROOT}, "
            f"or {DIRTY}; quote one that is all digits)"
        ) from None


def _git(folder: Path, *arguments: str) -> str:
    """Raises CalledProcessError, or OSError without git."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    how: Any = {"capture_output": True, "text": True, "errors": "surrogateescape", "env": own}
    return str(subprocess.run(command, check=True, **how).stdout)
