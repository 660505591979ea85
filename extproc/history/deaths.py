"""When a sidecar died, and what was in flight then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from extproc.core.outcome import Outcome
from extproc.core.records import End
from extproc.core.times import moment
from extproc.history import now
from extproc.history.answers import Answers
from extproc.history.filters import IN_FLIGHT, Filters
from extproc.history.join import Exchange
from extproc.journal import lines, segment
from extproc.journal.directory import SEGMENTS

_HIT: Final = Filters(outcomes=(Outcome.SIDECAR_RESTART_ORPHAN, IN_FLIGHT))
TOGETHER: Final = timedelta(seconds=10)
"""Workers that are found dead within this time died of the same thing."""


def at_crash(directories: Sequence[Path], asked: Answers) -> list[Exchange]:
    """What was in flight when the sidecar last died, oldest first: all that the journal says of it.

    Nobody writes at the moment of death. It is seen afterwards: by recovery, which gives each exchange that it finds
    an `orphan` record, or, while no sidecar has started again, by a segment that nobody is writing.
    """
    orphans: list[Exchange] = []
    abandoned: list[Exchange] = []
    left = _left_open(directories)
    for exchange in asked.exchanges(_HIT, running=True, complete=True):
        if not exchange.in_flight:
            orphans = _latest([*orphans, exchange])
        elif (exchange.directory, exchange.worker, exchange.boot_id) in left:
            abandoned.append(exchange)
    if abandoned:
        return abandoned
    return orphans if _nothing_after(directories, orphans) else []


def _latest(orphans: list[Exchange]) -> list[Exchange]:
    """Those that were found together with the last one."""
    found = [(moment(exchange.ended_at), exchange) for exchange in orphans]
    last = max(at for at, _ in found if at is not None)
    return [exchange for at, exchange in found if at is not None and at >= last - TOGETHER]


def _nothing_after(directories: Sequence[Path], orphans: Sequence[Exchange]) -> bool:
    """Whether no death was found after these orphans: one that hit nothing would have left none."""
    last = max((at for each in orphans if (at := moment(each.ended_at))), default=None)
    if last is None:
        return True
    return not any(at > last + TOGETHER for at in _deaths(directories, last.timestamp()))


def _deaths(directories: Sequence[Path], after: float) -> Iterator[datetime]:
    """When recovery closed a series that had no end of its own, for series touched after this time."""
    for directory in directories:
        for series in lines.series(directory):
            name = series.names[-1]
            try:
                touched = (directory / SEGMENTS / str(name)).stat().st_mtime
            except FileNotFoundError:
                continue
            if touched >= after and (at := _recovered_at(directory, name)):
                yield at


def _recovered_at(directory: Path, name: segment.Name) -> datetime | None:
    if name.state == segment.OPEN:
        return None
    last = lines.last_record(directory, name)
    return moment(last.at) if isinstance(last, End) and last.recovered else None


def last(directories: Sequence[Path]) -> datetime | None:
    """When the last death was found: by recovery, or now, by a segment that nobody is writing."""
    found = max(_deaths(directories, 0.0), default=None)
    live = now.live_series(directories)
    for directory in directories:
        for series in lines.series(directory):
            if series.names[-1].state == segment.OPEN and (directory, series.worker, series.boot_id) not in live:
                touched = (directory / SEGMENTS / str(series.names[-1])).stat().st_mtime
                at = datetime.fromtimestamp(touched).astimezone()
                found = at if found is None else max(found, at)
    return found


def _left_open(directories: Sequence[Path]) -> set[tuple[Path, int, str]]:
    """The series of workers that have died and whose end nobody has written yet."""
    live = now.live_series(directories)
    return {
        key
        for directory in directories
        for series in lines.series(directory)
        if series.names[-1].state == segment.OPEN and (key := (directory, series.worker, series.boot_id)) not in live
    }
