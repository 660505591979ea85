"""A small file of what the follower knows of backends, replaced as a whole.

    found = state.load(path, File)       # None: there is none, or none of this version
    state.save(path, File(...), "what was reported")

One that is damaged is told, and begun anew. Nothing is raised: a disk that is full costs what would have been kept.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from extproc import fs

_log = logging.getLogger("extproc.incidents")


VERSION: Final = 1


class File(msgspec.Struct, kw_only=True):
    """What such a file holds."""

    version: int = VERSION


F = TypeVar("F", bound=File)


def load(path: Path, kind: type[F]) -> F | None:
    """What a file holds, where it is of this kind and its version."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("%s cannot be used, and is begun anew: %s", path, error)
        return None
    return found if found.version == VERSION else None


def save(path: Path, file: File, what: str) -> bool:
    """Replace the file; whether that could be done. `what` it keeps, for the log."""
    try:
        with fs.directory(path.parent) as directory:
            fs.put(directory, path.name, msgspec.json.encode(file))
    except OSError as error:
        _log.warning("%s cannot be kept: %s: %s", what, path, error.strerror)
        return False
    return True
