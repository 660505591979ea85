"""What befell the backends, from the exchanges of a journal alone: each incident with its class and its suspects.

    found = incidents(flights)      # in the order of time; the same for the same exchanges, always

The class is decided last, since what was seen does not tell it: a process that is stopped by a person can look exactly
like one that a request has killed. Where nothing points to a request, it was `stopped_or_killed`, and nobody is named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Protocol

from extproc.core.times import moment_text
from extproc.errors import ExtprocError
from extproc.incidents import detect, rank
from extproc.incidents.backends import Answer, Known, Start
from extproc.incidents.detect import Before, Kind, Sighting
from extproc.incidents.evidence import Flight
from extproc.incidents.rank import Past, Ranking, Surroundings, Suspect
from extproc.incidents.words import counted

LOOP_SECONDS: Final = 600.0
"""So many deaths of one backend within this time are a loop."""
LOOP_DEATHS: Final = 3
ID: Final = re.compile(r"[0-9]{8}-[0-9]{6}(-[0-9a-f]{0,6})?")
"""An incident's id, or its beginning; no exchange is called so."""
_NOTHING: Final = Known()
_QUOTED: Final = re.compile(r'".*"', re.DOTALL)
"""From the first to the last: whatever stands between them."""


class Class(Enum):
    """What an incident was."""

    DEATH = "death"
    HANG = "hang"
    FREEZE = "freeze"
    CRASH_LOOP = "crash_loop"
    BROKEN_FROM_START = "broken_from_start"
    STOPPED_OR_KILLED = "stopped_or_killed"


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident."""

    id: str
    kind: Class
    sighting: Sighting
    ranking: Ranking
    evidence: tuple[str, ...]
    start: Start | None = None
    """What ran there, by its own word; None: it was not asked."""

    @property
    def at(self) -> str:
        """Its moment, RFC 3339."""
        return _text(self.sighting.at)

    @property
    def ended_at(self) -> str | None:
        """When a hang or a freeze was over, RFC 3339; None: it lasts, as far as is known, or it was none of these."""
        over = self.kind in (Class.HANG, Class.FREEZE) and not self.sighting.lasts
        return _text(self.sighting.until) if over else None

    @property
    def in_flight(self) -> tuple[Flight, ...]:
        """What was in flight at its moment, oldest first."""
        return self.sighting.in_flight

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """Those who may have caused it, the likeliest first; none where no request is to blame."""
        return self.ranking.suspects if self.verdict == "suspects" else ()

    @property
    def verdict(self) -> str:
        """`suspects` or `no_request`."""
        named = self.kind not in (Class.STOPPED_OR_KILLED, Class.BROKEN_FROM_START) and self.ranking.accused
        return "suspects" if named else "no_request"

    def redacted(self) -> Incident:
        """The same without any value that may be a secret of whoever sent it: kinds and places stay, quotes go."""
        suspects = tuple(
            replace(each, reasons=tuple(_QUOTED.sub('"..."', line) for line in each.reasons))
            for each in self.ranking.suspects
        )
        evidence = tuple(_QUOTED.sub('"..."', line) for line in self.evidence)
        return replace(self, ranking=replace(self.ranking, suspects=suspects), evidence=evidence)

    def fields(self) -> dict[str, Any]:
        """What `extproc incidents --json` prints."""
        sighting = self.sighting
        return {
            "id": self.id,
            "class": self.kind.value,
            "upstream": sighting.upstream,
            "cluster": sighting.cluster,
            "at": self.at,
            "ended_at": self.ended_at,
            "confidence": sighting.confidence,
            "evidence": list(self.evidence),
            "verdict": self.verdict,
            "suspects": [
                {
                    "exchange": each.flight.id,
                    "rank": rank,
                    "score": each.score,
                    "reasons": list(each.reasons),
                    "latch": each.latch.id if each.latch is not None else None,
                }
                for rank, each in enumerate(self.suspects, 1)
            ],
            "in_flight": [each.id for each in self.in_flight],
            "backend": self.backend,
        }

    @property
    def backend(self) -> dict[str, str | None]:
        """What it said of itself, and else what its errors and the journal tell."""
        said = Answer() if self.start is None else self.start.answer
        life, engine = self.sighting.life, self.sighting.engine
        started = life.started if said.started_at is None else said.started_at
        return {
            "engine": said.engine or (engine.name if engine else None),
            "version": said.version,
            "started_at": None if started is None else _text(started),
        }


class History(Protocol):
    """A journal, of which only some flights are given."""

    @property
    def earlier(self) -> Sequence[tuple[Sighting, Class]]:
        """What befell backends before these."""
        ...

    def before(self, upstream: str) -> Before | None:
        """What is known of a backend from before these; None: they are all."""
        ...

    def holds(self, sighting: Sighting) -> bool:
        """Whether these tell enough of what seems to have befallen a backend."""
        ...

    def past(self, seen: Sequence[Sighting]) -> Past:
        """What is usual in the journal. `seen`: what befell backends among these flights."""
        ...

    def around(self, sighting: Sighting) -> Surroundings:
        """What went on at its backend before it."""
        ...


class _Whole:
    """A journal of which all flights are given."""

    earlier: Sequence[tuple[Sighting, Class]] = ()

    def __init__(self, flights: Sequence[Flight]) -> None:
        self._flights = flights
        self._by_upstream: dict[str, list[Flight]] = {}

    def before(self, upstream: str) -> Before | None:
        return None

    def holds(self, sighting: Sighting) -> bool:
        return True

    def past(self, seen: Sequence[Sighting]) -> Past:
        hit = {each.upstream for each in seen}
        self._by_upstream = {upstream: [] for upstream in hit}
        for each in self._flights:
            if each.upstream in hit:
                self._by_upstream[each.upstream].append(each)
        return rank.past(self._flights, seen)

    def around(self, sighting: Sighting) -> Surroundings:
        return rank.surroundings(self._by_upstream[sighting.upstream], sighting.at)


def incidents(
    flights: Iterable[Flight],
    now: float | None = None,
    known: Known = _NOTHING,
    history: History | None = None,
) -> list[Incident]:
    """Every incident in a journal, in the order of time. `now`: see `detect.sightings`; `known`: what backends said;
    `history`: what is known of the journal beside these flights, None: they are all of it."""
    everything = list(flights)
    journal = _Whole(everything) if history is None else history
    seen = list(filter(journal.holds, detect.sightings(everything, now, journal.before)))
    if not seen:
        return []
    past = journal.past(seen)
    others = [*(sighting for sighting, _ in journal.earlier), *seen]
    kinds = list(journal.earlier)
    found: list[Incident] = []
    for sighting in seen:
        ranking = rank.rank(sighting, past, others, journal.around(sighting))
        kind = _class(sighting, ranking, kinds)
        kinds.append((sighting, kind))
        start = known.running(sighting.upstream, sighting.at, sighting.life.started)
        found.append(Incident(_id(sighting), kind, sighting, ranking, (*sighting.evidence, *_life(sighting)), start))
    return found


def named(found: Sequence[Incident], id: str) -> Incident:
    """The one that goes by `id`: whole, its beginning, its end, or `last`. ExtprocError where there is not one."""
    if id == "last" and found:
        return found[-1]
    those = [each for each in found if each.id.startswith(id) or (len(id) >= 6 and each.id.endswith(id))]
    if not those:
        raise ExtprocError("there is no incident" if id == "last" else f"no incident goes by {id!r}")
    if len(those) > 1:
        raise ExtprocError(f"{len(those)} incidents go by {id!r}: {', '.join(each.id for each in those[:4])}")
    return those[0]


def _class(sighting: Sighting, ranking: Ranking, earlier: Sequence[tuple[Sighting, Class]]) -> Class:
    if sighting.kind is Kind.FREEZE:
        return Class.FREEZE
    if sighting.kind is Kind.BROKEN:
        return Class.BROKEN_FROM_START
    if sighting.kind is Kind.HANG and not sighting.broken:
        return Class.HANG
    if not ranking.accused:
        return Class.STOPPED_OR_KILLED
    recent = sum(
        other.upstream == sighting.upstream
        and kind in (Class.DEATH, Class.CRASH_LOOP)
        and sighting.at - other.at <= LOOP_SECONDS
        for other, kind in earlier
    )
    if recent >= LOOP_DEATHS - 1:
        return Class.CRASH_LOOP
    return Class.HANG if sighting.kind is Kind.HANG else Class.DEATH


def _life(sighting: Sighting) -> Iterable[str]:
    """What is known of the backend since its start."""
    life = sighting.life
    since = "since the journal began" if life.started is None else f"since it was back at {_text(life.started)}"
    yield f"it had served {counted(life.count, 'request')} {since}"
    if (first := life.first_constrained) is not None:
        yield f"the first with a constraint among them, {sighting.at - first.started:.1f} s before: {first.id}"


def _id(sighting: Sighting) -> str:
    """The same for the same backend and moment, to the millisecond; it sorts by time."""
    # By way of microseconds, which are exact: on their way to a float a half may have become less.
    milliseconds = (round(sighting.at * 1e6) + 500) // 1000
    digest = hashlib.sha256(f"{sighting.upstream} {milliseconds}".encode()).hexdigest()[:6]
    return f"{datetime.fromtimestamp(sighting.at, UTC):%Y%m%d-%H%M%S}-{digest}"


def _text(at: float) -> str:
    return moment_text(datetime.fromtimestamp(at, UTC))
