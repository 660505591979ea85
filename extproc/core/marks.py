"""The marks that stand in records for credentials (`redact`): all that a reader of records needs to know of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

MARK: Final = "redacted:"
"""What the mark in the place of a credential begins with."""

_CREDENTIALS: Final = ("authorization", "x-api-key", "api-key")


def credential(headers: Iterable[Sequence[Any]]) -> str | None:
    """The mark that stands for the caller's credential in a record's headers: of the first that has one."""
    for field in headers:
        if field[0] in _CREDENTIALS and isinstance(field[1], str) and field[1].startswith(MARK):
            return field[1]
    return None
