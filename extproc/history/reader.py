"""Which exchanges there are: those of a time, those that were in flight at a moment, the latest one.

They come newest last, by the time at which they started, as far as that is possible without keeping them all (see
`window.py`). What is in memory is those that are held back for that, the ones that wait for Envoy's access entry, and
the ones in flight. An exchange in flight has `outcome` and `ended_at` null, and comes last; `ending` gives it when it
has ended. Damaged lines are passed over here; `verify.py` is who names them.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from extproc.core.records import AnyRecord, Request
from extproc.core.times import later, moment_text, timestamp
from extproc.history import feed
from extproc.history.extents import ALWAYS, SLACK_SECONDS
from extproc.history.feed import Feed, Start
from extproc.history.join import Exchange, Parts
from extproc.history.joiner import FINITE, WATCHING, Joiner, Policy
from extproc.history.live_tables import LiveTables
from extproc.history.position import PositionedRecord
from extproc.history.tail import Tail
from extproc.history.window import Window
from extproc.journal import lines
from extproc.journal.lines import Line

_POLL_SECONDS: Final = 0.2
_BATCH: Final = 1000


def scan(directories: Sequence[Path]) -> Iterator[Line]:
    """Every line of every segment, series by series in the order of writing, damaged ones too.

    Lines that were written again in a later segment, and the half line that a writer is just writing, are left out.
    """
    for directory in directories:
        for series in lines.series(directory):
            yield from (line for line in Tail(series) if line is not None)


def exchanges(
    directories: Sequence[Path],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    policy: Policy = FINITE,
) -> Iterator[Exchange]:
    """The exchanges that started at `since` or later and before `until`, newest last, those in flight at the end.
    `policy`: how many are held in memory."""
    first, last = _text(since) or "", _text(until) or ALWAYS
    policy = dataclasses.replace(policy, since=first, until=last)
    return _to_the_end(Feed(directories, feed.since(first)), policy, LiveTables())


def ending(
    directories: Sequence[Path],
    *,
    since: datetime,
    until: datetime | None = None,
    stop: Callable[[], bool] = lambda: False,
    start: Start | None = None,
    pending: Iterable[PositionedRecord] = (),
) -> Iterator[Exchange]:
    """The exchanges that started between these, each as it ends, until `stop` says so. With `start`, from there on:
    `pending` are the records before it of what had not ended there."""
    first, last = moment_text(since), _text(until) or ALWAYS
    joiner = Joiner(dataclasses.replace(WATCHING, since=first, until=last))
    joiner.restore(pending)
    return _following(Feed(directories, start or feed.since(first), follow=True), joiner, stop)


def in_flight(
    directories: Sequence[Path], at: datetime, until: datetime | None = None, tables: LiveTables | None = None
) -> Iterator[Exchange]:
    """The exchanges that had started and not ended at `at`, or at some moment from `at` to `until`; oldest first."""
    first, last = moment_text(at), moment_text(until or at)
    policy = dataclasses.replace(FINITE, until=f"{last}~")
    found = _to_the_end(Feed(directories, feed.with_all_of(first)), policy, tables or LiveTables())
    return (exchange for exchange in found if exchange.ended_at is None or exchange.ended_at >= first)


def latest(directories: Sequence[Path], wanted: Callable[[Exchange], bool]) -> Exchange | None:
    """The exchange that started last of those that have ended and are wanted. What is old is read when it must be."""
    now = datetime.now(UTC)
    for age in (timedelta(minutes=1), timedelta(hours=1), timedelta(days=1), None):
        found = exchanges(directories, since=None if age is None else now - age)
        ended = deque((each for each in found if not each.in_flight and wanted(each)), maxlen=1)
        if ended:
            return ended[0]
    return None


def unfinished(parts: Parts, tables: LiveTables) -> Exchange:
    """An exchange in flight, with what the tables know of it."""
    parts.seen = tables.of(parts.directory).get(parts.id)
    return parts.exchange(timestamp(time.time_ns()))


def _to_the_end(records: Feed, policy: Policy, tables: LiveTables) -> Iterator[Exchange]:
    """What is there, in its order."""
    joiner, window = Joiner(policy), Window(policy.most_in_order)
    long_past = later(policy.until.rstrip(ALWAYS), SLACK_SECONDS) or ALWAYS
    for found in records.records():
        if _begins_after(found.record, long_past) and not joiner.has_in_flight():
            break  # nothing that is asked for can come any more
        joiner.add(found)
        for exchange in joiner.final(joiner.read_until):
            yield from window.add(exchange)
    for exchange in joiner.ended():
        yield from window.add(exchange)
    yield from window.rest()
    for parts in joiner.in_flight():
        yield unfinished(parts, tables)


def _following(records: Feed, joiner: Joiner, stop: Callable[[], bool]) -> Iterator[Exchange]:
    while not stop():
        count = 0
        for found in records.records(_BATCH):
            joiner.add(found)
            count += 1
        yield from joiner.final(joiner.read_until if count == _BATCH else timestamp(time.time_ns()))
        if not count:
            time.sleep(_POLL_SECONDS)


def _begins_after(record: AnyRecord, at: str) -> bool:
    return isinstance(record, Request) and (record.started_at or "") > at


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
