"""Any text data set of the Hugging Face hub, streamed: nothing but the tokens is kept."""

import functools
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from minigpt.data.rows import text_in, top_of
from minigpt.data.source import Document, Source
from minigpt.errors import DataError
from minigpt.interrupt import stop_if_requested
from minigpt.terminal import say

ROWS_A_STATE = 512  # rows between two places where reading can begin again
WAITS_S = (1, 2, 4, 8, 16)  # between attempts after a failure; a row that is read starts anew


class Hub(Source):
    """One split of a data set, in its order; `column` holds the text (`a.b` as in rows.py).

    name, config: as `datasets.load_dataset` takes them.
    revision: branch, tag or commit; null takes the newest and notes which that was.
    source: a local folder laid out like the hub's repository, read instead of it.
    """

    position: ClassVar[Any] = {"state": (dict, None), "skip": int}

    def __init__(
        self,
        name: str,
        config: str | None = None,
        split: str = "train",
        column: str = "text",
        revision: str | None = None,
        source: str | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.split = split
        self.column = column
        self.revision = revision
        self.source = source

    def describe(self) -> dict[str, Any]:
        told = {"kind": "hub", **vars(self)}
        if told.pop("source") is not None:
            told["local_files"] = names_and_sizes(self.local_folder())
        return told

    def pin(self, pinned: dict[str, Any] | None) -> dict[str, Any]:
        if self.source is not None:
            return pinned or {"revision": self.revision}
        pinned = pinned or {"revision": self._newest_revision()}
        self.revision = pinned["revision"]
        return pinned

    def documents(self, start: Any = None) -> Iterator[Document]:
        position = start or {"state": None, "skip": 0}
        failures = 0
        while True:
            try:
                for document in self._stream(position):
                    failures = 0
                    position = document.position
                    yield document
                    position = {"state": position["state"], "skip": position["skip"] + 1}
                return
            except Exception as error:
                self._wait_or_give_up(error, failures)
                failures += 1

    def _stream(self, start: dict[str, Any]) -> Iterator[Document]:
        """One attempt: rows from `start` on. The libraries below may raise any exception."""
        rows = self._load()
        state, skip = start["state"], start["skip"]
        if state is not None:
            rows.load_state_dict(state)
        since = 0
        for row in rows:
            if since >= skip:
                text = text_in(row, self.column, self.name)
                yield Document(text, {"state": state, "skip": since})
            since += 1
            if since >= ROWS_A_STATE and since > skip:
                state, since, skip = rows.state_dict(), 0, 0

    def _load(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        stream = functools.partial(datasets.load_dataset, split=self.split, streaming=True)
        if self.source is None:
            where = self.name
            rows = stream(where, name=self.config, revision=self.revision)
        else:
            where = str(self.local_folder())
            try:
                rows = stream(where, name=self.config)
            except datasets.exceptions.DataFilesNotFoundError:
                # A part of a repository: `datasets` wants its first configuration's files, too.
                files = listed_files(Path(where), self.config, self.split)
                if files is None:
                    raise
                rows = stream(where, data_files={self.split: files})
        names = rows.column_names
        top = self.column if names is None else top_of(self.column, names, where)
        return rows.select_columns([top])

    def _newest_revision(self, failures: int = 0) -> str:
        import huggingface_hub

        try:
            hub = huggingface_hub.HfApi()
            return str(hub.dataset_info(self.name, revision=self.revision).sha)
        except Exception as error:
            self._wait_or_give_up(error, failures)
        return self._newest_revision(failures + 1)

    def _wait_or_give_up(self, error: Exception, failures: int) -> None:
        """Sleep before the next attempt; DataError if another cannot help or there were enough."""
        import huggingface_hub

        if isinstance(error, DataError):
            raise error
        details = str(error).strip() or "no details"
        cause = f"{type(error).__name__}: {details.splitlines()[0]}"
        problem = None
        if self.source is not None:
            problem = f"cannot read: data.source={self.source} ({cause})"
        elif huggingface_hub.constants.HF_HUB_OFFLINE:
            ways_out = "unset it, or use data.source"
            problem = f"no network (HF_HUB_OFFLINE is set): {self.name} ({ways_out})"
        elif isinstance(error, FileNotFoundError | ValueError | KeyError | TypeError):
            ways_out = "check data.name, data.config, data.split"
            problem = f"cannot read: {self.name} ({cause}; {ways_out})"
        elif failures >= len(WAITS_S):
            tried = f"gave up after {failures + 1} attempts"
            problem = f"{tried}: {self.name} ({cause}; try again later)"
        if problem is not None:
            raise DataError(problem) from error
        say(f"trying again in {WAITS_S[failures]} s: {self.name} ({cause})")
        until = time.monotonic() + WAITS_S[failures]
        while time.monotonic() < until:
            stop_if_requested("waited for the network")
            time.sleep(0.1)

    def local_folder(self) -> Path:
        assert self.source is not None
        folder = Path(self.source).expanduser().resolve()
        if not folder.is_dir():
            raise DataError(
                f"no such folder: data.source={self.source} "
                "(a folder laid out like the hub's repository)"
            )
        return folder


def listed_files(folder: Path, config: str | None, split: str) -> Any:
    """The data files of one split that the README.md of a repository lists, or None."""
    import huggingface_hub

    readme = folder / "README.md"
    header = huggingface_hub.metadata_load(readme) if readme.is_file() else None
    for entry in (header or {}).get("configs", []):
        if entry.get("config_name") == (config or "default"):
            for listed in entry.get("data_files", []):
                if isinstance(listed, dict) and listed.get("split") == split:
                    return listed.get("path")
    return None


def names_and_sizes(folder: Path) -> str:
    """A hash of what lies in a folder, to notice when it changed."""
    listing = [
        [path.relative_to(folder).as_posix(), path.stat().st_size]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".cache" not in path.parts
    ]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
