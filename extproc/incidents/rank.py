"""Who may have caused it: those in flight, each with how likely, and why.

    ranking = rank(sighting, base, others)

Each suspect's weight of evidence is a sum of logarithms of likelihood ratios: how much more often would a request that
kills show this than one that was merely there? What is rare is counted in the journal itself (`Base`). A value that
was never served weighs as much as new values are rare at its place: a seed is new each time, and tells nothing; a new
`response_format` among a thousand requests tells much (the estimate of Good and Turing, with a floor for small
samples). That no request is to blame is one of the answers (`NOBODY`), and has to be beaten.

`FEATURES` is the one table of what counts how much, `WEIGHTS` that of the places. No rule names a request that has
killed.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from extproc.history.index.schema import OTHERS
from extproc.history.index.told import CONSTRAINT
from extproc.incidents.detect import Sighting
from extproc.incidents.evidence import End, Flight
from extproc.incidents.words import counted

NOBODY: Final = 0.35
"""How likely it is beforehand that no request is to blame: processes are stopped, killed and moved."""
MOST: Final = 20
_ACCUSED: Final = (2.2, 2.9)
"""A suspect needs at least so much of its own: the second where thousands were served, since rare coincidences are many
there, the first where a hundred or fewer were."""
_BEFORE_SECONDS: Final = 3.0
"""What ended within this time before may have left something behind."""
_FLOOR: Final = 0.5
_ENOUGH: Final = 5
_LATCH_SECONDS: Final = 60.0
_LATCH_SHARE: Final = 0.25
_LATCH_MOST: Final = 3
"""What was served so rarely, and only here so shortly before, is no precedent: it may have prepared the death. Shortly
is within these seconds, and within this share of the time of which something is known."""
_LATCHES: Final = 2000
"""Of the requests with a constraint so many are looked at for one that may have prepared the death."""
LATELY_SECONDS: Final = 60.0
LATCHED: Final = 0.85
"""Of how much a new value counts, so much does one that only such requests had."""
_RARE: Final = 0.06
"""A kind of constraint that so few ask for: when two of them meet, it may be no chance."""
_WORTH_SAYING: Final = 0.7

TOKEN: Final = (-2.0, -4.0)
"""It had tokens: the engine lived with it for a while, the longer the less it is to blame. Never wholly acquitted."""
_TOKENS_FROM_SECONDS: Final = 0.2
"""So long after its first token it is acquitted by the first of these, and e times longer by one more."""
TWIN: Final = -1.0
"""One of the same shape was served."""
SAME_BODY_SERVED: Final = -2.0
ENDED_WELL: Final = -2.0
"""It was over, and well, before."""
OTHER_DEATH: Final = 2.0
"""One of the same shape was there at another death: at most so much for each, and less for a shape that many have."""
ONE_OF_MANY: Final = 0.7
"""Less for a shape that was at several deaths: some of the many that were there is, by chance."""
COMBINATION: Final = 1.5
"""At most so much for parameters that were all served, but never together."""
SAME_BODY_DIED: Final = 3.0
"""The same body was waiting at another death: a client's retry, mostly."""
HEAD_OF_QUEUE: Final = 0.8
WORKED_ON: Final = -1.0
"""Its answer comes in one piece, and it had waited longer than streams wait for their first token."""
_FAR_POWERS: Final = {"2": 3, "10": 2}
_FAR: Final = 0.8
"""What a size far beyond all that was served counts: more than one that is merely new."""
STUMBLE: Final = 1.0
"""Values on which engines stumble: nobody sends them on purpose."""
RECENT: Final = (0.7, 2.5)
"""How much of the surprise that it came just then counts, and at most how much."""
CANCEL: Final = (0.7, 4.0)
"""The same of a cancel, of which most are harmless."""
CANCEL_COMMON: Final = 1.0
"""What any cancel has less."""

