"""Deaths, hangs and freezes while they happen: the same search as `detect`, asked again as exchanges end.

    watch = Watch()
    watch.add(flight)                    # of each exchange that has ended
    for sighting in watch.look(now, others): ...

`others` gives what is not over, or not final, at that moment; it is asked for only when there is something to look at.
Of some exchanges nobody can say where they are and how far they have come; while they run, nothing is told for some
seconds more.

A sighting comes once, as soon as nothing that may still be on its way can take it back: a break after which another
stream went on was none, and a backend that served again at once was not away. That is `SURE_SECONDS` after the first
bad end, and less where streams were cut in the middle. A silence comes while it lasts, and once more when it is over:
then it is known whether it was a freeze.

The search is the dearer part, so it is made only of a backend at which something was seen (a bad end, a connection that
was refused, a silence, a long time without a byte for those who wait), at most once in `PAUSE_SECONDS`, over what ended
there lately.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from extproc.incidents import detect, unanswered
from extproc.incidents.detect import Kind, Sighting
from extproc.incidents.evidence import End, Flight

PAUSE_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 1.5
"""So long after the last bad end nothing more of the same comes, and what went on has shown it."""
SURE_SECONDS: Final = 5.5
"""So long after a break a backend that was never away has shown it."""
BROKEN_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 3.0
"""So much longer is waited for what is not known of some exchange."""
KEPT_SECONDS: Final = 900.0
MOST_KEPT: Final = 3000
"""Of what has ended at a backend, so much is looked at."""
MOST_TOLD: Final = 20
SAME_SECONDS: Final = 2.0
"""Two moments of one backend that lie so close are one."""
_LATELY_SECONDS: Final = 6.0
"""A silence of streams that go on is looked at when it is over, and for so long."""
_SOON_SECONDS: Final = 3.0
"""After a silence of so long it is worth looking more often."""
_UNANSWERED_PAUSE_SECONDS: Final = 5.0
"""How often it is looked whether those who wait tell of a hang."""
_LATE_SECONDS: Final = 120.0
"""What was over so long ago was looked at when more was known of what came before it."""
_ALL_ENDED_SECONDS: Final = 6.0
"""So long after a byte of a backend all that had ended before it is known."""
_MANY: Final = 3

Others = Callable[[], tuple[Iterable[Flight], float]]
"""What has not ended, or is not final; and the beginning of the oldest exchange of which is not known how far it has
come, and where: what came before that can be told."""


class _Told(NamedTuple):
    """What a sighting was given of."""

    at: float
    until: float
    lasts: bool


class Watch:
    """All backends. Times are those of the exchanges, so that a journal can be played at any speed."""

    def __init__(self) -> None:
        self._ended: dict[str, deque[Flight]] = defaultdict(lambda: deque(maxlen=MOST_KEPT))
        self._due: dict[str, float] = {}
        """When to look at a backend, of those with something to see."""
        self._looked: dict[str, float] = {}
        self._told: dict[str, list[_Told]] = defaultdict(list)
        self._signs: dict[str, float] = {}
        """When a backend last gave anybody a byte,"""
        self._left: Counter[str] = Counter()
        """and how many have left it since, without one."""

    def add(self, flight: Flight) -> None:
        """One that has ended."""
        self._ended[flight.upstream].append(flight)
        if flight.ended is None:
            return
        if (sign := unanswered.last_sign(flight)) is not None:
            self._note_sign(flight.upstream, sign)
        elif flight.end is End.LEFT:
            self._left[flight.upstream] += 1
        silent = flight.silence is not None and flight.silence[1] - flight.silence[0] >= detect.FREEZE_SECONDS
        if silent or flight.end in (End.BAD, End.REFUSED):
            self._look_at(flight.upstream, flight.ended + SETTLE_SECONDS)

    def silences(self, now: float, running: Iterable[Flight]) -> bool:
        """Take note of the backends whose streams are silent, all of them, or were until lately, and forget those that
        are gone. Whether there may soon be more to see."""
        streams: dict[str, list[float]] = defaultdict(list)
        froze: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for each in running:
            if each.token is None or each.last_byte is None:
                waiting[each.upstream] += 1
                continue
            self._note_sign(each.upstream, each.last_byte)
            streams[each.upstream].append(each.last_byte)
            began, over = each.silence or (0.0, 0.0)
            froze[each.upstream] += over - began >= detect.FREEZE_SECONDS and over >= now - _LATELY_SECONDS
        silent = {
            upstream: now - max(last)
            for upstream, last in streams.items()
            if len(last) >= _MANY and now - max(last) >= _SOON_SECONDS
        }
        lasting = {upstream for upstream, told in self._told.items() if any(each.lasts for each in told)}
        for upstream in {each for each in silent if silent[each] >= detect.FREEZE_SECONDS} | lasting:
            self._look_at(upstream, now)
        for upstream in (each for each, count in froze.items() if count >= _MANY):
            self._look_at(upstream, now)
        for upstream, sign in self._signs.items():
            if now - sign >= unanswered.SPELL_SECONDS and waiting[upstream] + self._left[upstream] >= _MANY:
                self._look_at(upstream, self._looked.get(upstream, 0.0) + _UNANSWERED_PAUSE_SECONDS)
        for upstream in [each for each in {*self._ended, *self._signs} if self._last_seen(each) < now - KEPT_SECONDS]:
            for table in (self._ended, self._due, self._looked, self._told, self._signs, self._left):
                table.pop(upstream, None)
        return bool(silent or lasting or froze.total())

    def _note_sign(self, upstream: str, at: float) -> None:
        """A backend gave somebody a byte: after a long time without one it is looked for what that was."""
        before = self._signs.setdefault(upstream, at)
        if at > before:
            self._signs[upstream] = at
            self._left[upstream] = 0
        if at - before >= unanswered.SPELL_SECONDS:
            self._look_at(upstream, at + _ALL_ENDED_SECONDS)

    def _last_seen(self, upstream: str) -> float:
        lately = list(self._ended.get(upstream, ()))[-_MANY:]
        return max(self._signs.get(upstream, 0.0), *((each.ended or each.started) for each in lately), 0.0)

    @property
    def is_due(self) -> bool:
        """Whether there is something to look at, now or soon."""
        return bool(self._due)

    def look(self, now: float, others: Others) -> list[Sighting]:
        """What has befallen the backends, of which nothing was told before."""
        due = [
            upstream
            for upstream, at in self._due.items()
            if at <= now and now - self._looked.get(upstream, 0.0) >= PAUSE_SECONDS
        ]
        if not due:
            return []
        by_upstream: dict[str, list[Flight]] = defaultdict(list)
        there, unknown_from = others()
        for each in there:
            by_upstream[each.upstream].append(each)
        waiting = by_upstream.pop("", [])
        found = [
            sighting for each in due for sighting in self._look(each, now, [*by_upstream[each], *waiting], unknown_from)
        ]
        return sorted(found, key=lambda each: (each.at, each.upstream))

    def _look(self, upstream: str, now: float, others: Sequence[Flight], unknown_from: float) -> list[Sighting]:
        del self._due[upstream]
        self._looked[upstream] = now
        kept = self._ended[upstream]
        oldest = min([now, *(each.at for each in self._told[upstream] if each.lasts)]) - KEPT_SECONDS
        while kept and (kept[0].ended or kept[0].started) < oldest:
            kept.popleft()
        ready = []
        final = {each.id for each in kept}
        for sighting in detect.sightings([*kept, *(each for each in others if each.id not in final)], now):
            if self._was_told(sighting) or max(sighting.at, sighting.until) < now - _LATE_SECONDS:
                continue
            at = sure_at(sighting)
            if at <= now and (sighting.at < unknown_from or at + PATIENCE_SECONDS <= now):
                rest = [each for each in self._told[upstream] if not is_same(sighting.at, each.at, each.until)]
                told = _Told(sighting.at, sighting.until, sighting.lasts)
                self._told[upstream] = [*rest[-MOST_TOLD:], told]
                ready.append(sighting)
            else:
                self._look_at(upstream, max(at, now + PAUSE_SECONDS))
        if any(now - SURE_SECONDS <= each.ended <= now for each in kept if each.ended and each.end is End.BAD):
            self._look_at(upstream, now + PAUSE_SECONDS)
        return ready

    def _look_at(self, upstream: str, at: float) -> None:
        self._due[upstream] = min(at, self._due.get(upstream, at))

    def _was_told(self, sighting: Sighting) -> bool:
        """What was told to last is told again when it is over."""
        return any(
            is_same(sighting.at, each.at, each.until) and (sighting.lasts or not each.lasts)
            for each in self._told[sighting.upstream]
        )


def is_same(moment: float, at: float, until: float) -> bool:
    """Whether a moment belongs to what befell the same backend from one moment until another."""
    return at - SAME_SECONDS <= moment <= max(until, at) + SAME_SECONDS


def sure_at(sighting: Sighting) -> float:
    """From when on nothing that is still to come takes a sighting back."""
    match sighting.kind:
        case Kind.FREEZE:
            return sighting.until + SETTLE_SECONDS
        case Kind.BROKEN:
            return sighting.at + BROKEN_SECONDS
        case Kind.HANG if not sighting.broken:
            return sighting.at + detect.HANG_SECONDS
        case _:
            ends = [each.ended for each in sighting.in_flight if each.ended is not None and each.end is End.BAD]
            first = min(ends, default=sighting.at)
            settled = sighting.until + SETTLE_SECONDS
            if sum(_was_cut(each, first) for each in sighting.in_flight) >= _MANY:
                return settled
            return max(settled, first + SURE_SECONDS)


def _was_cut(each: Flight, at: float) -> bool:
    """A stream that was giving tokens, and ended badly."""
    return each.end is End.BAD and each.token is not None and each.token < at and (each.status or 500) < 500
