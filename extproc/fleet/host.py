"""What this machine is called in a bucket: the name that it had at the first start, and a random end.

The name is a file of the data directory, so that it stays when the machine is renamed, and goes with the volume: two
pods of one name have two volumes, and so two names.
"""

from __future__ import annotations

import re
import secrets
import socket
from pathlib import Path
from typing import Final

from extproc import fs
from extproc.errors import JournalError

FILE_NAME: Final = "host"
_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")


def name_of(directory: Path) -> str:
    """The name; made when there is none. Raises JournalError when it cannot be read, or is none."""
    path = directory / FILE_NAME
    try:
        name = fs.once(path, _new).decode("ascii", "replace").strip()
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error
    if _NAME.fullmatch(name) is None:
        raise JournalError(f"{path}: {name!r} is no name; letters, digits, dots and hyphens are")
    return name


def _new() -> bytes:
    machine = re.sub(r"[^0-9A-Za-z-]+", "-", socket.gethostname().partition(".")[0]).strip("-") or "host"
    return f"{machine[:60]}-{secrets.token_hex(4)}\n".encode("ascii")
