"""The exchanges around a moment, out of the index of a journal, and what is known of all the others: a report is to
take seconds, however long the journal is.

    with window.opened(directory, at, upstream, reports) as found:    # Unusable: there is no index that can be used
        incidents(found.flights, now, backends, found)

What befell a backend shows in the minutes around it. What its requests are held against is counted in the index
(`history/index/precedents.py`), and what befell backends before was reported (`kept.py`). So this gives what all of the
journal would.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from extproc.core.times import timestamp
from extproc.history.filters import Filters
from extproc.history.index.precedents import Precedents
from extproc.history.index.query import Found, Index
from extproc.history.index.tail import Tail
from extproc.history.live_tables import LiveTables
from extproc.incidents import evidence, indexed, rank
from extproc.incidents.detect import Kind, Life, Sighting
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Class
from extproc.incidents.kept import Report
from extproc.incidents.rank import Base, Past, Surroundings


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a window goes back: so many seconds, or so many exchanges, but so many seconds at least. And so many
    exchanges forward."""

    seconds: float = 900.0
    exchanges: int = 6000
    least_seconds: float = 90.0
    forward: int = 20_000


REACH: Final = Reach()


@dataclass(frozen=True, slots=True)
class _Moment:
    at: float
    upstream: str
    reach: Reach


_EDGE_SECONDS: Final = 10.0
"""What seems to have happened so shortly after the beginning may have begun before it."""
_SETTLED_SECONDS: Final = 60.0
"""What seems to have happened so shortly before the end may be taken back after it."""
_MOST_EARLIER: Final = 5000
"""Of the exchanges that were in flight at earlier incidents."""
_FOR_EVER: Final = 4_000_000_000 * 10**6


@contextmanager
def opened(
    directory: Path, at: float, upstream: str, reports: Iterable[Report], reach: Reach = REACH
) -> Iterator[Window]:
    """The window around what befell a backend at a moment."""
    with Index.open(directory, still=True) as index:
        yield Window(index, Tail(index, LiveTables()), _Moment(at, upstream, reach), reports)


