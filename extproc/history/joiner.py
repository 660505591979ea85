"""Records into final exchanges, each once, in bounded memory.

An exchange is final when its terminal record and Envoy's access entry are there, or when the entry has had its time
to come. An entry that stands alone (see `alone.py`) is one of its own when its exchange has had as long to
come. Time is that of the records, or of the clock where there are none: so an old journal is joined as fast as it
can be read. What a body says is read when its record comes, and the body is let go of then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from extproc.core.llm import of_request, of_response
from extproc.core.record import timestamp
from extproc.history import alone
from extproc.history.join import ACCESS_SECONDS, JOINED, Exchange, Parts, later, started_by_id
from extproc.history.tails import RecordPosition
from extproc.journal.flight import BEGINNING

Record = Mapping[str, Any]
T = TypeVar("T")

REQUEST_SECONDS: Final = 1
"""How long an exchange that has ended waits for a request record that comes after (an early answer)."""
MAX_PENDING: Final = 50_000
"""Exchanges in memory. Beyond it the oldest is given up: counted, never exported."""
_REMEMBERED: Final = 20_000
_REMEMBERED_ENTRIES: Final = 1000


class Join:
    """Takes records in their order. `keep_bodies`: what is exported shall hold them."""

    def __init__(self, directory: Path, *, keep_bodies: bool = False) -> None:
        self.given_up = 0
        """Exchanges of which there were too many to wait for."""
        self._directory = directory
        self._keep_bodies = keep_bodies
        self._pending: dict[str, Parts] = {}
        self._places: dict[str, list[RecordPosition]] = {}
        self._ended: deque[str] = deque()
        self._strays: dict[str, Record] = {}
        self._stray_places: dict[str, RecordPosition] = {}
        self._given: dict[str, None] = {}
        self._by_request_id: dict[str, str] = {}
        """Which of the pending ones Envoy knows by this id, for entries that name none of ours."""
        self._given_alone: dict[str, Record] = {}
        """Entries that were given as exchanges, by the same id: their exchange may still come."""
        self._before: set[str] = set()
        self._since = timestamp(time.time_ns())
        self._ready: list[Exchange] = []
        self._others: list[Record] = []

    def add(self, place: RecordPosition, record: Record) -> None:
        """Take one record in."""
        record = alone.as_own(record)
        type, id = record["type"], record.get("id")
        if type not in JOINED:
            if type == "gap":
                self._others.append(record)
            return
        if not isinstance(id, str):
            self._others.append(record)  # an access entry that names no exchange
        elif id not in self._given and id not in self._before:
            self._join(id, place, record)

    def began_before(self, ids: Iterator[str]) -> None:
        """Exchanges whose beginning will not be read: what comes of them is passed over."""
        self._before.update(ids)

    def exchanges(self, horizon: str) -> Iterator[Exchange]:
        """Those that have become final. `horizon`: the time up to which everything has been read."""
        while self._ended:
            parts = self._pending.get(self._ended[0])
            if parts is not None and not self._has_had_its_time(parts, horizon):
                break
            self._ended.popleft()
            if parts is not None:
                self._give(parts, horizon)
        ready, self._ready = self._ready, []
        yield from ready

    def others(self, horizon: str) -> Iterator[Record]:
        """Records that belong to no exchange: gaps, and access entries to which nothing has been joined in time."""
        while self._strays:
            id, record = next(iter(self._strays.items()))
            if horizon <= later(str(record["at"]), ACCESS_SECONDS):
                break
            del self._strays[id], self._stray_places[id]
            self._others.append(record)
        others, self._others = self._others, []
        yield from others

    def rest(self, horizon: str) -> Iterator[Exchange]:
        """Those that have ended, whether or not their entry has come: there is nothing more to read."""
        for id in self._ended:
            parts = self._pending.get(id)
            if parts is not None:
                self._give(parts, horizon)
        self._ended.clear()
        yield from self.exchanges(horizon)

    def pending(self) -> list[RecordPosition]:
        """Where the records stand that are still needed."""
        return [*(place for places in self._places.values() for place in places), *self._stray_places.values()]

    def _join(self, id: str, place: RecordPosition, record: Record) -> None:
        parts = self._pending.get(id)
        if parts is None and alone.stands_alone(record):
            parts = self._whose(record) or self._begin(id)
        elif parts is None:
            if record["type"] not in BEGINNING:
                # What ended while no follower ran was given out by the one before.
                if record["type"] == "access" and started_by_id(id) >= self._since:
                    self._strays[id], self._stray_places[id] = record, place
                return
            parts = self._begin(id)
        self._note_request_id(parts, record)
        self._places[parts.id].append(place)
        if parts.add(record if self._keep_bodies else _without_body(record)):
            self._ended.append(parts.id)
        if parts.complete and parts.request is not None:
            self._give(parts, None)

    def _whose(self, entry: Record) -> Parts | None:
        """The exchange that an entry which stands alone is of, where that is here and has none."""
        parts = self._pending.get(self._by_request_id.get(str(entry.get("request_id")), ""))
        begun = None if parts is None else parts.request or parts.opened
        if parts is None or begun is None or parts.access is not None or not alone.is_of(entry, begun):
            return None
        return parts

    def _note_request_id(self, parts: Parts, record: Record) -> None:
        """Remember it, and take over the entry that stood alone under it."""
        request_id = record.get("request_id")
        if not isinstance(request_id, str):
            return
        other = self._pending.get(self._by_request_id.get(request_id, ""))
        self._by_request_id[request_id] = parts.id
        if other is not None and other is not parts and other.is_alone and other.access is not None:
            if alone.is_of(other.access, record):
                parts.add(other.access)
                self._places[parts.id] += self._places[other.id]
                self._forget(other.id)
        elif parts.access is None and (entry := self._given_alone.get(request_id)) and alone.is_of(entry, record):
            parts.add(entry)

    def _begin(self, id: str) -> Parts:
        if len(self._pending) >= MAX_PENDING:
            self._forget(next(iter(self._pending)))
            self.given_up += 1
        parts = self._pending[id] = Parts(id, self._directory)
        self._places[id] = []
        if id in self._strays:
            parts.add(self._strays.pop(id))
            self._places[id].append(self._stray_places.pop(id))
        return parts

    def _give(self, parts: Parts, now: str | None) -> None:
        self._forget(parts.id)
        if parts.is_alone and parts.access is not None:
            self._others.append(parts.access)
            _remember(self._given_alone, str(parts.access.get("request_id")), parts.access, _REMEMBERED_ENTRIES)
        self._ready.append(parts.exchange(now))

    def _forget(self, id: str) -> None:
        parts = self._pending.pop(id)
        del self._places[id]
        for record in (parts.request, parts.opened, parts.access):
            request_id = str((record or {}).get("request_id"))
            if self._by_request_id.get(request_id) == id:
                del self._by_request_id[request_id]
        _remember(self._given, id, None, _REMEMBERED)

    @staticmethod
    def _has_had_its_time(parts: Parts, horizon: str) -> bool:
        if parts.is_alone and parts.access is not None:
            return horizon > later(str(parts.access["at"]), ACCESS_SECONDS)
        seconds = REQUEST_SECONDS if parts.complete else ACCESS_SECONDS
        return horizon > later(parts.ended_at or "", seconds)


def _remember(latest: dict[str, T], key: str, value: T, most: int) -> None:
    latest[key] = value
    if len(latest) > most:
        del latest[next(iter(latest))]


def _without_body(record: Record) -> Record:
    """The record with what its body says in the place of the body."""
    read: Callable[[Record | None], dict[str, Any] | None]
    match record["type"]:
        case "request" | "open":
            name, read = "request", of_request
        case "response":
            name, read = "response", of_response
        case _:
            return record
    half = record.get(name)
    if not isinstance(half, dict) or half.get("body") is None:
        return record
    return {**record, "llm": read(record), name: {**half, "body": None}}
