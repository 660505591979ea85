"""When a backend died, hung or froze: found in the exchanges of one upstream, by what they say together.

A death is: exchanges that were in flight end badly within a moment, and none of the others there goes on. Their number
alone says nothing (requests that fail by themselves come in bursts, too). A silence is: streams that were giving
tokens all stop at one moment. Where they go on afterwards it was a freeze, else a hang; where a break follows within
`AT_ONCE_SECONDS` it is the break that counts. Where few or none were giving tokens, those that wait for their first one
tell of it (`unanswered`), much later. While a silence lasts, those that wait for an answer, at a backend that
is not known yet, may be at this one.

One or two exchanges that end badly are a death only where more says so: connections refused afterwards, requests that
were served before and all fail now, or a known engine's message.

The moment is the first bad end; after a silence it is the last byte.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol

from extproc.incidents import unanswered
from extproc.incidents.engines import Engine, engine_of
from extproc.incidents.evidence import End, Flight
from extproc.incidents.unanswered import Spell
from extproc.incidents.words import counted

TOGETHER_SECONDS: Final = 1.0
"""Ends within this time are of one cause."""
SILENT_TOGETHER_SECONDS: Final = 4.0
"""Streams whose last pieces lie within this time fell silent together: a busy engine gives each one now and then."""
LINGER_SECONDS: Final = 5.0
"""A dying server goes on reporting for so long, without a pause as long as the one above."""
AT_ONCE_SECONDS: Final = 2.0
"""A silence of less before the end belongs to the end."""
FREEZE_SECONDS: Final = 5.0
HANG_SECONDS: Final = 8.0
WARM_SECONDS: Final = 10.0
"""A backend that has served for less may be compiling still."""
LASTING_SECONDS: Final = 60.0
"""A server that loads its model says that it is not ready for less."""
AFTERWARDS_SECONDS: Final = 30.0
"""Refused connections within this time tell of a death."""
_RESTART_SECONDS: Final = 1.0
"""No engine is back within this time: what serves then has never been away."""
_ALIVE_SECONDS: Final = 5.0
_BURST_SECONDS: Final = 1.0
"""Requests that fail by themselves come within so long."""
_STEP_SECONDS: Final = 0.1
"""Between an engine's tokens: what froze it came after the last of them, by so much at most."""
_MANY: Final = 3
_PAUSE_TOGETHER: Final = 6
"""So many streams do not pause at the same time by chance."""
_LONGER: Final = 2
"""Fewer that are silent together tell of something after so many times as long as any paused by itself lately."""
_LATELY_SECONDS: Final = 600.0
_NEVER: Final = float("inf")


class Kind(Enum):
    """What was seen."""

    DEATH = "death"
    HANG = "hang"
    """All silent until the end."""
    FREEZE = "freeze"
    """All silent for a time."""
    BROKEN = "broken"
    """Back, or new, and nothing served."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A moment at which something befell a backend."""

    kind: Kind
    upstream: str
    cluster: str | None
    at: float
    until: float
    """When the last of those that it took with it had ended, or when a freeze was over."""
    confidence: float
    evidence: tuple[str, ...]
    in_flight: tuple[Flight, ...]
    """What was in flight, oldest first."""
    life: Life
    engine: Engine | None = None
    broken: bool = False
    """The break came from without, or the silence was ended by one: not by those who waited."""
    lasts: bool = False
    """A silence of which the end is not known."""

    @property
    def broke_at(self) -> float | None:
        """When a death first broke something; None: it was none."""
        if self.kind is Kind.DEATH:
            return self.at
        ends = (each.ended for each in self.in_flight if each.end is End.BAD and each.ended is not None)
        return min(ends, default=self.at) if self.kind is Kind.HANG and self.broken else None


class Served(Protocol):
    """What a life of a backend had served before the first of the flights that are given."""

    @property
    def count(self) -> int:
        """How many requests."""
        ...

    @property
    def first_constrained(self) -> Flight | None:
        """The first one with a constraint on the form of its answer."""
        ...

    def constrained(self, most: int) -> list[Flight]:
        """The last ones of these, the last one last."""
        ...

    def has_shape(self, fingerprint: str) -> bool:
        """Whether one of them had it."""
        ...


