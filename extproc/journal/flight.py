"""Which exchanges of a series have begun in the journal and have no terminal record yet.

Kept by the writer as it writes and by recovery as it reads, from the same lines, and noted at the head of each
segment, so that recovery after a crash need not read what was closed before.
"""

from __future__ import annotations

from typing import Any, Final

from extproc.core.records import AnyRecord, Open, Orphan, Request, Response

_OPENING = b'{"type":"'
_EARLY_ENDS = 1024
_NOTED = (Request, Response, Open, Orphan)

BEGINNING: Final = frozenset({"request", "open", "response", "orphan"})
"""The types that may be the first of an exchange. A `late` or `access` record without any of them is of none."""


class Flight:
    """The exchanges in flight, from the types and ids of the records of one series in their order."""

    __slots__ = ("_early", "open_exchanges")

    def __init__(self) -> None:
        self.open_exchanges: dict[str, str] = {}
        """id -> the record it has, `open` or `request`."""
        # An early answer's terminal record comes before its request record, and so does that of an answer
        # without a request. Only the last ones are remembered: a request does not outlive its answer by much.
        self._early: dict[str, None] = {}

    def note(self, type: str, id: str) -> None:
        """Take one record into account."""
        if type == "request" or type == "open":  # noqa: PLR1714 - twice as fast as a set, on the data path
            if id not in self._early:
                self.open_exchanges[id] = type
        elif (type == "response" or type == "orphan") and self.open_exchanges.pop(id, None) != "request":  # noqa: PLR1714
            self._early[id] = None
            if len(self._early) > _EARLY_ENDS:
                del self._early[next(iter(self._early))]

    def take(self, record: AnyRecord) -> None:
        """The same, of a record."""
        if isinstance(record, _NOTED):
            self.note(record.type, record.id)

    def snapshot(self) -> dict[str, str]:
        """As it stands at the head of a segment."""
        return dict.fromkeys(self._early, "response") | self.open_exchanges

    @classmethod
    def restore(cls, snapshot: Any) -> Flight:
        """From the head of a segment."""
        flight = cls()
        if isinstance(snapshot, dict):
            for id, type in snapshot.items():
                flight.note(str(type), str(id))
        return flight


def type_and_id(record: bytes) -> tuple[str, str]:
    """The type and id of an encoded record, read from its first bytes alone; empty where it has none."""
    parts = record[:160].split(b'"', 8)
    if len(parts) > 8 and parts[5] == b"id" and record.startswith(_OPENING):
        id = parts[7] if parts[6] == b":" else b""  # a text, and no null
        return parts[3].decode("ascii", "replace"), id.decode("ascii", "replace")
    return "", ""
