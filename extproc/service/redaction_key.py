"""The key of the redaction marks: 32 random bytes in the data directory, made at the first start, 0600.

With it two requests that used one credential can be told to belong together, and nobody without it can test a
guess.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from extproc import fs
from extproc.errors import JournalError

NAME = "redaction.key"
_BYTES = 32


def load(data_dir: Path) -> bytes:
    """The directory's key; made when there is none. Raises JournalError when it cannot be read or is damaged."""
    path = data_dir / NAME
    try:
        key = fs.once(path, lambda: secrets.token_bytes(_BYTES))
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error
    if len(key) != _BYTES:
        raise JournalError(f"{path}: has {len(key)} bytes, not {_BYTES}; remove it to have a new one made")
    return key