class Window:
    """An `incident.History`."""

    def __init__(self, index: Index, tail: Tail, moment: _Moment, reports: Iterable[Report]) -> None:
        self.precedents = Precedents(index)
        self._index = index
        self._upstream = moment.upstream
        self.since_us, self._until_us = self._span(_micros(moment.at), moment.reach)
        self.since = (self.since_us - 0.5) / 1e6
        """Between two microseconds, so that nothing is exactly there."""
        self._unread: set[str] = set()
        """Rows of which the index does not know what they ask for."""
        self.rows = [flight for found in self._rows(moment.reach.forward) for flight in self._of_row(found)]
        self.beside = [
            flight
            for each in (*tail.ended, *tail.in_flight)
            for flight in evidence.flights(each, evidence.recorded_body)
        ]
        """What has no row yet."""
        self.flights: Sequence[Flight] = [*self.rows, *self.beside]
        self._here: dict[str, list[Flight]] = defaultdict(list)
        for each in self.flights:
            self._here[each.upstream].append(each)
        self._before: dict[str, _Before | None] = {}
        self.reports = self._reported(reports)
        self._there = self._earlier_flights()
        self.earlier = [(_sighting(each, self._there), Class(each.fields["class"])) for each in self.reports]

    # What is in it ---------------------------------------------------------------------------------------------

    def _span(self, moment: int, reach: Reach) -> tuple[int, int | None]:
        """From when on all that ended is in it, and until when; None: until now."""
        nearest, furthest = (moment - _micros(seconds) for seconds in (reach.least_seconds, reach.seconds))
        counted = self.precedents.started_before(moment, reach.exchanges) or 0
        return min(nearest, max(furthest, counted)), self.precedents.started_after(moment, reach.forward)

    def _rows(self, most: int) -> Iterator[Found]:
        """Of all backends, and from its end on, if it has one, of the one backend."""
        until = self._until_us
        yield from self._index.rows(Filters(between=(_text(self.since_us), _text(until or _FOR_EVER))))
        if until is not None:
            yield from itertools.islice(
                self._index.rows(Filters(since=_text(until + 1), upstreams=(self._upstream,))), most
            )

    def _of_row(self, found: Found) -> list[Flight]:
        if not found.is_complete and found.told.atoms is None:
            self._unread.add(found.exchange.id)
        return indexed.of_row(found, self._index.whole)

    # What befell backends before -------------------------------------------------------------------------------

    def before(self, upstream: str) -> _Before | None:
        """What is known of a backend from before the window; None: all is in it."""
        if upstream not in self._before:
            is_older = self.precedents.has_ended_before(upstream, self.since_us)
            self._before[upstream] = _Before(self, upstream) if is_older else None
        return self._before[upstream]

    def holds(self, sighting: Sighting) -> bool:
        """Whether there is enough around it."""
        begun = self.before(sighting.upstream) is None or sighting.at >= self.since + _EDGE_SECONDS
        is_over = self._until_us is None or sighting.at < self._until_us / 1e6 - _SETTLED_SECONDS
        return begun and (is_over or sighting.upstream == self._upstream)

    def of(self, upstream: str) -> list[Flight]:
        """What it has of one backend."""
        return self._here.get(upstream, [])

    def _reported(self, reports: Iterable[Report]) -> list[Report]:
        """What was reported of the time before it, as far back as the journal goes, and not too much of it."""
        begun, found, flights = self.precedents.begun(), list[Report](), 0
        for each in sorted(reports, key=lambda each: each.at, reverse=True):
            is_earlier = each.at < self.since + _EDGE_SECONDS and self.before(each.upstream) is not None
            if is_earlier and begun is not None and begun <= _micros(each.at) and flights <= _MOST_EARLIER:
                flights += len(each.fields["in_flight"])
                found.append(each)
        return found[::-1]

    def _earlier_flights(self) -> dict[str, list[Flight]]:
        """What was there at those incidents, by id."""
        ids = {id for each in self.reports for id in (*each.fields["in_flight"], *each.declined)}
        there: dict[str, list[Flight]] = defaultdict(list)
        for found in self.precedents.of_ids(sorted(ids)):
            for flight in self._of_row(found):
                there[flight.id].append(flight)
        return there

    # What is usual ---------------------------------------------------------------------------------------------

    def around(self, sighting: Sighting) -> Surroundings:
        """What went on at its backend before it."""
        upstream, at = sighting.upstream, sighting.at
        left = rank.surroundings((each for each in self.beside if each.upstream == upstream), at).left
        return Surroundings(
            rank.surroundings(self.of(upstream), at).lately,
            self.first_answer(upstream),
            self.precedents.left(upstream, _micros(at)) + left,
        )

    def first_answer(self, upstream: str) -> float | None:
        """When a backend first showed that it serves."""
        first = self.precedents.first_answer(upstream)
        found = [each.answered for each in self.of(upstream) if each.served]
        return min(found if first is None else [first / 1e6, *found], default=None)

    def past(self, seen: Sequence[Sighting]) -> Past:
        """What the index has counted, and what has no row yet, without what was there when something happened."""
        usual = _Usual(self.precedents)
        for sighting in seen:
            usual.know_bodies(itertools.chain(*rank.suspects(sighting, self.around(sighting))))
        doubtful = rank.unserved(self.flights, [*seen, *(sighting for sighting, _ in self.earlier)])
        doubtful |= {id for report in self.reports for id in report.declined}
        earlier = itertools.chain.from_iterable(self._there.values())
        served = {each.id: each for each in (*earlier, *self.rows) if each.served and each.atoms is not None}
        for id, each in served.items():
            if id in self._unread:
                usual.add(each, int(id not in doubtful))
            elif id in doubtful:
                usual.add(each, -1)
            else:
                usual.note(each)
        for each in self.beside:
            usual.come(each)
            if each.served and each.id not in doubtful:
                usual.add(each)
        return usual.past()


class _Usual:
    """`rank.Past` in the making."""

    def __init__(self, precedents: Precedents) -> None:
        self._precedents = precedents
        self._everything = Base(())
        self._by_model: dict[str, Base] = {}
        self._arrivals = precedents.arrivals()
        self._come: set[tuple[str, str]] = set()
        for model, fingerprint, times in precedents.shapes():
            for base in self._bases(model):
                base.add_shape(model, fingerprint, times)
        for model, place, value, times in precedents.atoms():
            for base in self._bases(model):
                base.add_atom(place, value, times)

    def _bases(self, model: str) -> tuple[Base, Base]:
        if model not in self._by_model:
            self._by_model[model] = Base(())
        return self._by_model[model], self._everything

    def know_bodies(self, flights: Iterable[Flight]) -> None:
        """Know how often each of these was served, byte for byte."""
        for fingerprint, body in {(each.fingerprint, each.body) for each in flights}:
            if body not in self._everything.bodies:
                for model, times in self._precedents.bodies(fingerprint, body):
                    for base in self._bases(model):
                        base.bodies[body] += times

    def note(self, flight: Flight) -> None:
        """One that the index has counted."""
        for base in self._bases(flight.model):
            base.ids.add(flight.id)

    def add(self, flight: Flight, times: int = 1) -> None:
        """One that it has not; or with -1 one that it has, and that does not count."""
        for base in self._bases(flight.model):
            base.add(flight, times)

    def come(self, flight: Flight) -> None:
        """One that has come and has no row, however it ends."""
        request = flight.fingerprint, flight.body
        if request not in self._come and not self._precedents.has_come(*request):
            self._come.add(request)
            self._arrivals[flight.fingerprint] = self._arrivals.get(flight.fingerprint, 0) + 1

    def past(self) -> Past:
        """What was added."""
        return Past(self._by_model, self._everything, self._arrivals, sum(self._arrivals.values()))


