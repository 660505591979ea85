"""Who has read what: a line for each prompt or answer that was given out, where tokens name people.

`DATA_DIR/page/access.jsonl`, for its owner alone: `at`, `who`, `what` (the path), `from` (the address).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from extproc.core.record import json_line
from extproc.core.times import timestamp

DIRECTORY: Final = "page"
FILE_NAME: Final = "access.jsonl"


class AccessLog:
    """Appends to the file. Raises OSError where it cannot: what cannot be noted is not given out."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / DIRECTORY / FILE_NAME

    def add(self, *, who: str, what: str, remote: str | None) -> None:
        """Note that somebody reads something, before they get it."""
        line = json_line({"at": timestamp(time.time_ns()), "who": who, "what": what, "from": remote}) + "\n"
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
