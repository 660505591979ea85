"""The workers' tables of what is in flight (`journal/live.py`), read once for one question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from extproc.journal import live
from extproc.journal.live import LiveExchange


class LiveTables:
    """Those of any data directory. A directory's are read when they are asked for first."""

    def __init__(self) -> None:
        self._read: dict[Path, Mapping[str, LiveExchange]] = {}

    def of(self, directory: Path) -> Mapping[str, LiveExchange]:
        """What is in flight there, by id."""
        if directory not in self._read:
            self._read[directory] = {seen.id: seen for seen in live.read(directory)}
        return self._read[directory]