WEIGHTS: Final = (
    (r"user|metadata|seed|store|request_id|cache_salt|safety_identifier|prompt_cache_key", 0.1, "a label"),
    (r"size|.* (bytes|length|count)|max_tokens|max_completion_tokens|max_output_tokens", 0.4, "a size"),
    (r".* digest", 0.6, "the value itself"),
    (r".*\.(name|description|title|id)", 0.4, "a name"),
    (r"(messages|prompt|input|system|contents).*(characters|word|token|emptiness)", 0.7, "the text's characters"),
    (r"path|model", 0.8, "the endpoint, the adapter"),
    (r"combination of parameters", 1.0, "the parameters together, their values apart"),
    (r".*", 1.0, "a parameter"),
)
"""Of each kind of place (the first that fits the whole name): how much a value that is new there counts."""

FEATURES: Final = (
    ("a value that was never served", "ln(N + 1), less what is usual", "N lived without it; of a seed, little"),
    ("the same, a second, third ... parameter", "x 0.4, 0.16 ...", "parameters come together"),
    ("the same, on which engines stumble", f"+{STUMBLE:g}", "empty, null, false, negative, invalid: not on purpose"),
    ("the same, far beyond all sizes that were served", f"x {_FAR:g}", "an engine's limits are met there"),
    ("the same, but for some here in the last minute", f"x {LATCHED:g}", "the first of a pair is no precedent"),
    ("parameters that were never served together", f"up to +{COMBINATION:g}", "each of them was"),
    ("it came just before", f"up to +{RECENT[1]:g}", "the more, the fewer come"),
    ("the first of those that waited", f"+{HEAD_OF_QUEUE:g}", "what an engine takes next"),
    ("the very same request waited at another death", f"+{SAME_BODY_DIED:g}", "a client's retry carries it on"),
    ("one of the same rare shape was at another death", f"up to +{OTHER_DEATH:g} for each", "less for usual shapes"),
    ("its client left just before", f"up to +{CANCEL[1] - CANCEL_COMMON:g}", "the more, the fewer leave"),
    ("it had tokens", f"{TOKEN[0]:g} to {TOKEN[1]:g}", "the engine lived with it, the longer the better"),
    ("it had ended well", f"{TOKEN[1] + ENDED_WELL:g}", "the same, and it was over"),
    ("nothing unusual, and one of its shape was served", f"{TWIN:g}", "the engine lived with such"),
    ("the very same request was served at another time", f"{SAME_BODY_SERVED:g}", "the same, more so"),
    ("an answer in one piece, for longer than others wait", f"{WORKED_ON:g}", "it was worked on"),
)  # fmt: skip
"""What counts for or against a request: what, how much in logarithms of likelihood ratios, and why."""
_WEIGHTS: Final = tuple((re.compile(pattern), weight) for pattern, weight, _ in WEIGHTS)
_STUMBLES: Final = re.compile(
    r"null|false|0|-1|negative|below.*|empty.*|not finite|blank|.* or more|no valid.*|too deep|deep|twice|none"
)
_OF_ITS_OWN: Final = re.compile(r".*( digest|\.name|\.description|\.title|\.id)")
_ABSENT: Final = "absent"
_COMBINATION: Final = "combination of parameters"
_MODEL: Final = "model"
_ENDPOINT: Final = re.compile(
    r"(/v\d)?/(chat/completions|completions|embeddings|responses|messages|rerank|score|classify|pooling|infill|generate"
    r"|tokenize|detokenize|audio/(speech|transcriptions|translations)|images/(generations|edits))"
)
"""Of engines; any other path may have anything in it."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """One request, and what speaks for and against it."""

    flight: Flight
    score: float
    """How likely it is that this one did it, 0 to 1, with all the others and nobody as the alternatives."""
    weight: float
    reasons: tuple[str, ...]
    latch: Flight | None = None
    """An earlier request without which this one may be harmless."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The suspects, the likeliest first, and how likely it is that none of them did it."""

    suspects: tuple[Suspect, ...]
    nobody: float
    needed: float = _ACCUSED[1]
    """What a suspect's weight must be at least."""

    @property
    def accused(self) -> bool:
        """Whether there is somebody to suspect."""
        if not self.suspects:
            return False
        return self.nobody < 0.5 and any(suspect.weight >= self.needed for suspect in self.suspects[:3])


