"""What of a data directory has been shipped, and what is on its way: the files of `<data>/ship`.

STEM.json              all of a segment is in the bucket, and which; written last (`journal/shipped.py`)
STEM.parquet, .pack    what was made of a segment, until it is in the bucket: a second attempt sends the same bytes,
                       whatever has come to the journal since
lock                   held by who ships, or takes something out of what is shipped
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from extproc import fs
from extproc.errors import JournalError
from extproc.journal.directory import open_directory, reason
from extproc.journal.shipped import DIRECTORY, MARK

_LOCK: Final = "lock"
_STAGED: Final = (".parquet", ".pack")


class Ledger:
    """Of one data directory, held for as long as the context runs: nobody else ships from it or erases in it."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        self._marks: dict[str, str] | None = None

    @classmethod
    @contextlib.contextmanager
    def held(cls, directory: Path, wait: float) -> Iterator[Self]:
        """Take the lock. Raises JournalError where another process has it for longer than `wait` seconds."""
        path = directory / DIRECTORY
        with contextlib.ExitStack() as undo:
            try:
                path.mkdir(0o700, exist_ok=True)
                fd = open_directory(path)
                undo.callback(os.close, fd)
                lock = os.open(_LOCK, fs.LOCK, 0o600, dir_fd=fd)
                undo.callback(os.close, lock)
            except OSError as error:
                raise JournalError(f"{path}: {reason(error)}") from error
            if not fs.lock(lock, wait):
                raise JournalError(f"{directory}: another process ships from this directory, or erases in it")
            yield cls(fd, path)

    def is_shipped(self, stem: str, url: str) -> bool:
        """Whether all of a segment is in this bucket."""
        if self._marks is None:
            self._marks = {each: self.mark(each).get("to", "") for each in self.marked()}
        return self._marks.get(stem) == url

    def marked(self) -> list[str]:
        """The segments that have been shipped to some bucket."""
        return [name.removesuffix(MARK) for name in self._listed() if name.endswith(MARK)]

    def mark(self, stem: str) -> Mapping[str, Any]:
        """What was said of a segment as it was shipped; nothing where that is no longer to be read."""
        try:
            found = json.loads((self._path / f"{stem}{MARK}").read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def set_mark(self, stem: str, fields: Mapping[str, Any]) -> None:
        """Say that all of a segment is in the bucket. What was on its way is no longer needed. Raises OSError."""
        fs.put(self._fd, f"{stem}{MARK}", json.dumps(fields).encode("ascii"))
        if self._marks is not None:
            self._marks[stem] = fields["to"]
        self.unstage(stem)

    def forget(self, present: set[str]) -> None:
        """Remove what is there of segments that are gone."""
        for name in self._listed():
            stem = name.partition(".")[0]
            if name != _LOCK and stem not in present:
                self._remove(name)
                (self._marks or {}).pop(stem, None)

    def staged(self, name: str) -> bytes | None:
        """What was made before under this name; None where nothing was."""
        try:
            return (self._path / name).read_bytes()
        except OSError:
            return None

    def stage(self, name: str, data: bytes) -> None:
        """Keep what was made. A disk that has no room for it takes nothing away from the shipping."""
        with contextlib.suppress(OSError):
            fs.put(self._fd, name, data)

    def unstage(self, stem: str | None = None) -> None:
        """Remove what is on its way, of one segment or of all."""
        for name in self._listed():
            if name.removesuffix(fs.TEMPORARY).endswith(_STAGED) and stem in (None, name.partition(".")[0]):
                self._remove(name)

    def _listed(self) -> list[str]:
        return os.listdir(self._fd)  # noqa: PTH208 - a handle, which is no path

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)