@dataclass(frozen=True, slots=True)
class Life:
    """A backend from one start to the next."""

    started: float | None
    """None: before the journal begins."""
    served: Sequence[Flight] = ()
    """As far as the flights go back, in the order of their answers."""
    before: Served | None = None

    @property
    def count(self) -> int:
        """How many it had served."""
        return len(self.served) + (0 if self.before is None else self.before.count)

    @property
    def first_constrained(self) -> Flight | None:
        """The first one with a constraint on the form of its answer."""
        first = None if self.before is None else self.before.first_constrained
        return first or next((each for each in self.served if each.is_constrained), None)

    def constrained(self, most: int) -> list[Flight]:
        """The last ones of these, the last one last."""
        found = [each for each in self.served if each.is_constrained][-most:]
        if self.before is None or len(found) == most:
            return found
        return [*self.before.constrained(most - len(found)), *found]

    def has_shape(self, fingerprint: str) -> bool:
        """Whether it had served one of this shape."""
        return any(each.fingerprint == fingerprint for each in self.served) or (
            self.before is not None and self.before.has_shape(fingerprint)
        )


class Before(Protocol):
    """What is known of one backend from before the first of the flights that are given."""

    @property
    def since(self) -> float:
        """When they begin: what was answered from then on is among them."""
        ...

    @property
    def death(self) -> float | None:
        """The moment of its last death; None: of none is known."""
        ...

    @property
    def broken_until(self) -> float | None:
        """Until when it had served nothing at all; None: it always had."""
        ...

    def first_answer(self) -> float | None:
        """When it first showed that it serves."""
        ...

    def back_after(self, at: float) -> float | None:
        """When it first served a request that had begun after a moment."""
        ...

    def served(self, since: float, until: float) -> Served:
        """What it served from a moment on until another one."""
        ...


class _Sign(NamedTuple):
    """One thing that speaks for a death: how surely, and its line of evidence."""

    holds: bool
    weight: float
    line: str


class _Signs(NamedTuple):
    """All of them, in the order in which they are told."""

    cut: _Sign
    many: _Sign
    refused: _Sign
    alike: _Sign
    lasting: _Sign
    message: _Sign
    apart: _Sign


@dataclass(frozen=True, slots=True)
class _Break:
    """Bad ends that come together."""

    at: float
    until: float
    running: Sequence[Flight]
    together: Sequence[Flight]


@dataclass(frozen=True, slots=True)
class _Afterwards:
    """What became of the requests that came after a break."""

    back: float | None
    """When one of them was served."""
    lasted: float
    """How long none was, in seconds."""
    refused: Sequence[Flight]
    failing: Sequence[Flight]


def sightings(
    flights: Iterable[Flight], now: float | None = None, before: Callable[[str], Before | None] = lambda _: None
) -> list[Sighting]:
    """Everything that befell the backends, in the order of time. `now`: up to when is known what happened, where
    exchanges are in flight still; None: up to the last beginning or end. `before`: what is known of a backend from
    before these flights; None: they are all."""
    by_upstream: dict[str, list[Flight]] = defaultdict(list)
    for each in flights:
        by_upstream[each.upstream].append(each)
    until = max((each.ended or each.started for group in by_upstream.values() for each in group), default=0.0)
    until = max(until, now or 0.0)
    waiting = by_upstream.pop("", [])
    models = {upstream: {each.model for each in group if each.served} for upstream, group in by_upstream.items()}
    found = [
        sighting
        for name, group in by_upstream.items()
        for sighting in _Upstream(group, until, list(_may_be_at(name, waiting, models)), before(name)).sightings()
    ]
    return sorted(found, key=lambda sighting: (sighting.at, sighting.upstream))


def _may_be_at(upstream: str, waiting: Iterable[Flight], models: Mapping[str, set[str]]) -> Iterator[Flight]:
    """Those that wait who knows where, but for a model that only other backends have served."""
    for each in waiting:
        known = each.model in models[upstream] or not any(each.model in others for others in models.values())
        if known or not each.model:
            yield each


class _Quiet(NamedTuple):
    """A silence before a break."""

    at: float
    due: float
    """When the next piece was due."""
    evidence: tuple[str, ...]