class Base:
    """What the backends have lived with: atoms counted over the requests of a model that were served."""

    def __init__(self, flights: Iterable[Flight]) -> None:
        self.total = 0
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._others: Counter[str] = Counter()
        self.fingerprints: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()
        self.ids: set[str] = set()
        for each in flights:
            self.add(each)

    def add(self, each: Flight, times: int = 1) -> None:
        """Count one in; with -1 out again."""
        if each.atoms is None or not times:
            return
        self.total += times
        (self.ids.add if times > 0 else self.ids.discard)(each.id)
        self.fingerprints[each.fingerprint] += times
        self.bodies[each.body] += times
        for place, value in asked(each).items():
            counts = self._counts[place]
            if times < 0 and value not in counts:
                self._others[place] += times
                continue
            counts[value] += times
            if not counts[value]:
                del counts[value]

    def add_shape(self, model: str, fingerprint: str, times: int) -> None:
        """Count in so many of a shape of which the atoms come one by one."""
        self.total += times
        self.fingerprints[fingerprint] += times
        for place, value in _beside(model, fingerprint).items():
            self._counts[place][value] += times

    def add_atom(self, place: str, value: str, times: int) -> None:
        """Count in an atom of these; `OTHERS` are different ones, each met once."""
        if value == OTHERS:
            self._others[place] += times
        else:
            self._counts[place][value] += times

    def times(self, place: str, value: str) -> int:
        """How often a value was served at a place."""
        if value == _ABSENT:
            return self.total - self._present(place)
        return self._counts[place][value] if place in self._counts else 0

    def _present(self, place: str) -> int:
        return (sum(self._counts[place].values()) if place in self._counts else 0) + self._others[place]

    def far_beyond(self, place: str, value: str) -> bool:
        """Whether a magnitude is far more than the largest that was served, or far less than the smallest: an engine's
        limits are met there."""
        own = _EXPONENT.fullmatch(value)
        counts = self._counts.get(place) if own is not None else None
        if own is None or not counts:
            return False
        served = [int(found[2]) for each in counts if (found := _EXPONENT.fullmatch(each)) and found[1] == own[1]]
        power, far = int(own[2]), _FAR_POWERS[own[1]]
        return bool(served) and (power - max(served) >= far or min(served) - power >= far)

    def surprise(self, place: str, value: str, own: int = 0) -> float:
        """The logarithm of how many requests it takes, on average, for one with a value that is as new as this.
        `own`: how many of those counted are the request itself."""
        times = self.times(place, value) - own
        if times > 0:
            return 0.25 * max(0.0, math.log((self.total + 1) / (times + _FLOOR)) - 2)
        counts = self._counts.get(place, Counter())
        if own and value in counts:
            counts = Counter({each: count for each, count in counts.items() if each != value})
        near = _neighbours(value, counts)
        if near:
            return near * math.log((self.total + 1) / (1 + _FLOOR))
        once = sum(1 for count in counts.values() if count == 1) + self._others[place]
        present = sum(counts.values()) + self._others[place]
        if _OF_ITS_OWN.fullmatch(place) and present:
            # Names and constraints of one's own: new ones are rare or not among the requests that have one at all.
            return math.log((present + 1) / (once + _FLOOR))
        return math.log((self.total + 1) / (once + _FLOOR))


def _neighbours(value: str, counts: Mapping[str, int]) -> float:
    """How much a magnitude that was never served counts where others were: nothing among them, half beside them.
    0.0 and no magnitude: it is to be judged by itself."""
    if (own := _EXPONENT.fullmatch(value)) is None:
        return 0.0
    served = [int(found[2]) for each in counts if (found := _EXPONENT.fullmatch(each)) and found[1] == own[1]]
    power = int(own[2])
    if not served:
        return 0.0
    if min(served) <= power <= max(served):
        return _HARDLY
    return 0.5 if min(abs(power - each) for each in served) == 1 else 0.0


