"""What segments a bucket has, and which of them can hold an answer.

    catalog = Catalog(bucket)
    catalog.chosen(span)         # the segments that a question about this time needs

A listing gives names, and a name gives a day. Near the ends of the time asked for, heads of segments are read, a few
kilobytes each, as `history/extents.py` reads them on a disk: a segment was written between its head and that of the
next one in its series, and its head says what was in flight. So what began in the time comes with all of its records,
however long after it ended; and with `running` also what began before and had not ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import zstandard

from extproc.core.record import DamagedLine, unseal
from extproc.core.times import later, started_by_id
from extproc.fleet.bucket import Bucket, Found
from extproc.fleet.names import BODIES, RAW, Place
from extproc.fleet.span import Span
from extproc.history.extents import ALWAYS, SLACK_SECONDS

_HEAD_BYTES: Final = 64 * 1024
_AT_ONCE: Final = 16
_DAY_SECONDS: Final = 86_400
_ID_SECONDS: Final = 1

Head = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One segment, and what has to be fetched for it."""

    place: Place
    raw: Found
    packs: tuple[Found, ...]


class Catalog:
    """Of one bucket, as it is when this is made."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._heads: dict[Place, Head] = {}

    def chosen(self, span: Span, *, bodies: bool) -> list[Segment]:
        """The segments of all hosts that a question about this time needs, with their packs where bodies matter."""
        series: dict[tuple[str, tuple[int, str]], list[tuple[Place, Found]]] = {}
        for found in self._bucket.objects(RAW):
            place = Place.of_raw(found.path)
            if place is not None:
                series.setdefault((place.host, place.name.series), []).append((place, found))
        picked: list[tuple[Place, Found]] = []
        for each in series.values():
            each.sort(key=lambda segment: segment[0].name.number)
            picked += [each[position] for position in self._within([place for place, _ in each], span)]
        packs = self._packs({place.dt for place, _ in picked}) if bodies else {}
        return [Segment(place, raw, tuple(packs.get(place, ()))) for place, raw in picked]

    def _packs(self, days: set[str]) -> dict[Place, list[Found]]:
        packs: dict[Place, list[Found]] = {}
        for day in sorted(days):
            for found in self._bucket.objects(f"{BODIES}/dt={day}"):
                place = Place.of_pack(found.path)
                if place is not None:
                    packs.setdefault(place, []).append(found)
        return packs

    def _within(self, places: Sequence[Place], span: Span) -> Iterable[int]:
        """The positions of those that are needed, of one series in its order."""
        first, last = 0, len(places) - 1
        if span.since:
            self._read_heads(self._near(places, later(span.since, -SLACK_SECONDS)))
            first = self._first(places, later(span.since, -SLACK_SECONDS))
            if span.running and first <= last:
                first = self._first_with_all_of(places, first)
        if span.until != ALWAYS:
            last = self._last(places, first, later(span.until, SLACK_SECONDS))
        return range(first, last + 1)

    def _near(self, places: Sequence[Place], at: str) -> Iterator[Place]:
        """Those whose heads decide: of the day and the ones around it."""
        days = {later(at, seconds)[:10] for seconds in (-_DAY_SECONDS, 0, _DAY_SECONDS)}
        return (place for place in places if place.dt in days)

    def _first(self, places: Sequence[Place], at: str) -> int:
        """The first one that was written at this time or later: the next one had not begun before."""
        for position in range(len(places) - 1):
            following = places[position + 1]
            if following.dt > at[:10] or (following.dt == at[:10] and self._begins(following) >= at):
                return position
        return max(len(places) - 1, 0)

    def _first_with_all_of(self, places: Sequence[Place], first: int) -> int:
        started = [began for began in map(started_by_id, self._in_flight(places[first])) if began]
        oldest = later(min(started), -_ID_SECONDS) if started else ALWAYS
        while first > 0 and self._begins(places[first]) > oldest:
            first -= 1
        return first

    def _last(self, places: Sequence[Place], first: int, at: str) -> int:
        """The last one that began by then, or has more of what began by then."""
        last = first - 1
        for position in range(first, len(places)):
            place = places[position]
            begun = place.dt < at[:10] or self._begins(place) <= at
            if not begun and not any(started_by_id(id) <= at for id in self._in_flight(place)):
                break
            last = position
        return last

    def _begins(self, place: Place) -> str:
        return str(self._head(place).get("at", ""))

    def _in_flight(self, place: Place) -> list[str]:
        return [id for id, had in (self._head(place).get("in_flight") or {}).items() if had != "response"]

    def _read_heads(self, places: Iterable[Place]) -> None:
        wanted = [place for place in places if place not in self._heads]
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            self._heads |= zip(wanted, readers.map(self._read_head, wanted), strict=True)

    def _head(self, place: Place) -> Head:
        if place not in self._heads:
            self._heads[place] = self._read_head(place)
        return self._heads[place]

    def _read_head(self, place: Place) -> Head:
        """The first line; nothing where it is damaged, so that the segment counts as one of any time."""
        most = _HEAD_BYTES
        while True:
            start = self._bucket.start_of(place.raw, most)
            try:
                text = zstandard.ZstdDecompressor().decompressobj().decompress(start)
                if b"\n" in text or len(start) < most:
                    return unseal(text[: text.find(b"\n") + 1])
            except (zstandard.ZstdError, DamagedLine):
                return {}
            most *= 8
