"""The time that a question is about, so that little of a bucket has to be fetched for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Final

from extproc.core.times import later, started_by_id
from extproc.history.extents import ALWAYS

_ID_SECONDS: Final = 1
_OWN: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A time, from the first moment to the last, RFC 3339 in UTC as in records; by itself all there is."""

    since: str = ""
    until: str = ALWAYS
    running: bool = False
    """Also what was in flight then, and had begun before."""

    @classmethod
    def of_ids(cls, ids: Iterable[str]) -> Span:
        """The time in which the exchanges of these ids began: all there is, where one of the ids does not say that."""
        began = [started_by_id(id) if _OWN.fullmatch(id) else "" for id in (each.lower() for each in ids)]
        return cls(min(began), later(max(began), _ID_SECONDS)) if began and all(began) else cls()


EVERYTHING: Final = Span()