_EXPONENT: Final = re.compile(r"(2|10)\^(\d+)")
_HARDLY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Past:
    """What a journal says of what is usual."""

    by_model: Mapping[str, Base]
    everything: Base
    arrivals: Mapping[str, int]
    """Different requests by shape, however they ended: one that is sent again and again counts once."""
    arrived: int

    def of(self, each: Flight) -> Base:
        """What was served of a request's own model, where that is enough to count on, else of all models."""
        own = self.by_model.get(each.model)
        return own if own is not None and own.total >= _ENOUGH else self.everything

    def commonness(self, fingerprint: str, among: int) -> float:
        """How likely it is that one of so many requests has a shape."""
        share = max(self.arrivals.get(fingerprint, 0), 1) / max(self.arrived, 1)
        return float(1 - (1 - share) ** max(among, 1))


def unserved(flights: Iterable[Flight], seen: Sequence[Sighting]) -> set[str]:
    """The ids of what was there when something befell its backend. It was not served, whatever came of it later: a
    request that froze it may have an answer in the end, or a refusal."""
    return declined(flights, seen) | {each.id for sighting in seen for each in _waiting(sighting)}


def declined(flights: Iterable[Flight], seen: Sequence[Sighting]) -> set[str]:
    """Of these what was declined just before."""
    moments: dict[str, list[float]] = defaultdict(list)
    for sighting in seen:
        moments[sighting.upstream].append(sighting.at)
    return {
        each.id
        for each in flights
        if each.end is End.DECLINED and any(_just_before(each, at) for at in moments.get(each.upstream, ()))
    }