class _Upstream:
    """All exchanges of one backend. `waiting`: those that may be there, and have no answer yet."""

    def __init__(
        self, flights: Sequence[Flight], until: float, waiting: Sequence[Flight] = (), before: Before | None = None
    ) -> None:
        self._before = before
        self._name = flights[0].upstream
        self._until = until
        self._waiting = waiting
        self.flights = sorted(flights, key=lambda each: (each.started, each.id))
        self._starts = [each.started for each in self.flights]
        self._longest = max(((each.ended or each.started) - each.started for each in self.flights), default=0.0)
        self._bad = sorted(
            (each for each in self.flights if each.end is End.BAD and each.ended is not None),
            key=lambda each: (each.ended or 0.0, each.id),
        )
        self._bad_at = [each.ended for each in self._bad if each.ended is not None]
        self._refused_at = [each.started for each in self.flights if each.end is End.REFUSED]
        since = float("-inf") if before is None else before.since
        served = (each for each in self.flights if each.served and each.answered >= since)
        self._served = sorted(served, key=lambda each: each.answered)
        self._served_at = [each.answered for each in self._served]
        self._spells = list(unanswered.spells(self.flights, waiting, until))

    def sightings(self) -> Iterator[Sighting]:
        deaths: list[Sighting] = []
        up_from, started = self._life_before()
        if self._before is None and (broken := self._broken_between(float("-inf"), self._first_token() or _NEVER)):
            yield broken
            up_from = broken.until
        for bad in self._bad:
            assert bad.ended is not None
            if bad.ended <= up_from or not self._is_worth_a_look(bad):
                continue
            life = self._life(started, up_from, bad.ended)
            seen = self._death(bad.ended, life)
            if seen is None:
                continue
            deaths.append(seen)
            back = self._back_after(max(seen.at, bad.ended), bad.ended)
            if broken := self._broken_between(bad.ended, back or _NEVER):
                yield broken
            if back is None:
                break
            up_from = started = back
        silences = [seen for seen in self._silences(deaths) if not any(_same(seen, other) for other in deaths)]
        yield from deaths
        yield from silences
        told = [*deaths, *silences]
        for spell in self._spells:
            if not any(spell.at - 1 <= other.until and other.at - 1 <= spell.until for other in told):
                yield self._unanswered(spell)

    def _life_before(self) -> tuple[float, float | None]:
        """From when on it was up when the flights begin, and when it had started."""
        before = self._before
        if before is None or before.death is None:
            up_from = None if before is None else before.broken_until
            return (float("-inf") if up_from is None else up_from), None
        back = self._back_after(before.death, before.death)
        return (_NEVER, None) if back is None else (back, back)

    def _life(self, started: float | None, since: float, until: float) -> Life:
        """What it has served from a moment on until another one, at which it had started, as far as is known."""
        served = self._served_between(since, until)
        before = self._before
        if before is None or since >= before.since:
            return Life(started, served)
        return Life(started, served, before.served(since, min(until, before.since)))

    # Deaths ------------------------------------------------------------------------------------------------------

    def _is_worth_a_look(self, bad: Flight) -> bool:
        """Whether a bad end may be the first of a death: others follow it, or nobody listens afterwards."""
        assert bad.ended is not None
        first = bisect_left(self._bad_at, bad.ended)
        if bisect_left(self._bad_at, bad.ended + AFTERWARDS_SECONDS) - first >= _MANY or engine_of([bad.error]):
            return True
        refused = bisect_left(self._refused_at, bad.ended)
        return refused < len(self._refused_at) and self._refused_at[refused] < bad.ended + AFTERWARDS_SECONDS

    def _death(self, at: float, life: Life) -> Sighting | None:
        running = self.running(at)
        together, until = self._together(running, at)
        if any(_goes_on(each, at) for each in running if each not in together):
            return None
        after = self._afterwards(at)
        quiet = self._quiet_before(running, together, at)
        never_away = after.back is not None and not after.refused and after.back < at + _RESTART_SECONDS
        if never_away and quiet is None:
            return None
        signs = self._signs(_Break(at, until, running, together), after, life)
        if not _enough(signs, together):
            return None
        lines = [sign.line for sign in signs if sign.holds]
        return Sighting(
            kind=Kind.DEATH if quiet is None else Kind.HANG,
            upstream=self._name,
            cluster=_cluster(together),
            at=at if quiet is None else quiet.at,
            until=until,
            confidence=_confidence([sign.weight for sign in signs if sign.holds]),
            evidence=(*(quiet.evidence if quiet else ()), *lines, *_words(together)),
            in_flight=tuple(running if quiet is None else self._there_at_silence(quiet.at, quiet.due)),
            life=life,
            engine=engine_of(each.error for each in together),
            broken=True,
        )

    def _afterwards(self, at: float) -> _Afterwards:
        back = self._back_after(at, at)
        later = self._started_between(at, back or float("inf"))
        refused = [each for each in later if each.end is End.REFUSED and each.started < at + AFTERWARDS_SECONDS]
        # A burst of requests that fail by themselves is over within a moment; a dead server goes on.
        failing = [each for each in later if each.end is End.BAD and each.started > at + _BURST_SECONDS]
        return _Afterwards(back, (back or self._until) - at, refused, failing)

    def _signs(self, seen: _Break, after: _Afterwards, life: Life) -> _Signs:
        """What speaks for a death, each independent of the others."""
        at, lasted = seen.at, seen.until - seen.at
        cut = sum(_was_answering(each, at) for each in seen.together)
        many = len(seen.together) >= _MANY
        starts = [each.started for each in seen.together]
        spread = max(starts, default=0.0) - min(starts, default=0.0)
        shapes = {each.fingerprint for each in after.failing if each.fingerprint}
        known = {each for each in shapes if life.has_shape(each)}
        alike = sum(each.fingerprint in known for each in after.failing)
        away = after.back is None or after.back >= at + _ALIVE_SECONDS
        engine = engine_of(each.error for each in seen.together)
        return _Signs(
            cut=_Sign(cut >= _MANY, 0.85, f"{cut} streams that were giving tokens broke off within {lasted:.2f} s"),
            many=_Sign(
                many,
                0.4,
                f"{len(seen.together)} of {len(seen.running)} in flight ended badly within {lasted:.2f} s,"
                " and none went on",
            ),
            refused=_Sign(bool(after.refused), 0.8, _refused_line(after.refused, at)),
            alike=_Sign(
                alike >= _MANY and away,
                0.7,
                f"{alike} later requests failed that are like ones which were served before",
            ),
            lasting=_Sign(
                alike > _MANY and after.lasted > LASTING_SECONDS,
                0.5,
                f"and for {after.lasted:.0f} s nothing was served",
            ),
            message=_Sign(engine is not None, 0.6, _message_line(engine)),
            apart=_Sign(
                many and spread >= 5 * max(lasted, 0.2) and away,
                0.5,
                f"they had begun {spread:.1f} s apart, and ended together",
            ),
        )

    def running(self, at: float) -> list[Flight]:
        """What had begun before a moment, and not ended, oldest first."""
        first = bisect_left(self._starts, at - self._longest - 1)
        last = bisect_left(self._starts, at)
        unending = (each for each in self.flights[:first] if each.ended is None)
        return [*unending, *(each for each in self.flights[first:last] if each.running_at(at))]

    def _there_at_silence(self, at: float, due: float) -> list[Flight]:
        """What was there when the last byte came, and what came before the next one was due."""
        moment = at + 0.001
        return [*self.running(moment), *self._started_between(moment, due)]

    def _together(self, running: Sequence[Flight], at: float) -> tuple[list[Flight], float]:
        """Those that ended badly from a moment on, as long as no pause comes between."""
        ends = sorted(
            (each for each in running if each.end is End.BAD and each.ended is not None),
            key=lambda each: each.ended or 0.0,
        )
        found: list[Flight] = []
        until = at
        for each in ends:
            assert each.ended is not None
            if each.ended > until + TOGETHER_SECONDS or each.ended > at + LINGER_SECONDS:
                break
            found.append(each)
            until = each.ended
        return found, until

    def _quiet_before(self, running: Sequence[Flight], together: Sequence[Flight], at: float) -> _Quiet | None:
        """When everything had fallen silent, long before the break; None: it had not."""
        since = self._silent_before(running, together, at)
        if since is not None:
            line = f"all streams fell silent {at - since:.1f} s before they broke off"
            return _Quiet(since, since + _STEP_SECONDS, (line,))
        found = (each for each in self._spells if each.broken and each.at < at <= each.until + TOGETHER_SECONDS)
        return next((_Quiet(each.at, each.due, each.evidence) for each in found), None)

    def _silent_before(self, running: Sequence[Flight], together: Sequence[Flight], at: float) -> float | None:
        times = [quiet for each in running if each.token is not None and (quiet := each.quiet_from()) is not None]
        if not times or max(times) > at - AT_ONCE_SECONDS:
            return None
        since = max(self._last_sign(at), *times)
        return since if at - since > AT_ONCE_SECONDS else None

    def _last_sign(self, before: float) -> float:
        """When the backend last gave a byte, before a moment, to any request that was not broken by it."""
        last = 0.0
        for each in self.flights[: bisect_left(self._starts, before)]:
            last = max([last, *(sign for sign in each.signs() if sign < before)])
        return last

    def _back_after(self, at: float, started_after: float) -> float | None:
        """When the backend first served a request that had begun after a moment."""
        before = self._before
        if before is not None and started_after < before.since and (back := before.back_after(started_after)):
            return back
        for index in range(bisect_left(self._served_at, at), len(self._served)):
            each = self._served[index]
            if each.started >= started_after and each.end is not End.DECLINED:
                return self._served_at[index]
        return None

    def _served_between(self, since: float, until: float) -> list[Flight]:
        first, last = bisect_left(self._served_at, since), bisect_left(self._served_at, until)
        return self._served[first:last]

    def _started_between(self, since: float, until: float) -> list[Flight]:
        return self.flights[bisect_left(self._starts, since) : bisect_left(self._starts, until)]

    def _broken_between(self, since: float, until: float) -> Sighting | None:
        """Whether the backend was started in a time in which nothing was served, and broke what came to it.

        A server that is loading says 503 by itself; that is none.
        """
        there = [each for each in self._started_between(since, until) if each.ended is not None and each.ended < until]
        away = next((each.started for each in there if each.end is End.REFUSED), None)
        bad = [each for each in there if each.end is End.BAD and (each.reset or each.status != 503)]
        again = [each for each in bad if away is not None and each.started > away]
        if len(again) < _MANY:
            if since > float("-inf") or len({each.fingerprint for each in bad}) < 2 or not bad:
                return None
            again = bad
            if len(bad) < 2 * _MANY or bad[-1].started - bad[0].started < WARM_SECONDS:
                return None
        ends = [each.ended for each in again if each.ended is not None]
        shapes = len({each.fingerprint for each in again})
        return Sighting(
            kind=Kind.BROKEN,
            upstream=self._name,
            cluster=_cluster(again),
            at=min(ends),
            until=max(ends),
            confidence=_confidence([0.5, 0.1 * min(len(again), 8), 0.3 if shapes > 1 else 0.0]),
            evidence=(
                f"{counted(len(again), 'request')} of {counted(shapes, 'shape')} failed, and none was served meanwhile",
                *_words(again),
            ),
            in_flight=tuple(self.running(min(ends))),
            life=Life(away),
            broken=True,
        )

    # Silences ----------------------------------------------------------------------------------------------------

    def _silences(self, deaths: Sequence[Sighting]) -> Iterator[Sighting]:
        """Moments at which several streams fell silent together and nothing else gave a byte, for long."""
        ends = sorted(self._quiet_spells(), key=lambda spell: spell[0])
        starts = [spell[0] for spell in ends]
        index = 0
        while index < len(ends):
            group = ends[index : bisect_right(starts, starts[index] + SILENT_TOGETHER_SECONDS)]
            index += len(group)
            if len(group) < _MANY:
                continue
            at = max(spell[0] for spell in group)
            until = self._next_sign(at)
            if seen := self._silence(group, at, until, deaths):
                yield seen

    def _quiet_spells(self) -> Iterator[tuple[float, float, Flight]]:
        for each in self.flights:
            if each.token is None or not each.streamed:
                continue
            began, over = each.silence or (0.0, 0.0)
            if began >= each.token and over - began >= FREEZE_SECONDS:
                yield began, over, each
            quiet = each.quiet_from()
            if quiet is None or each.end is End.GOOD:
                continue
            ended = each.ended if each.ended is not None else float("inf")
            if ended - quiet >= FREEZE_SECONDS:
                yield quiet, ended, each

    def _silence(
        self, group: Sequence[tuple[float, float, Flight]], at: float, until: float, deaths: Sequence[Sighting]
    ) -> Sighting | None:
        silent = [each for _, _, each in group]
        running = self._there_at_silence(at, at + _STEP_SECONDS)
        streams = [each for each in running if each.streamed and each.token is not None and each.token <= at]
        resumed = [each for _, end, each in group if each.ended is None or each.ended > end + 0.001]
        last_end = max((each.ended or self._until for each in self.flights), default=at)
        lasted = min(until, last_end) - at
        goes_on = until < float("inf") and any(_sign_at(each, until) for each in running)
        died = None if self._before is None else self._before.death
        start = max((other.until for other in deaths if other.at < at), default=died)
        since = self._back_after(start, start) if start is not None else self._first_token()
        started = None if start is None else since
        life = Life(started) if since is None else self._life(started, since, at)
        whole = sum(each.end is End.GOOD and each.ended is not None and each.ended <= at for each in life.served)
        warm = since is not None and (at - since >= WARM_SECONDS or whole >= _MANY)
        if len(silent) < _MANY or len(silent) < 0.8 * len(streams) or not warm:
            return None
        cut = [each.ended for each in silent if each.end is End.BAD and each.ended is not None]
        ended = len(cut) >= _MANY and max(cut) - min(cut) <= TOGETHER_SECONDS
        few = len(silent) < _PAUSE_TOGETHER and not ended
        least = _LONGER * self._longest_pause(at) if few else 0.0
        if lasted < max(least, FREEZE_SECONDS if goes_on or ended else HANG_SECONDS):
            return None
        lasts = until == float("inf") and not cut
        over = f"and went on after {lasted:.1f} s" if goes_on else f"and gave nothing more for {lasted:.1f} s"
        unplaced = self._unplaced(at, _cluster(silent)) if lasts else []
        return Sighting(
            kind=Kind.FREEZE if goes_on else Kind.HANG,
            upstream=self._name,
            cluster=_cluster(silent),
            at=at,
            until=min(until, last_end),
            confidence=_confidence([0.7, 0.5 if len(silent) > 5 else 0.2, 0.4 if resumed or not goes_on else 0.2]),
            evidence=(
                f"{len(silent)} of {len(streams)} streams that were giving tokens fell silent together, {over}",
                "no other request there got a byte meanwhile",
                *_unplaced_line(unplaced),
            ),
            in_flight=tuple(sorted([*running, *unplaced], key=lambda each: (each.started, each.id))),
            life=life,
            lasts=lasts,
        )

    def _longest_pause(self, at: float) -> float:
        """For how long streams were silent by themselves in the minutes before, while others there went on: of agents
        that call tools some are silent at the same time by chance."""
        longest = 0.0
        for each in self._started_between(at - _LATELY_SECONDS - self._longest, at):
            began, over = each.silence or (at, at)
            if over - began < max(FREEZE_SECONDS, longest) or not at - _LATELY_SECONDS <= over <= at:
                continue
            middle = (began + over) / 2
            if any(_flows_at(other, middle) for other in self.running(middle) if other is not each):
                longest = over - began
        return longest

    def _unanswered(self, spell: Spell) -> Sighting:
        lasts = spell.until == float("inf")
        cluster = _cluster(spell.waiting)
        there = self._there_at_silence(spell.at, spell.due)
        unplaced = self._unplaced(spell.due, cluster) if lasts else []
        return Sighting(
            kind=Kind.FREEZE if spell.goes_on else Kind.HANG,
            upstream=self._name,
            cluster=cluster,
            at=spell.at,
            until=min(spell.until, self._until),
            confidence=_confidence([0.6, 0.1 * min(len(spell.waiting), 6)]),
            evidence=(*spell.evidence, *_unplaced_line(unplaced)),
            in_flight=tuple(sorted([*there, *unplaced], key=lambda each: (each.started, each.id))),
            life=self._life(None, float("-inf"), spell.at),
            lasts=lasts,
        )

    def _unplaced(self, at: float, cluster: str | None) -> list[Flight]:
        """Those that wait for their answer since before the silence, and may be here: of the same cluster, and for a
        model that this backend has."""
        models = {each.model for each in self._served}
        return [
            each
            for each in self._waiting
            if each.started < at + _STEP_SECONDS
            and (cluster is None or each.cluster is None or each.cluster == cluster)
            and (not each.model or not any(models) or each.model in models)
        ]

    def _first_token(self) -> float | None:
        first = None if self._before is None else self._before.first_answer()
        return first or (self._served_at[0] if self._served_at else None)

    def _next_sign(self, at: float) -> float:
        """When the backend next gave a byte to anybody, after a moment."""
        found = float("inf")
        for each in self.flights:
            if (each.ended is not None and each.ended < at) or each.end is End.REFUSED:
                continue
            signs = [each.token or 0.0] if each.end is End.BAD else each.signs()
            over = 0.0 if each.silence is None else each.silence[1]
            found = min([found, *(sign for sign in (*signs, over) if sign > at + 0.05)])
            if _flows_at(each, at + 0.05):
                return at
        return found


