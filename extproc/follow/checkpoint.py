"""How far the follower has come, kept in a file, so that a restart neither loses nor repeats.

The file is `<data>/follow/position.json`, replaced as a whole, and synced before that: of each series the segment
and the offset up to which everything was read, and the places of the records of exchanges that were not final then.
Its last member is a CRC-32C of what stands before it. A damaged one is worth nothing, and is reported; the follower
then begins as if it were new.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import google_crc32c
import msgspec

from extproc import fs
from extproc.errors import JournalError
from extproc.history.position import RecordPosition
from extproc.journal.directory import sync

DIRECTORY: Final = "follow"
FILE_NAME: Final = "position.json"
LOCK_NAME: Final = "lock"
VERSION: Final = 1

_CRC: Final = b',"crc":"'
_log = logging.getLogger("extproc.follow")


class Checkpoint(msgspec.Struct, frozen=True):
    """What the file says."""

    series: dict[str, tuple[int, int]]
    pending: list[RecordPosition]
    version: int = VERSION


def load(path: Path) -> Checkpoint | None:
    """What was kept; None where there is nothing, or nothing that can be trusted."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    body, mark, rest = data.rpartition(_CRC)
    if mark and rest == _crc(body) + b'"}\n':
        with contextlib.suppress(msgspec.MsgspecError):
            checkpoint = msgspec.json.decode(body + b"}", type=Checkpoint)
            if checkpoint.version == VERSION:
                return checkpoint
    _log.warning("%s is damaged, and the follower begins anew: spans of the last exchanges may be repeated", path)
    return None


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file: after a power cut there is the new one or the one before, whole. Raises OSError."""
    body = msgspec.json.encode(checkpoint)[:-1]
    data = body + _CRC + _crc(body) + b'"}\n'
    with fs.directory(path.parent) as directory:
        # Once there is one, the one before is as good after a loss of power.
        fs.put(directory, path.name, data, sync_name=not path.exists())


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """Hold `<data>/follow` for one follower; the path of the checkpoint. Raises JournalError when it is held."""
    try:
        (directory / DIRECTORY).mkdir(0o700, exist_ok=True)
        fd = os.open(directory / DIRECTORY / LOCK_NAME, fs.LOCK, 0o600)
        sync(directory / DIRECTORY)
        sync(directory)
    except OSError as error:
        raise JournalError(f"{directory / DIRECTORY}: {error.strerror}") from error
    try:
        if not fs.lock(fd):
            text = f"{directory}: another follower reads this directory; `up` and `serve` run one, --since needs none"
            raise JournalError(text)
        yield directory / DIRECTORY / FILE_NAME
    finally:
        os.close(fd)


def _crc(body: bytes) -> bytes:
    return b"%08x" % google_crc32c.value(body)