def past(flights: Sequence[Flight], seen: Sequence[Sighting] = ()) -> Past:
    """Count a journal's requests."""
    doubtful = unserved(flights, seen)
    by_model: dict[str, list[Flight]] = defaultdict(list)
    bodies: dict[str, set[str]] = defaultdict(set)
    for each in flights:
        bodies[each.fingerprint].add(each.body)
        if each.served and each.id not in doubtful:
            by_model[each.model].append(each)
    arrivals = {fingerprint: len(different) for fingerprint, different in bodies.items()}
    everything = [each for group in by_model.values() for each in group]
    bases = {model: Base(group) for model, group in by_model.items()}
    return Past(bases, Base(everything), arrivals, sum(arrivals.values()))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What went on at one backend before a moment."""

    lately: Sequence[Flight]
    """What was there in the last minute."""
    first: float | None
    """When the backend first showed that it serves."""
    left: int
    """How many had been left by their clients since."""


def surroundings(flights: Iterable[Flight], at: float) -> Surroundings:
    """The same of all flights of one backend."""
    lately, first, left = [], None, 0
    for each in flights:
        if each.served and each.answered < (first or at):
            first = each.answered
        if each.started < at:
            left += each.end is End.LEFT
            if each.ended is None or each.ended >= at - LATELY_SECONDS:
                lately.append(each)
    return Surroundings(lately, first, left)


def rank(sighting: Sighting, past: Past, others: Sequence[Sighting], around: Surroundings) -> Ranking:
    """Rank what was in flight. `others`: what befell backends at other times."""
    running, before = suspects(sighting, around)
    judge = _Judge(sighting, past, others, around)
    judged = [judge.suspect(each) for each in running] + [judge.suspect(each, over=True) for each in before]
    if not judged:
        return Ranking((), 1.0)
    prior = (1 - NOBODY) / max(len(running), 1)
    total = NOBODY + sum(prior * math.exp(weight) for _, weight, _, _ in judged)
    found = [
        Suspect(flight, round(prior * math.exp(weight) / total, 3), round(weight, 2), tuple(reasons), latch)
        for flight, weight, reasons, latch in judged
    ]
    found.sort(key=lambda each: (-each.weight, each.flight.started, each.flight.id))
    few, many = _ACCUSED
    lived_with = past.of(found[0].flight).total
    needed = few + (many - few) * min(max(math.log10(lived_with + 1) - 2, 0.0), 1.0)
    return Ranking(tuple(found[:MOST]), round(NOBODY / total, 3), needed)


def suspects(sighting: Sighting, around: Surroundings) -> tuple[list[Flight], list[Flight]]:
    """Those who may have done it: in flight, and over just before."""
    running = [each for each in sighting.in_flight if each.atoms is not None]
    return running, [each for each in around.lately if _just_before(each, sighting.at)]


def _just_before(each: Flight, at: float) -> bool:
    return (
        each.ended is not None
        and at - _BEFORE_SECONDS <= each.ended < at
        and each.end in (End.BAD, End.LEFT, End.DECLINED, End.GOOD)
        and each.atoms is not None
    )


_Judged = tuple[Flight, float, list[str], Flight | None]


class _Judge:
    """Weighs each request that was there."""

    def __init__(self, sighting: Sighting, past: Past, others: Sequence[Sighting], around: Surroundings) -> None:
        self._sighting = sighting
        self._past = past
        self._at = sighting.at
        self._others = [other for other in others if other is not sighting]
        self._waiting_elsewhere = [_waiting(other) for other in self._others]
        self._shapes_elsewhere = [{(one.model, one.fingerprint) for one in other.in_flight} for other in self._others]
        self._known = self._at - (self._at if around.first is None else around.first)
        minute = [each.started for each in around.lately if self._at - LATELY_SECONDS <= each.started]
        self._arrivals = len(minute) / max(self._at - min(minute), 1.0) if minute else 0.0
        self._cancels = around.left / max(self._known, 60.0)
        waits = sorted(each.token - each.started for each in around.lately if each.streamed and each.token is not None)
        self._patience = 2 * waits[int(len(waits) * 0.9)] if waits else float("inf")
        waiting = sorted((each for each in sighting.in_flight if _waits(each, self._at)), key=lambda each: each.started)
        long = [each for each in waiting if self._at - each.started > 2]
        shortly = min(_LATCH_SECONDS, _LATCH_SHARE * self._known)
        lately = [each for each in sighting.life.served if each.started > self._at - shortly]
        self._recent: dict[tuple[str, str], list[Flight]] = defaultdict(list)
        for each in lately:
            for atom in asked(each).items():
                self._recent[atom].append(each)
        self._head = (
            next((each.id for each in long if each.streamed or each.token is None), "") if len(long) > 2 else ""
        )

    def suspect(self, each: Flight, *, over: bool = False) -> _Judged:
        """What speaks for and against one."""
        base = self._past.of(each)
        weight, reasons, before = self._atoms(each, base)
        odd = list(reasons)
        stage, stage_reasons = self._stage(each, over)
        repeated, repeat_reasons = self._repeats(each, base, over)
        weight += stage + repeated
        if not odd and base.fingerprints[each.fingerprint] and not _had_token(each, self._at):
            weight += TWIN
            stage_reasons.append(
                f"requests of the same shape were served ({counted(base.fingerprints[each.fingerprint], 'time')})"
            )
        if base.bodies[each.body] - (1 if each.id in base.ids else 0) > 0:
            weight += SAME_BODY_SERVED
            stage_reasons.append("the very same request was served at another time")
        latch = before or self._latch(each, base, odd) if odd and not over else None
        if latch is not None:
            stage_reasons.append("perhaps only after the earlier request of its kind, which was served")
        return each, weight, [*repeat_reasons, *reasons, *stage_reasons], latch

    def _atoms(self, each: Flight, base: Base) -> tuple[float, list[str], Flight | None]:
        """What it asked for that was never served, by parameter: the strongest in full, the others for less; and the
        last request before it that had the strongest of those, where hardly another one had."""
        by_parameter: dict[str, tuple[float, str, Flight | None]] = {}
        for place, value in asked(each).items():
            weight, line, before = self._atom(each, base, place, value)
            parameter = re.split(r"[.\[ ]", place, maxsplit=1)[0]
            if weight > by_parameter.get(parameter, (0.0, "", None))[0]:
                by_parameter[parameter] = weight, line, before
        strongest = sorted(by_parameter.values(), key=lambda found: found[:2], reverse=True)
        total = sum(weight * 0.4**index for index, (weight, _, _) in enumerate(strongest))
        said = [found for found in strongest[:4] if found[0] >= _WORTH_SAYING]
        return total, [line for _, line, _ in said], next((before for _, _, before in said if before is not None), None)

    def _atom(self, each: Flight, base: Base, place: str, value: str) -> tuple[float, str, Flight | None]:
        """How much one thing that it asked for says, in which words, and which request had prepared it."""
        own = int(each.id in base.ids)  # it was served itself, for a while: that is no precedent
        times = base.times(place, value) - own
        recent: Sequence[Flight] = ()
        if 0 < times <= _LATCH_MOST and place != _COMBINATION and not _OF_ITS_OWN.fullmatch(place):
            recent = [other for other in self._recent[place, value] if other.id != each.id]
        prepared = len(recent) == times > 0
        surprise = base.surprise(place, value, own + times if prepared else own)
        if prepared:
            gap = max(self._at - recent[-1].started, 0.01)
            surprise = LATCHED * min(surprise, math.log(max(self._known / gap, 1.0)))
        weight = surprise * (_FAR if base.far_beyond(place, value) else _weight(place))
        if place == _COMBINATION:
            weight = min(weight, 0.5 * -math.log(self._expected(each)), COMBINATION)
        if times <= 0 and _STUMBLES.fullmatch(value):
            weight = surprise + STUMBLE
        often = f"never before on this model (0 of {base.total:,})"
        if times > 0:
            often = f"rare on this model ({times} of {base.total:,})"
        if prepared:
            often += f", and only here, {self._at - recent[-1].started:.1f} s before"
        said = place if place == _COMBINATION else f"{place} {_shown(place, value)}"
        return weight, f"{said}: {often}", recent[-1] if prepared else None

    def _expected(self, each: Flight) -> float:
        """How likely it is that one of this shape is among those in flight at any moment."""
        return self._past.commonness(each.fingerprint, len(self._sighting.in_flight))

    def _stage(self, each: Flight, over: bool) -> tuple[float, list[str]]:
        """How far it had come, and how short before it had begun."""
        at = self._at
        if over and each.end is End.LEFT:
            assert each.ended is not None
            factor, most = CANCEL
            surprise = -math.log(min(1.0, self._cancels * max(at - each.ended, 0.1)))
            return min(factor * surprise, most) - CANCEL_COMMON, [f"its client left {at - each.ended:.2f} s before"]
        if over:
            assert each.ended is not None
            if each.end is End.GOOD:
                return TOKEN[1] + ENDED_WELL, [f"it had ended well {at - each.ended:.2f} s before"]
            return 0.0, [f"it had failed with {each.status} {at - each.ended:.2f} s before"]
        waited = max(at - each.started, 0.0)
        if _had_token(each, at):
            since = at - (each.token or at)
            least, most = TOKEN
            weight = least - max(math.log(max(since, 0.001) / _TOKENS_FROM_SECONDS), 0.0)
            line = f"it had tokens for {since:.1f} s, the first {waited - since:.1f} s after it came"
            return max(weight, most), [line]
        factor, most = RECENT
        surprise = -math.log(min(1.0, max(self._arrivals, 1 / 60) * max(waited, 0.1)))
        weight = min(factor * surprise, most)
        line = f"no token yet, waiting {waited:.1f} s" if each.streamed else f"no answer yet, after {waited:.1f} s"
        if not each.streamed and waited > self._patience:
            return weight + WORKED_ON, [f"{line}: longer than others waited for their first token"]
        if each.id == self._head:
            return weight + HEAD_OF_QUEUE, [line, "the first of those that waited"]
        return weight, [line]

    def _repeats(self, each: Flight, base: Base, over: bool) -> tuple[float, list[str]]:
        """Whether it, or one of its shape, was waiting at other deaths, and no such one was ever served."""
        weight, reasons = 0.0, []
        bodies = sum(any(each.body == other.body for other in waiting) for waiting in self._waiting_elsewhere)
        if bodies and each.body and not base.bodies[each.body]:
            where = {
                other.upstream
                for other, waiting in zip(self._others, self._waiting_elsewhere, strict=True)
                if any(each.body == one.body for one in waiting)
            }
            on = "on " + ", ".join(sorted(where)) if where != {each.upstream} else "here"
            reasons.append(f"the very same request was waiting at {counted(bodies, 'other death')}, {on}")
            weight += SAME_BODY_DIED * (1 + 0.3 * min(bodies - 1, 3))
        elif (
            each.fingerprint
            and not over
            and (shapes := sum((each.model, each.fingerprint) in there for there in self._shapes_elsewhere))
        ):
            surprise = min(-math.log(self._expected(each)) - ONE_OF_MANY, OTHER_DEATH)
            if surprise >= _WORTH_SAYING:
                reasons.append(f"one of the same rare shape was there at {counted(shapes, 'other death')}")
            weight += max(surprise, 0.0) * min(shapes, 4)
        return weight, reasons

    def _latch(self, each: Flight, base: Base, odd: Sequence[str]) -> Flight | None:
        """The last request with a constraint of the same rare kind that this start of the backend had served."""
        places = [
            place
            for place in (each.atoms or {})
            if CONSTRAINT.match(place) and " " not in place and any(line.startswith(place) for line in odd)
        ]
        rare = [place for place in places if 0 < base.total - base.times(place, _ABSENT) <= _RARE * base.total]
        if not rare:
            return None
        earlier = [
            other
            for other in self._sighting.life.constrained(_LATCHES)
            if other.started < each.started
            and other.id != each.id
            and any(place in (other.atoms or {}) for place in rare)
        ]
        return max(earlier, key=lambda other: (other.started, other.id), default=None)


def asked(each: Flight) -> Mapping[str, str]:
    """A request's atoms, with the combination of its parameters, and its model, as two more."""
    return {**(each.atoms or {}), **_beside(each.model, each.fingerprint)}