def _goes_on(each: Flight, at: float) -> bool:
    """Whether an exchange has got more after a moment than what was on its way."""
    if each.end is End.BAD:
        quiet = each.quiet_from() if each.reset else None
        return quiet is not None and quiet > at + TOGETHER_SECONDS
    last = each.last_byte if each.last_byte is not None else each.ended if each.end is End.GOOD else None
    return last is not None and last > at + TOGETHER_SECONDS


def _was_answering(each: Flight, at: float) -> bool:
    return each.token is not None and each.token < at and each.status is not None and each.status < 500


def _flows_at(each: Flight, at: float) -> bool:
    """Whether a stream was giving tokens at a moment: between its first and its last, and not in its silence."""
    if not each.streamed or each.token is None or each.last_byte is None or not each.token <= at < each.last_byte:
        return False
    if each.end is End.BAD and (quiet := each.quiet_from()) is not None and quiet <= at:
        return False
    if each.silence is None:
        return each.last_byte - at > FREEZE_SECONDS
    return not each.silence[0] <= at <= each.silence[1]


def _sign_at(each: Flight, at: float) -> bool:
    signs = (each.first_byte, each.token, each.last_byte, each.silence[1] if each.silence else None)
    return any(sign is not None and abs(sign - at) < TOGETHER_SECONDS for sign in signs)


