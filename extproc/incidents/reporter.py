"""What was seen to befall a backend becomes a report: searched for suspects, kept, told, and looked at again.

    reporter = Reporter(directory, kept, audience, repeats)   # with a thread: to read what went before takes its time
    reporter.report(sighting)                                 # returns at once
    reporter.close(timeout)

An incident is searched for in the minutes around its moment, as `extproc incidents` does it in all of the journal, and
told once: what it is held against has been counted in the index (`window.py`). Where none can be used, the last
exchanges of the journal have to do (`recent.py`). It is looked at again when what follows a death has followed
(connections refused, the backend back); where that changes its class or its first suspect, it is told as changed. A
silence that is seen again has ended, and is told so. At its start a reporter looks for what its predecessor did not
come to.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from extproc.history.index.store import Unusable
from extproc.incidents import backends, detect, live, rank, recent, window
from extproc.incidents.detect import Kind, Sighting
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Incident, incidents
from extproc.incidents.kept import Kept, Report
from extproc.incidents.window import Reach

AGAIN_SECONDS: Final = (detect.AFTERWARDS_SECONDS + 5, detect.LASTING_SECONDS + 15, 300.0, 900.0)
"""How long after an incident it is looked at again: when connections were refused, when nothing was served for long,
and when exchanges that hung have ended, of which only then is known which backend they were at."""
_log = logging.getLogger("extproc.incidents")


class Audience(Protocol):
    """Who is told. Calls come from the reporter's thread."""

    def found(self, found: Incident, report: Report, flights: Sequence[Flight]) -> None:
        """A new one, and the exchanges among which it was found."""
        ...

    def changed(self, found: Incident, report: Report, before: Report) -> None:
        """One whose class or first suspect is another one than `before`, or that has lasted until now."""
        ...

    def undelivered(self, report: Report) -> None:
        """One that was found before a restart, and not delivered."""
        ...


@dataclass(frozen=True, slots=True)
class _Look:
    """To look for what befell a backend at a moment."""

    upstream: str
    at: float
    again: bool = False


class Reporter:
    """For one data directory. `report` is for any thread. `catch_up_from`: what befell a backend since then is looked
    for at the start; None: nobody was to report anything before."""

    def __init__(
        self,
        directory: Path,
        kept: Kept,
        audience: Audience,
        catch_up_from: float | None,
        reach: Reach = window.REACH,
    ) -> None:
        self._directory = directory
        self._reach = reach
        self._misses_index = False
        self._kept = kept
        self._audience = audience
        self._catch_up_from = None if catch_up_from is None else max(catch_up_from, kept.since)
        self._asked: queue.SimpleQueue[_Look | None] = queue.SimpleQueue()
        self._later: list[tuple[float, _Look]] = []
        """What to look at again, and when."""
        self._thread = threading.Thread(target=self._run, name="incidents", daemon=True)
        self._thread.start()

    def report(self, sighting: Sighting) -> None:
        """Report what was seen."""
        self._asked.put(_Look(sighting.upstream, sighting.at))

    def close(self, timeout: float) -> None:
        """Report what was seen until now, for at most so many seconds."""
        self._asked.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        self._carefully(self._catch_up)
        while True:
            try:
                look = self._asked.get(timeout=self._pause())
            except queue.Empty:
                looks = self._due()
            else:
                if look is None:
                    return
                looks = [look]
            self._carefully(lambda looks=looks: self._look(looks))  # type: ignore[misc]

    @staticmethod
    def _carefully(step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # noqa: BLE001 - those to come are another matter
            _log.exception("incidents could not be looked for")

    def _pause(self) -> float | None:
        return max(0.0, min(at for at, _ in self._later) - time.time()) if self._later else None

    def _due(self) -> list[_Look]:
        now = time.time()
        due = [look for at, look in self._later if at <= now]
        self._later = [(at, look) for at, look in self._later if at > now]
        return due

    def _catch_up(self) -> None:
        """What was not delivered, and what was not even reported: whoever was to do it was killed."""
        for report in self._kept:
            if not report.delivered:
                self._audience.undelivered(report)
        if self._catch_up_from is None:
            return
        lasting = [_Look(each.upstream, each.at, again=True) for each in self._kept if each.lasts]
        self._look([each for each in lasting if each.at < self._catch_up_from])
        found, flights = self._found("", self._catch_up_from)
        now = time.time()
        for each in found:
            # Where the last exchanges begin, an outage may look like a start that failed.
            is_known = each.sighting.kind is not Kind.BROKEN and live.sure_at(each.sighting) <= now
            if is_known and each.sighting.at >= self._catch_up_from:
                self._take(each, flights)

    def _look(self, looks: Sequence[_Look]) -> None:
        for look in looks:
            found, flights = self._found(look.upstream, look.at)
            those = [each for each in found if _is_of(each, look)]
            for each in those:
                self._take(each, flights)
            if not those and not look.again:
                _log.warning(
                    "what was seen of a backend is not found in the journal", extra={"upstream": look.upstream}
                )

    def _found(self, upstream: str, at: float) -> tuple[list[Incident], Sequence[Flight]]:
        """What befell backends around a moment, and among which exchanges that was found."""
        known = backends.load([self._directory])
        try:
            with window.opened(self._directory, at, upstream, self._kept, self._reach) as seen:
                until = recent.known_until([self._directory], seen.flights)
                return incidents(seen.flights, until, known, seen), seen.flights
        except Unusable as error:
            if not self._misses_index:
                self._misses_index = True
                _log.warning("incidents are searched for among the last exchanges, without the index: %s", error)
        flights = recent.flights(self._directory, datetime.now(UTC))
        return incidents(flights, recent.known_until([self._directory], flights), known), flights

    def _take(self, found: Incident, flights: Sequence[Flight]) -> None:
        """Keep an incident, and tell of it, unless everything is known already."""
        before = self._kept.of(found.sighting.upstream, found.sighting.at)
        report = Report(
            id=found.id if before is None else before.id,
            upstream=found.sighting.upstream,
            at=found.sighting.at,
            until=found.sighting.until,
            fields=found.fields(),
            redacted=found.redacted().fields(),
            delivered=False if before is None else before.delivered,
            trace=_trace(found) if before is None else before.trace,
            broke_at=found.sighting.broke_at,
            declined=tuple(sorted(rank.declined(flights, [found.sighting]))),
        )
        self._kept.put(report)
        if before is None:
            self._look_again(found)
            self._audience.found(found, report, flights)
        elif before.gist != report.gist:
            self._audience.changed(found, report, before)

    def _look_again(self, found: Incident) -> None:
        look, now = _Look(found.sighting.upstream, found.sighting.at, again=True), time.time()
        times = (found.sighting.at + seconds for seconds in AGAIN_SECONDS)
        self._later += [(at, look) for at in times if at > now]


def _trace(found: Incident) -> str:
    return found.suspects[0].flight.trace if found.suspects else ""


def _is_of(found: Incident, look: _Look) -> bool:
    seen = found.sighting
    return seen.upstream == look.upstream and live.is_same(look.at, seen.at, seen.until)