def _beside(model: str, fingerprint: str) -> Mapping[str, str]:
    return {
        **({_COMBINATION: fingerprint} if fingerprint else {}),
        **({_MODEL: f'"{model}"'} if model else {}),
    }


def _shown(place: str, value: str) -> str:
    """The value of an atom; of what may be anything, in quotes that stand nowhere else in it."""
    if place == _MODEL or (place == "path" and not _ENDPOINT.fullmatch(value)):
        return '"' + value.strip('"').replace('"', "'") + '"'
    return value


def tables() -> tuple[list[str], list[str]]:
    """`FEATURES` and `WEIGHTS` as docs/forensics.md has them."""
    features = [f"| {what} | {weight} | {why} |" for what, weight, why in FEATURES]
    return features, [f"| {what} | {weight:g} |" for _, weight, what in WEIGHTS]


def _weight(place: str) -> float:
    return next(weight for pattern, weight in _WEIGHTS if pattern.fullmatch(place))


def _had_token(each: Flight, at: float) -> bool:
    return each.token is not None and each.token <= at


def _waits(each: Flight, at: float) -> bool:
    return not _had_token(each, at)


def _waiting(sighting: Sighting) -> list[Flight]:
    return [each for each in sighting.in_flight if not _had_token(each, sighting.at) and each.atoms is not None]
