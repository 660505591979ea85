"""The last exchanges of a journal, as the search for incidents has them, without reading all of it: for where there is
no index (`window.py`).

    flights = recent.flights(directory, until)

What is usual is counted in them, so there are to be thousands; a busy journal has those in a minute, a quiet one in a
week. How far to go back is guessed from how many there are in the last minute, and again, until there are enough.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from extproc.history import now, reader
from extproc.history.join import Exchange
from extproc.incidents import evidence
from extproc.incidents.evidence import End, Flight

ENOUGH: Final = 3000
MOST: Final = 6000
FIRST: Final = timedelta(minutes=1)
_FURTHER: Final = 30
"""At most so many times as far is looked back the next time."""
_TRIES: Final = 4


def known_until(directories: Sequence[Path], found: Sequence[Flight]) -> float | None:
    """Up to when a journal says what happened: now, while workers write it and something is in flight. None: up to its
    last exchange."""
    in_flight = any(each.end is End.RUNNING for each in found)
    return time.time() if in_flight and now.live_series(directories) else None


def flights(directory: Path, until: datetime, *, enough: int = ENOUGH) -> list[Flight]:
    """Of the last exchanges, those in flight included: `enough` of them, where there are so many."""
    age, found = FIRST, list[Exchange]()
    for attempt in range(_TRIES):
        last = attempt == _TRIES - 1
        more = list(itertools.islice(_since(directory, None if last else until - age), MOST + 1))
        if len(more) > MOST:
            if found:
                break  # the guess was bad, and there is something to go by
            return _flights(_since(directory, until - age))
        found = more
        if len(found) >= enough:
            break
        age *= max(2.0, min(_FURTHER, 1.2 * enough / max(len(found), 1)))
    return _flights(found)


def _since(directory: Path, since: datetime | None) -> Iterator[Exchange]:
    return reader.exchanges([directory], since=since)


def _flights(exchanges: Iterator[Exchange] | list[Exchange]) -> list[Flight]:
    return [flight for each in exchanges for flight in evidence.flights(each, evidence.recorded_body)]