def _same(seen: Sighting, other: Sighting) -> bool:
    return other.at - 1 <= seen.at <= other.until + 1


def _cluster(flights: Iterable[Flight]) -> str | None:
    return next((each.cluster for each in flights if each.cluster), None)


def _enough(signs: _Signs, together: Sequence[Flight]) -> bool:
    """Whether the signs say together that a backend died: many cut streams do, fewer need a second witness."""
    if signs.cut.holds:
        return True
    if signs.many.holds and (signs.refused.holds or signs.alike.holds or signs.message.holds or signs.apart.holds):
        return True
    streams = any(each.token is not None for each in together)
    failing = signs.alike.holds and (streams or signs.lasting.holds)
    return bool(together) and (signs.refused.holds or failing or signs.message.holds)


def _confidence(weights: Iterable[float]) -> float:
    """Independent witnesses: the chance that not all are wrong."""
    wrong = 1.0
    for weight in weights:
        wrong *= 1 - weight
    return round(min(1 - wrong, 0.99), 2)


def _unplaced_line(unplaced: Sequence[Flight]) -> Iterator[str]:
    if unplaced:
        those = "1 that still waits" if len(unplaced) == 1 else f"{len(unplaced)} that still wait"
        yield f"{those} for an answer may be at it: where that is, is known when the answer begins"


def _refused_line(refused: Sequence[Flight], at: float) -> str:
    if not refused:
        return ""
    return f"connections refused from {refused[0].started - at:.1f} s after it ({len(refused)} of them)"


def _message_line(engine: Engine | None) -> str:
    return "" if engine is None else f'message of {engine.name} seen: "{engine.message}"'


def _words(together: Sequence[Flight]) -> Iterator[str]:
    """How they ended, counted."""
    counts: dict[str, int] = defaultdict(int)
    for each in together:
        counts[f"{each.outcome} ({each.status})"] += 1
    if counts:
        yield "ends: " + ", ".join(
            f"{count} {name}" for name, count in sorted(counts.items(), key=lambda each: -each[1])
        )
