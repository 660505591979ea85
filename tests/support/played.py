"""A journal played again: what was known of its exchanges at each moment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from extproc.incidents.detect import Sighting
from extproc.incidents.evidence import End, Flight
from extproc.incidents.live import Watch


def as_seen(flights: Iterable[Flight], now: float) -> list[Flight]:
    """What was in flight at a moment, of exchanges of which all is known by now: for playing a journal again."""
    return [_as_seen(each, now) for each in flights if each.started <= now and (each.ended is None or each.ended > now)]


def _as_seen(each: Flight, now: float) -> Flight:
    token = each.token if each.token is not None and each.token <= now else None
    begun = each.first_byte is not None and each.first_byte <= now
    return replace(
        each,
        upstream=each.upstream if begun else "",
        end=End.RUNNING,
        ended=None,
        outcome="",
        status=each.status if token is not None else None,
        token=token,
        first_byte=each.first_byte if begun else None,
        last_byte=_last_byte(each, now) if token is not None else each.first_byte if begun else None,
        silence=each.silence if each.silence is not None and each.silence[1] <= now else None,
        error="",
    )


def _last_byte(each: Flight, now: float) -> float | None:
    if each.silence is not None and each.silence[0] <= now <= each.silence[1]:
        return each.silence[0]
    return None if each.last_byte is None else min(each.last_byte, now)


def played(
    flights: Sequence[Flight], step: float = 0.5, final_after: float = 1.0, since: float = 0.0
) -> Iterator[tuple[float, Sighting]]:
    """What a watch sees, and when, of exchanges that end as they did, and are final a little later. `since`: what had
    ended by then it is given at once."""
    watch = Watch()
    by_end = sorted((each for each in flights if each.ended is not None), key=lambda each: each.ended or 0.0)
    ends = [each.ended or 0.0 for each in by_end]
    last = max(ends, default=0.0) + 20
    now, final = max(since, min(each.started for each in flights)), 0
    while now < last:
        until = bisect_right(ends, now - final_after)
        for each in by_end[final:until]:
            watch.add(each)
        final = until
        ended = by_end[final : bisect_right(ends, now)]
        running = as_seen(flights, now)
        watch.silences(now, running)
        for sighting in watch.look(now, lambda: ([*ended, *running], float("inf"))):  # noqa: B023 - called at once
            yield now, sighting
        now += step
