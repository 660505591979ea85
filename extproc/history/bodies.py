"""The bodies of exchanges, exactly as they passed: in the record, or in a file of their own."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from extproc import fs
from extproc.core.records import Body, fields_of
from extproc.errors import JournalError
from extproc.history.join import Exchange
from extproc.journal.directory import BODIES, exchange_of, reason

_PIECE_BYTES: Final = 1024 * 1024


def whole(exchange: Exchange, direction: str) -> bytes | None:
    """One direction's body as far as it was recorded; None when it was not. Raises JournalError when its file is gone
    or cannot be read."""
    field = exchange.body(direction)
    return None if field is None else b"".join(pieces_of(field, exchange.directory))


def pieces(exchange: Exchange, direction: str) -> Iterator[bytes]:
    """The same in pieces, for bodies that are large; none where it was not recorded. Raises JournalError likewise."""
    field = exchange.body(direction)
    return iter(()) if field is None else pieces_of(field, exchange.directory)


def pieces_of(field: Body, directory: Path) -> Iterator[bytes]:
    """What a record's `body` stands for, in pieces. Raises JournalError likewise."""
    if field.text is not None:
        yield field.text.encode("utf-8", "surrogatepass")
    elif field.base64 is not None:
        yield _decoded(field.base64)
    else:
        path = path_of(field, directory)
        try:
            with _opened(path) as file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece
        except OSError as error:
            raise JournalError(f"{path}: {reason(error)}") from error


def path_of(field: Body, directory: Path) -> Path:
    """The file of a spooled body. Raises JournalError for a name that the journal cannot have written."""
    name = (field.file or "").removeprefix(f"{BODIES}/")
    if exchange_of(name) is None:
        raise JournalError(f"a record refers to a body by a name that is none: {fields_of(field)!r}")
    return directory / BODIES / name


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise JournalError(f"a body is not the base64 that it should be: {error}") from error


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, fs.READ), "rb")