class _Before:
    """A `detect.Before`."""

    def __init__(self, window: Window, upstream: str) -> None:
        self.since = window.since
        self._window = window
        self._upstream = upstream

    @property
    def death(self) -> float | None:
        """The first break of the last death."""
        return max((each.broke_at for each in self._reports() if each.broke_at is not None), default=None)

    @property
    def broken_until(self) -> float | None:
        """The end of what began with its first start."""
        kinds = (each for each in self._reports() if each.fields["class"] == Class.BROKEN_FROM_START.value)
        return next((each.until for each in kinds), None)

    def _reports(self) -> Iterator[Report]:
        return (each for each in self._window.reports if each.upstream == self._upstream)

    def first_answer(self) -> float | None:
        return self._window.first_answer(self._upstream)

    def back_after(self, at: float) -> float | None:
        found = self._window.precedents.back_after(self._upstream, _micros(at))
        if found is None:
            return None
        here = (each for each in indexed.of_row(found, lambda _: None) if each.upstream == self._upstream)
        back = next((each.answered for each in here if each.served), None)
        return back if back is not None and back < self.since else None

    def served(self, since: float, until: float) -> _Served:
        first = 0 if since == float("-inf") else _micros(since)
        last = self._window.since_us if until >= self.since else _micros(until)
        return _Served(self._window, self._upstream, first, last)


class _Served:
    """A `detect.Served`, from one moment until another one, in microseconds."""

    def __init__(self, window: Window, upstream: str, since: int, until: int) -> None:
        self._window = window
        self._span = upstream, since, until
        here = (each for each in window.beside if each.upstream == upstream and each.served)
        beside = (each for each in here if since <= _micros(each.answered) < until)
        self._beside = sorted(beside, key=lambda each: each.answered)
        self.count = window.precedents.answers(*self._span) + len(self._beside)

    @property
    def first_constrained(self) -> Flight | None:
        return next(iter(sorted([*self._rows(1), *self._constrained()], key=lambda each: each.answered)), None)

    def constrained(self, most: int) -> list[Flight]:
        found = [*self._rows(most, newest_first=True), *self._constrained()]
        return sorted(found, key=lambda each: each.answered)[-most:]

    def has_shape(self, fingerprint: str) -> bool:
        upstream, since, until = self._span
        return any(each.fingerprint == fingerprint for each in self._beside) or self._window.precedents.has_served(
            upstream, fingerprint, since, until
        )

    def _constrained(self) -> list[Flight]:
        return [each for each in self._beside if each.is_constrained]

    def _rows(self, most: int, *, newest_first: bool = False) -> list[Flight]:
        found = self._window.precedents.constrained(*self._span, most, newest_first=newest_first)
        flights = (flight for each in found for flight in indexed.of_row(each, lambda _: None))
        return [each for each in flights if each.served and each.upstream == self._span[0]]


def _sighting(report: Report, there: dict[str, list[Flight]]) -> Sighting:
    """What was seen, as far as a later one is held against it."""
    flights = [flight for id in report.fields["in_flight"] for flight in there.get(id, ())]
    return Sighting(
        kind=_KINDS.get(Class(report.fields["class"]), Kind.DEATH),
        upstream=report.upstream,
        cluster=report.fields["cluster"],
        at=report.at,
        until=report.until,
        confidence=report.fields["confidence"],
        evidence=(),
        in_flight=tuple(each for each in flights if each.upstream == report.upstream),
        life=Life(None),
    )


_KINDS: Final = {Class.HANG: Kind.HANG, Class.FREEZE: Kind.FREEZE, Class.BROKEN_FROM_START: Kind.BROKEN}


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


def _text(micros: int) -> str:
    return timestamp(micros * 1000)
