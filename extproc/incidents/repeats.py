"""The suspects of late incidents, to be known when they come again: a client's retry carries a killer on.

    repeats.expect(incident)
    repeats.of(record)       # the incident whose suspect a new request is like; None for almost all

The very same body is always known. One of the same parameters only where their shape was rare: else it is that of many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from extproc.core.records import AnyRecord, Request
from extproc.core.times import timestamp
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Incident

EXPECTED_SECONDS: Final = 600.0
LEAST_SCORE: Final = 0.15
MOST_SUSPECTS: Final = 3
RARE: Final = 3
"""A shape that so many requests had, of the last thousands, is rare."""
MOST: Final = 300


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a suspect."""

    incident: str
    upstream: str
    """The backend that it may have killed."""
    exchange: str
    until: float
    by: str
    """`body` or `fingerprint`."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """A request that is like a suspect."""

    id: str
    at: str
    upstream: str | None
    """Where it went; None: that is not known before it is answered."""
    expected: Expected

    def fields(self) -> dict[str, Any]:
        """As the webhook has it."""
        return {
            "exchange": self.id,
            "at": self.at,
            "same": self.expected.by,
            "as": self.expected.exchange,
            "incident": self.expected.incident,
            "killed": self.expected.upstream,
            "upstream": self.upstream,
        }


class Repeats:
    """`expect` is for one thread, `of` for another: what is expected is replaced as a whole."""

    def __init__(self) -> None:
        self._expected: Mapping[str, Expected] = {}

    def expect(self, incident: Incident, flights: Sequence[Flight], now: float) -> list[Repeat]:
        """Expect the first suspects of an incident, if there are any. Those that have come again already."""
        shapes = Counter(each.fingerprint for each in flights)
        more: dict[str, Expected] = {}
        for each in likely(incident):
            about = (incident.id, incident.sighting.upstream, each.id, now + EXPECTED_SECONDS)
            if each.fingerprint and shapes[each.fingerprint] <= RARE:
                more[each.fingerprint] = Expected(*about, "fingerprint")
            if each.body:
                more[each.body] = Expected(*about, "body")
        rest = {key: each for key, each in self._expected.items() if each.until > now}
        self._expected = dict(list((rest | more).items())[-MOST:])
        there = {each.id for each in incident.in_flight}
        later = (each for each in flights if each.started > incident.sighting.at and each.id not in there)
        return [
            Repeat(each.id, timestamp(int(each.started * 1e9)), each.upstream, more[each.body])
            for each in later
            if each.body in more
        ]

    def of(self, record: AnyRecord) -> Repeat | None:
        """Whether a `request` record is that of a suspect who has come again."""
        expected = self._expected
        if not expected or not isinstance(record, Request):
            return None
        body, shape = record.request and record.request.sha256, record.llm and record.llm.fingerprint
        found = expected.get(str(body)) or expected.get(str(shape))
        if found is None or record.id == found.exchange:
            return None
        return Repeat(record.id, record.started_at or record.at, None, found)


def likely(incident: Incident) -> list[Flight]:
    """The suspects of an incident who may well have done it."""
    return [each.flight for each in incident.suspects[:MOST_SUSPECTS] if each.score >= LEAST_SCORE]
