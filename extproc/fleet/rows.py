"""The exchanges that ended in a segment: whoever reads all segments has each exchange once.

    ended = rows.ended_in(directory, name)              # their ids, from the lines alone
    rows.read(directory, [ended, ...], take)            # take(stem, exchange) for each, from the index or the journal

An exchange belongs to the segment that has its terminal record; one of which Envoy's access entry is all that there is
(`history/alone.py`) to the one that has that. What an exchange says comes from all segments of the directory: its
request may stand in an earlier one, Envoy's entry in another worker's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from extproc.core.record import DamagedLine
from extproc.core.records import id_of, unseal
from extproc.core.times import moment_text
from extproc.history import alone, reader
from extproc.history.answers import Answers
from extproc.history.filters import Filters
from extproc.history.join import Exchange
from extproc.journal import lines
from extproc.journal.directory import SEGMENTS
from extproc.journal.flight import type_and_id
from extproc.journal.segment import Name

_TERMINAL: Final = frozenset({"response", "orphan"})
_SLACK: Final = timedelta(seconds=60)
"""Between what clocks and records say of a moment; as for every reader."""

Take = Callable[[str, Exchange], None]


@dataclass(slots=True)
class Ended:
    """What a segment's own lines say."""

    name: Name
    begun: datetime
    written_until: datetime
    ids: set[str] = field(default_factory=set)
    """Of the exchanges that have their terminal record here."""
    alone: set[str] = field(default_factory=set)
    """Of those that may be an access entry alone: an exchange may still have claimed it."""
    requests_after: set[str] = field(default_factory=set)
    """Of those whose answer was over before their request, which follows here: their bodies are here, too."""


def ended_in(directory: Path, name: Name) -> Ended | None:
    """What ended in a closed segment; None where it has no head to go by, or is gone."""
    head = lines.header(directory, name)
    begun = _moment(None if head is None else head.get("at"))
    if head is None or begun is None:
        return None
    try:
        touched = (directory / SEGMENTS / str(name)).stat().st_mtime
    except FileNotFoundError:
        return None
    found = Ended(name, begun, max(begun, datetime.fromtimestamp(touched, UTC)))
    early = {id for id, had in (head.get("in_flight") or {}).items() if had == "response"}
    with lines.open_segment(directory, name) as file, contextlib.suppress(DamagedLine):
        for raw in lines.raw_lines(file):
            type, id = type_and_id(raw)
            if type in _TERMINAL:
                found.ids.add(id)
            elif type == "request" and id in early:
                found.requests_after.add(id)
            elif alone.may_be(raw):
                found.alone |= _alone(raw)
    return found


def read(directory: Path, segments: Sequence[Ended], take: Take) -> int:
    """Give the exchanges that ended in these segments to `take`. Returns how many of them could not be found."""
    missing = {id: each.name.stem for each in segments for id in each.ids}
    beside = {id: each.name.stem for each in segments for id in each.alone}

    def given(exchange: Exchange) -> None:
        stem = missing.pop(exchange.id, None) or beside.pop(exchange.id, None)
        if stem is not None and not exchange.in_flight:
            take(stem, exchange)

    first = min(each.begun for each in segments) - _SLACK
    last = max(each.written_until for each in segments) + _SLACK
    with Answers([directory]) as asked:
        for exchange in asked.exchanges(Filters(between=(moment_text(first), moment_text(last)))):
            given(exchange)
    if missing:  # a clock was set, or a line says another time than its file
        for exchange in reader.exchanges([directory]):
            given(exchange)
    return len(missing)


def _alone(raw: bytes) -> set[str]:
    try:
        record = alone.as_own(unseal(raw))
    except DamagedLine:
        return set()
    return {str(id_of(record))} if alone.stands_alone(record) else set()


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None
