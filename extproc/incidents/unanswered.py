"""A hang of which no stream tells: requests that wait for their first token, far longer than any had to before.

    for spell in unanswered.spells(flights, elsewhere, until): ...      # of one backend

A spell is a time in which nobody there got anything. That alone says little: answers in one piece take as long as they
take, prompts are long, models are loaded, clients queue and lose patience. So it is told only where all of this holds:

- It lasts for `SPELL_SECONDS`: a gateway that holds requests back for a limit by the minute has let some go by then.
- `_MANY` different requests of streams waited for their first token. How soon that comes is not for them to choose.
  Each is like some that were served in the minutes before.
- Each had waited for `_WAIT_SECONDS`, and `_LONGER` times as long as any other in the minutes before, since it had a
  place: since fewer older ones were there than streams had flowed at once. What waits behind those is in a queue.
- Nothing there was much larger than those streams, or for a model that was not served: a long prompt, or a model that
  is being loaded, holds up the others.
- The backend was warm: `_SERVED` streams in the minutes before, and no pause before the first that waited.
- The last that was seen before was an answer, no error.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from extproc.incidents.evidence import End, Flight

SPELL_SECONDS: Final = 60.0
_WAIT_SECONDS: Final = 10.0
_LONGER: Final = 4
_BEFORE_SECONDS: Final = 600.0
"""What was served within this time is what is usual."""
_SERVED: Final = 20
_PAUSE_SECONDS: Final = 60.0
"""A backend that gave nothing for longer, since nobody asked, may have been scaled down, or its model unloaded."""
_LARGER: Final = 2
_MANY: Final = 3
_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Spell:
    """One that tells of a hang."""

    at: float
    """When it began: the last byte that anybody got."""
    until: float
    """The next byte, or a break; infinite where neither was seen."""
    known_until: float
    due: float
    """When the first that waited would have had its first token on another day."""
    waiting: tuple[Flight, ...]
    """Those that tell of it."""
    broken: bool
    """It was ended by a break."""
    goes_on: bool
    """It was ended by an answer to one that had waited."""
    longest: float
    """How long anybody had waited before."""
    served: int

    @property
    def evidence(self) -> tuple[str, str]:
        """What was seen, in words."""
        lasted = min(self.until, self.known_until) - self.at
        return (
            f"{len(self.waiting)} streams waited for a first token, and nobody there got a byte, for {lasted:.1f} s",
            f"before, {self.served} streams had it after {self.longest:.1f} s at most",
        )


class _Sign(NamedTuple):
    """From when until when something came of a backend: an answer, or its break."""

    began: float
    ended: float
    answers: bool


class _Usual(NamedTuple):
    """What was usual before a spell."""

    served: int
    longest: float
    """How long anybody waited for the first token, those who left without one included."""
    median: float
    at_once: int
    """Streams that gave tokens at the same time."""
    largest: int
    shapes: frozenset[str]
    models: frozenset[str]

    def has_like(self, each: Flight) -> bool:
        """Whether it is not much larger, and for no other model."""
        return each.size <= _LARGER * self.largest and (not each.model or each.model in self.models)


def spells(flights: Sequence[Flight], elsewhere: Sequence[Flight], until: float) -> Iterator[Spell]:
    """Those of one backend. `flights`: all of it, by their beginning; `elsewhere`: what waits and may be there, too;
    `until`: up to when is known what happened."""
    if sum(each.streamed and _waited_until(each) - each.started >= _WAIT_SECONDS for each in flights) < _MANY:
        return
    found = None
    for since, sign in _gaps(flights, until):
        found = found or _Backend(flights, elsewhere, until)
        if spell := found.spell(since, sign):
            yield spell


def last_sign(each: Flight) -> float | None:
    """When a backend last gave something to an exchange."""
    return max((sign.ended for sign in _signs(each) if sign.answers), default=None)


def _gaps(flights: Sequence[Flight], until: float) -> Iterator[tuple[float, _Sign]]:
    """Times without any sign: since when, after an answer, and the sign that ended it."""
    signs = sorted(sign for each in flights for sign in _signs(each))
    if not signs:
        return
    over, answered = signs[0].ended, signs[0].answers
    for sign in [*signs[1:], _Sign(_NEVER, _NEVER, True)]:
        if answered and min(sign.began, until) - over >= SPELL_SECONDS:
            yield over, sign
        if sign.ended >= over:
            over, answered = sign.ended, sign.answers


def _signs(each: Flight) -> Iterator[_Sign]:
    last = each.quiet_from()
    if each.streamed and each.token is not None:
        last = max(each.token, last or each.token)
        began, over = each.silence or (last, last)
        if each.token <= began <= over <= last:
            yield _Sign(each.token, began, True)
            yield _Sign(over, last, True)
        else:
            yield _Sign(each.token, last, True)
    elif each.end in (End.GOOD, End.DECLINED):
        at = each.last_byte or each.ended or each.started
        if each.size:  # what asks for nothing may be answered by a server whose engine hangs
            yield _Sign(at, at, True)
    elif last is not None and each.first_byte is not None and not each.only_greeted:
        yield _Sign(each.first_byte, last, True)
    if each.end in (End.BAD, End.REFUSED, End.OTHER) and each.ended is not None:
        yield _Sign(each.ended, each.ended, False)


def _waited_until(each: Flight) -> float:
    return each.token or each.ended or _NEVER


def _waits(each: Flight, until: float) -> bool:
    """Whether it is a stream that had no token until a moment, or until its client left."""
    if each.token is not None:
        return each.streamed and each.token >= until
    return each.streamed and each.end in (End.LEFT, End.RUNNING)


class _Backend:
    """What is asked of one backend at each gap."""

    def __init__(self, flights: Sequence[Flight], elsewhere: Sequence[Flight], until: float) -> None:
        self._flights = flights
        self._elsewhere = elsewhere
        self._until = until
        self._starts = [each.started for each in flights]
        self._longest = max((each.ended - each.started for each in flights if each.ended is not None), default=0.0)
        self._unending = [each for each in flights if each.ended is None]
        streams = (each for each in flights if each.streamed and each.token is not None)
        self._streams = sorted(streams, key=lambda each: each.token or 0.0)
        self._tokens = [each.token or 0.0 for each in self._streams]

    def spell(self, since: float, sign: _Sign) -> Spell | None:
        """Whether a gap is one."""
        end = min(sign.began, self._until)
        there = self._there(since, end)
        if sum(_waits(each, end) for each in there) < _MANY or (usual := self._usual(since)) is None:
            return None
        waiting = [*there, *(each for each in self._elsewhere if each.started < end)]
        if any(not usual.has_like(each) for each in waiting):
            return None
        patience = max(_WAIT_SECONDS, _LONGER * usual.longest)
        told = [
            each
            for each, placed in _placed(waiting, usual.at_once)
            if _waits(each, end)
            and each.upstream
            and each.fingerprint in usual.shapes
            and min(each.ended or end, end) - max(placed, since) >= patience
        ]
        if len({each.body for each in told if each.body}) < _MANY:
            return None
        first = min(each.started for each in told)
        if first - since > _PAUSE_SECONDS or end - since < max(SPELL_SECONDS, patience):
            return None
        lasting = [each for each in there if end - each.started >= _WAIT_SECONDS]
        return Spell(
            at=since,
            until=sign.began,
            known_until=self._until,
            due=max(since, first) + usual.median,
            waiting=tuple(told),
            broken=not sign.answers,
            goes_on=sign.answers and any((each.last_byte or 0.0) >= sign.began for each in lasting),
            longest=usual.longest,
            served=usual.served,
        )

    def _there(self, since: float, end: float) -> list[Flight]:
        """What was in flight in a gap, oldest first."""
        oldest = since - self._longest - 1
        ended = self._flights[bisect_left(self._starts, oldest) : bisect_left(self._starts, end)]
        unending = (each for each in self._unending if each.started < oldest)
        return [*unending, *(each for each in ended if (each.ended or _NEVER) > since)]

    def _usual(self, at: float) -> _Usual | None:
        """What was usual before a moment; None: too little was served to know."""
        served = self._streams[bisect_left(self._tokens, at - _BEFORE_SECONDS) : bisect_right(self._tokens, at)]
        if len(served) < _SERVED:
            return None
        first, last = bisect_left(self._starts, at - _BEFORE_SECONDS), bisect_right(self._starts, at)
        lately = self._flights[first:last]
        waits = sorted((each.token or at) - each.started for each in served)
        left = [each for each in lately if _waits(each, at) and (each.ended or _NEVER) <= at]
        answered = [each for each in lately if each.served and (each.token or each.ended or at) <= at]
        return _Usual(
            served=len(served),
            longest=max([waits[-1], *((each.ended or at) - each.started for each in left)]),
            median=waits[len(waits) // 2],
            at_once=_at_once(served, at),
            largest=max(each.size for each in served),
            shapes=frozenset(each.fingerprint for each in served if each.fingerprint),
            models=frozenset(each.model for each in answered),
        )


def _at_once(streams: Sequence[Flight], until: float) -> int:
    """How many streams gave tokens at the same time, at most."""
    steps: list[tuple[float, int]] = []
    for each in streams:
        token = each.token or 0.0
        steps += [(token, 1), (max(token, min(each.quiet_from() or token, until)), -1)]
    return max(itertools.accumulate(step for _, step in sorted(steps)), default=0)


def _placed(flights: Sequence[Flight], places: int) -> Iterator[tuple[Flight, float]]:
    """Each with the moment from which on fewer older ones were there than so many."""
    ends: list[float] = []
    for each in sorted(flights, key=lambda each: (each.started, each.id)):
        yield each, each.started if len(ends) < places else max(each.started, ends[0])
        heapq.heappush(ends, each.ended or _NEVER)
        if len(ends) > places:
            heapq.heappop(ends)
