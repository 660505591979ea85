"""What segments a bucket has, and which of them can hold an answer.

    catalog = Catalog(bucket)
    catalog.chosen(span)         # the segments that a question about this time needs

A listing gives names, and a name gives a day. Near the ends of the time asked for, heads of segments are read, a few
kilobytes each, as `history/extents.py` reads them on a disk: a segment was written between its head and that of the
next one in its series, and its head says what was in flight. So what began in the time comes with all of its records,
however long after it ended; and with `running` also what began before and had not ended.

A clock may have been set back: then the next head says from when (`latest`), or began before this one, which then is
of any time. So each segment is judged for itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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

Head = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One segment, and what has to be fetched for it."""

    place: Place
    raw: Found
    packs: tuple[Found, ...]
    set_back_from: str = ""
    """Where a clock was set back while it was written: nothing in it is of a later time."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Written:
    """Between which times."""

    first: str
    last: str
    set_back_from: str = ""


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
        picked: list[Segment] = []
        for each in series.values():
            each.sort(key=lambda segment: segment[0].name.number)
            picked += self._within(each, span)
        packs = self._packs({each.place.dt for each in picked}) if bodies else {}
        return [dataclasses.replace(each, packs=tuple(packs.get(each.place, ()))) for each in picked]

    def _packs(self, days: set[str]) -> dict[Place, list[Found]]:
        packs: dict[Place, list[Found]] = {}
        for day in sorted(days):
            for found in self._bucket.objects(f"{BODIES}/dt={day}"):
                place = Place.of_pack(found.path)
                if place is not None:
                    packs.setdefault(place, []).append(found)
        return packs

    def _within(self, series: Sequence[tuple[Place, Found]], span: Span) -> Iterator[Segment]:
        """Those that are needed, of one series in its order."""
        places = [place for place, _ in series]
        since = later(span.since, -SLACK_SECONDS) if span.since else ""
        until = span.until if span.until == ALWAYS else later(span.until, SLACK_SECONDS)
        written = self._written(places, {since[:10], until[:10]})
        found = {position for position, each in enumerate(written) if each.first <= until and each.last >= since}
        if span.until != ALWAYS:
            found |= self._following(places, found, until)
        if span.running:
            found |= self._leading(places, found)
        for position in sorted(found):
            place, raw = series[position]
            yield Segment(place, raw, (), written[position].set_back_from)

    def _written(self, places: Sequence[Place], days: Collection[str]) -> list[_Written]:
        """When each was written: by its head and the next one's on days on which that decides, else by its day."""
        self._read_heads(place for place in places if place.dt in days)
        begins = [self._begins(place) if place.dt in days else place.dt for place in places]
        written = []
        for position, (place, own) in enumerate(zip(places, begins, strict=True)):
            following, latest = ALWAYS, ""
            if position + 1 < len(places):
                following = begins[position + 1]
                latest = str(self._heads.get(places[position + 1], {}).get("latest", ""))
            if latest:
                written.append(_Written(min(own, following), latest, latest))
            elif following < own:
                written.append(_Written("", ALWAYS, f"{place.dt}T23:59:59.999999Z"))
            else:
                written.append(_Written(own, following))
        return written

    def _following(self, places: Sequence[Place], found: Collection[int], until: str) -> set[int]:
        """Those that have more of what began by then, behind those that were found."""
        more: set[int] = set()
        for last in sorted(found):
            for position in range(last + 1, len(places)):
                if position in found or not any(started_by_id(id) <= until for id in self._in_flight(places[position])):
                    break
                more.add(position)
        return more

    def _leading(self, places: Sequence[Place], found: Collection[int]) -> set[int]:
        """Those in which stands the beginning of what was in flight as one that was found began."""
        more: set[int] = set()
        for first in sorted(found):
            if first - 1 in found:
                continue
            wanted = set(self._in_flight(places[first]))
            for position in range(first, 0, -1):
                if wanted.isdisjoint(self._in_flight(places[position])):
                    break
                more.add(position - 1)
        return more

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
