"""Which of a window's requests kill the server, as a function of "does this attempt kill?".

    found = search(suspects, window, attempt, rounds=3, confirm=3)

The order is that of the cost: what does not kill costs a moment, what does costs a restart of the server.

1. Each suspect alone, the likeliest first.
2. Each suspect after its latch, the earlier request that the ranking names.
3. The last requests of the window as they were: two, four, eight, ..., all.
4. Pairs, one after the other.

What kills is cut down to requests all of which are needed. Attempts leave something behind in a server that lives on:
a request that seems to kill alone may owe it to one that was tried before. So what kills a server that has seen others
is tried once more on the fresh one, and where it does not kill that, the ones before it are searched for its latch.
The other way round, an attempt may make a server immune (the first constraint that vLLM 0.11 meets decides how it
compiles all others): what needs an order is tried on a fresh server, where one can be had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice, pairwise
from typing import Final

MOST_PAIRS: Final = 60


class How(Enum):
    """How the requests of an attempt follow each other."""

    IN_TURN = "in turn"
    """Each begins when the one before it has ended."""
    AS_RECORDED = "as recorded"
    """With the times between them, and their overlap."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Requests by their ids, in the order in which they are sent."""

    ids: tuple[str, ...]
    how: How = How.IN_TURN
    fresh: bool = field(default=False, compare=False)
    """It is worth a restart before it: what was tried before may have made the server immune, too."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request that may have done it, and the earlier one without which it may be harmless."""

    id: str
    latch: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What an attempt did. `before`: the attempts that the same process of the server had lived through."""

    killed: bool
    before: tuple[Attempt, ...] = ()
    sent: int | None = None
    """How many of its requests were sent, where it killed before the last: in turn, those after it are not."""

    def cut(self, attempt: Attempt) -> Attempt:
        """The attempt as far as it was made."""
        return attempt if self.sent is None else Attempt(attempt.ids[: self.sent], attempt.how)


@dataclass(frozen=True, slots=True)
class Found:
    """What kills. In turn, the last request is the trigger, and those before it are its latches."""

    attempt: Attempt
    kills: int
    tries: int


Try = Callable[[Attempt], Result]
"""Make an attempt. One that is made again is made anew."""


def search(
    suspects: Sequence[Candidate], window: Sequence[str], make: Try, *, rounds: int = 1, confirm: int = 1
) -> Found | None:
    """The first attempt of the plan that kills, cut down; None where nothing does in all rounds: what kills but now
    and then may need several. It was tried `confirm` times at least, of which `kills` killed."""
    remembering = _Remembering(make)
    for _ in range(rounds):
        for attempt in plan(suspects, window):
            result = remembering(attempt)
            if result.killed:
                return _confirmed(_true_culprit(attempt, result, remembering), make, confirm)
    return None


def plan(suspects: Sequence[Candidate], window: Sequence[str]) -> Iterator[Attempt]:
    """What to try, in order; nothing twice."""
    seen: set[Attempt] = set()
    for attempt in _plan(suspects, window):
        if attempt not in seen:
            seen.add(attempt)
            yield attempt


def _plan(suspects: Sequence[Candidate], window: Sequence[str]) -> Iterator[Attempt]:
    yield from (Attempt((each.id,)) for each in suspects)
    yield from (Attempt((each.latch, each.id), fresh=True) for each in suspects if each.latch is not None)
    size = 2
    while size < len(window):
        yield Attempt(tuple(window[-size:]), How.AS_RECORDED)
        size *= 2
    if len(window) > 1:
        yield Attempt(tuple(window), How.AS_RECORDED, fresh=True)
    latches = [each.latch for each in suspects if each.latch is not None]
    earlier = list(dict.fromkeys([*latches, *window]))
    pairs = (Attempt((first, each.id)) for each in suspects for first in earlier if first not in (each.id, each.latch))
    yield from islice(pairs, MOST_PAIRS)


class _Remembering:
    """Makes attempts, and knows which of them a fresh server has survived."""

    def __init__(self, make: Try) -> None:
        self.survived: set[Attempt] = set()
        self._make = make

    def __call__(self, attempt: Attempt) -> Result:
        result = self._make(attempt)
        if not result.killed and not result.before:
            self.survived.add(attempt)
        return result


def _true_culprit(attempt: Attempt, result: Result, make: _Remembering) -> Found:
    """What of an attempt, and of those that the server had lived through before it, is needed."""
    attempt = result.cut(attempt)
    others = [each for each in result.before if each != attempt]
    if not others:
        return Found(*_reduced(attempt, make), 1)
    if make(attempt).killed:
        return Found(*_reduced(attempt, make, 2), 2)
    earlier = tuple(id for each in result.before for id in each.ids)
    new = tuple(dict.fromkeys(id for id in earlier if id not in attempt.ids))
    for whole in dict.fromkeys((Attempt((*earlier, *attempt.ids)), Attempt((*new, *attempt.ids), attempt.how))):
        killer = _by_itself(whole, make)
        if killer is not None:
            return Found(*_reduced(killer, make), 1)
    return Found(attempt, 1, 3)


def _reduced(attempt: Attempt, make: _Remembering, kills: int = 1) -> tuple[Attempt, int]:
    """The attempt without whatever it kills without, and how often it killed: no half, quarter, ... and no single
    request of what is left can go. In turn, the last one stays: it is what killed."""
    last = attempt.ids[-1:] if attempt.how is How.IN_TURN else ()
    ids = attempt.ids[: len(attempt.ids) - len(last)]
    parts = 2
    refuted: set[Attempt] = set()
    while ids:
        edges = [len(ids) * number // parts for number in range(parts + 1)]
        for start, end in pairwise(edges):
            rest = ids[:start] + ids[end:]
            smaller = Attempt(rest + last, attempt.how)
            if start == end or not smaller.ids or smaller in make.survived or smaller in refuted:
                continue
            if _by_itself(smaller, make) is not None:
                ids, kills, parts = rest, 1, max(parts - 1, 2)
                break
            refuted.add(smaller)
        else:
            if parts >= len(ids):
                break
            parts = min(parts * 2, len(ids))
    how = attempt.how if len(ids + last) > 1 else How.IN_TURN
    return Attempt(ids + last, how), kills


def _by_itself(attempt: Attempt, make: Try) -> Attempt | None:
    """What of an attempt kills without help: a server that has seen others has to be killed once more, fresh."""
    result = make(attempt)
    if result.killed and any(each != attempt for each in result.before):
        result = make(attempt)
    return result.cut(attempt) if result.killed else None


def _confirmed(found: Found, make: Try, confirm: int) -> Found:
    kills, tries = found.kills, max(found.tries, found.kills)
    while tries < confirm:
        kills += make(found.attempt).killed
        tries += 1
    return Found(found.attempt, kills, tries)
