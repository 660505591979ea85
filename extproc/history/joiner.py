"""Records become exchanges, whoever reads them: each exchange once, when it is final.

    joiner = Joiner(policy)
    for found in feed.records(...):
        joiner.add(found)
        joiner.final(watermark)     # the exchanges of which nothing more is expected
    joiner.ended()                  # there is nothing more to read: those that have ended
    joiner.in_flight()              # and those that have not

The watermark is the time up to which everything has been read: that of the record read last (`read_until`), or the
time of day where nothing is left. An exchange is final when it has its terminal record and the watermark has passed
the time in which more may come: an access entry for `Policy.entry_seconds`, the request record of an early answer for
a second; where all of it is there, half a second for what Envoy may still have sent as the stream closed (`late`). So
the same records give the same exchanges, whether they are read while they are written or a year later.

Where one takes exchanges as soon as the time of day allows and another one must have them as the records alone make
them, both take from one joiner: after `adopt` it keeps what it has given until the time of the records, too, has passed
the time in which more may come, and `settled` then has it again, with what has come in between.

An entry that comes before its exchange is kept for that time too, and so is one that stands alone (see `alone.py`),
which is an exchange of its own when no other has claimed it by then. Memory is bounded by `Policy`.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from extproc.core.llm import without_content
from extproc.core.records import Access, AnyRecord, Gap, Open, Request, id_of
from extproc.core.times import later, started_by_id, timestamp
from extproc.history import alone
from extproc.history.join import ACCESS_SECONDS, JOINED, Exchange, Parts
from extproc.history.position import PositionedRecord, RecordPosition
from extproc.journal.flight import BEGINNING

T = TypeVar("T")

REQUEST_SECONDS: Final = 1
"""How long an exchange that has ended waits for a request record that comes after (an early answer)."""
LATE_SECONDS: Final = 0.5
"""How long after the end, and Envoy's entry, what came late may be recorded: all are written as the stream closes."""
_REMEMBERED: Final = 20_000
_REMEMBERED_ENTRIES: Final = 1000


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to wait for what belongs to an exchange, and for how many at most."""

    entry_seconds: float = ACCESS_SECONDS
    """How long after its end an exchange waits for Envoy's access entry."""
    most_waiting: int = 4000
    """Exchanges that have ended and are not final. Beyond it the one that has waited longest is given as it is."""
    most_pending: int | None = None
    """Exchanges in memory, those in flight too. Beyond it the oldest is given up: counted, never given."""
    most_in_order: int = 1000
    """Exchanges that are held back so that those that began earlier come before them; where that is asked for."""
    keep_others: bool = False
    """Whether records that belong to no exchange are kept for `others`."""
    keep_bodies: bool = True
    """Whether records keep their bodies until they are given; else what a body says of a model stays (`llm`)."""
    since: str = ""
    """Exchanges that began before are left out,"""
    until: str = "~"
    """and so are those that began then or later. RFC 3339 in UTC, as in records."""
    entries_since: str = ""
    """An entry whose exchange is not here and began before this time, by its id, is of no interest."""


FINITE: Final = Policy()
"""For what is there, to the end."""
WATCHING: Final = Policy(entry_seconds=1.5)
"""For a person who watches exchanges end."""
FOLLOWING: Final = Policy(most_waiting=40_000, most_pending=50_000, keep_others=True, keep_bodies=False)
"""For a process that follows for ever."""


class Joiner:
    """Takes records in any order. `clock`: the time of day in nanoseconds, for whether an entry may still come."""

    def __init__(self, policy: Policy = FINITE, clock: Callable[[], int] = time.time_ns) -> None:
        self.given_up = 0
        """Exchanges of which there were too many to wait for."""
        self.read_until = ""
        """The time of the last record of an exchange: the watermark while there is more to read."""
        self._policy = policy
        self._clock = clock
        self._pending: dict[str, Parts] = {}
        self._deadlines: dict[str, str] = {}
        """Of those that have ended: until when more may come."""
        self._queue: list[tuple[str, str]] = []
        """The same as a heap; a deadline that has changed since is void."""
        self._given: dict[str, None] = {}
        self._passed_over: set[str] = set()
        self._by_request_id: dict[str, str] = {}
        """Which of the pending ones Envoy knows by this id, for entries that name none of ours."""
        self._early_entries: dict[str, PositionedRecord] = {}
        """Entries that name an exchange of which nothing has come yet."""
        self._given_alone: dict[str, tuple[Access, list[RecordPosition]]] = {}
        """Entries that were given as exchanges, by Envoy's id: their exchange may still come."""
        self._others: list[AnyRecord] = []
        self._keeps_given = False
        """Somebody asks for what has settled."""
        self._settling: dict[str, str] = {}
        """As `_deadlines`, of those that were given,"""
        self._settling_queue: list[tuple[str, str]] = []
        """and as `_queue`."""
        self._settled: list[Exchange] = []
        self._told_entries: dict[str, PositionedRecord] = {}
        """Early entries that are among the `others` by the time of day, or of no interest but to who asks for what has
        settled."""

    # In ----------------------------------------------------------------------------------------------------------

    def add(self, found: PositionedRecord) -> None:
        """Take one record in."""
        record = found.record
        if isinstance(record, Access):
            record = alone.as_own(record)
        if record.type not in JOINED:
            if isinstance(record, Gap):
                self._add_other(record)
            return
        self.read_until, id = record.at, id_of(record)
        if id is None:
            self._add_other(record)  # an access entry that names no exchange
        elif id in self._pending or not self._is_behind_us(id):
            self._add(id, found.with_record(record))

    def restore(self, records: Iterable[PositionedRecord]) -> None:
        """Take records in that were still needed when another joiner was asked for its `positions`."""
        for found in records:
            record = found.record
            if isinstance(record, Access) and record.id is not None and record.id not in self._pending:
                self._early_entries[record.id] = found
            else:
                self.add(found)

    def pass_over(self, ids: Iterable[str]) -> None:
        """Exchanges whose beginning will not be read: what comes of them is of no interest."""
        self._passed_over.update(ids)

    def _is_behind_us(self, id: str) -> bool:
        return id in self._given or (id in self._passed_over and not self._keeps_given)

    def _add(self, id: str, found: PositionedRecord) -> None:
        record = found.record
        parts = self._pending.get(id)
        if parts is None:
            if isinstance(record, Access) and alone.stands_alone(record):
                parts = self._whose(record)
            elif record.type not in BEGINNING:
                self._add_early(id, found)
                return
            if parts is None:
                if not self._is_asked_for(record):
                    return
                parts = self._begin(id, found)
        self._note_request_id(parts, record)
        self._join(parts, found)

    def _add_early(self, id: str, found: PositionedRecord) -> None:
        if not isinstance(found.record, Access):
            return
        if started_by_id(id) < self._policy.entries_since or id in self._passed_over:
            self._keep_told(id, found)
            return
        self._early_entries[id] = found
        if len(self._early_entries) > self._policy.most_waiting:
            self._tell_of(next(iter(self._early_entries)))

    def _tell_of(self, id: str) -> None:
        """An early entry's exchange has not come in time."""
        found = self._early_entries.pop(id)
        self._add_other(found.record)
        self._keep_told(id, found)

    def _keep_told(self, id: str, found: PositionedRecord) -> None:
        if self._keeps_given:
            _remember(self._told_entries, id, found, self._policy.most_waiting)

    def _add_other(self, record: AnyRecord) -> None:
        if self._policy.keep_others:
            self._others.append(record)

    def _is_asked_for(self, record: AnyRecord) -> bool:
        """Whether its exchange began in time, as far as this record tells."""
        started_at: str | None = getattr(record, "started_at", None)
        return not started_at or self._policy.since <= started_at < self._policy.until

    def _begin(self, id: str, found: PositionedRecord) -> Parts:
        most = self._policy.most_pending
        if most is not None and len(self._pending) >= most:
            self._give_up(next(iter(self._pending.values())))
        parts = self._pending[id] = Parts(id, found.directory)
        parts.given = id in self._passed_over
        early = self._early_entries.pop(id, None) or self._told_entries.pop(id, None)
        if early is not None:
            self._join(parts, early)
        return parts

    def _give_up(self, parts: Parts) -> None:
        self._forget(parts)
        if not parts.given:
            self.given_up += 1
        elif parts.over:
            self._settled.append(parts.made or parts.exchange(self.read_until))

    def _join(self, parts: Parts, found: PositionedRecord) -> None:
        record = found.record if self._policy.keep_bodies and not parts.given else without_content(found.record)
        is_near = found.directory is parts.directory or found.directory == parts.directory
        parts.add(record, found.position if is_near else None)
        self._set_deadline(parts)

    # Entries without an id of ours ---------------------------------------------------------------------------------

    def _whose(self, entry: Access) -> Parts | None:
        """The exchange that an entry which stands alone is of, where that is here and has none."""
        parts = self._pending.get(self._by_request_id.get(entry.request_id or "", ""))
        if parts is None or parts.begun is None or parts.access is not None or not alone.is_of(entry, parts.begun):
            return None
        return parts

    def _note_request_id(self, parts: Parts, record: AnyRecord) -> None:
        """Remember it, and take over the entry that stood alone under it."""
        if not isinstance(record, Request | Open | Access) or record.request_id is None:
            return
        request_id = record.request_id
        other = self._pending.get(self._by_request_id.get(request_id, ""))
        self._by_request_id[request_id] = parts.id
        if isinstance(record, Access):
            return
        if other is not None and other is not parts and other.is_alone and other.access is not None:
            if alone.is_of(other.access, record):
                parts.take_over(other)
                self._forget(other)
        elif parts.access is None and (given := self._given_alone.get(request_id)) and alone.is_of(given[0], record):
            parts.add(given[0])
            parts.positions += given[1]

    # Out ---------------------------------------------------------------------------------------------------------

    def final(self, watermark: str) -> Sequence[Exchange]:
        """The exchanges that have become final."""
        if not self._queue or (self._queue[0][0] >= watermark and len(self._deadlines) <= self._policy.most_waiting):
            return ()
        return list(self._final(watermark))

    def _final(self, watermark: str) -> Iterator[Exchange]:
        while self._queue:
            deadline, id = self._queue[0]
            is_void = self._deadlines.get(id) != deadline
            if not is_void and deadline >= watermark and len(self._deadlines) <= self._policy.most_waiting:
                break
            heapq.heappop(self._queue)
            if not is_void:
                yield from self._give(self._pending[id], watermark)

    def ended(self) -> Iterator[Exchange]:
        """Those that have ended, whether or not their entry has come: there is nothing more to read."""
        for id in list(self._deadlines):
            yield from self._give(self._pending[id])

    def in_flight(self) -> list[Parts]:
        """What there is of those that have not ended, oldest first."""
        found = (parts for parts in self._pending.values() if not parts.over and not parts.given)
        return sorted((parts for parts in found if self._began_in_time(parts)), key=lambda parts: parts.started_at)

    def ended_not_final(self) -> list[Parts]:
        """What there is of those that have ended, and of which more may come."""
        return [self._pending[id] for id in self._deadlines]

    def has_in_flight(self) -> bool:
        """Whether an exchange that is asked for has not ended."""
        return len(self._pending) > len(self._deadlines) + len(self._settling)

    def others(self, watermark: str) -> list[AnyRecord]:
        """Records that belong to no exchange: gaps, and access entries to which nothing has been joined in time."""
        while self._early_entries:
            id, (_, _, entry) = next(iter(self._early_entries.items()))
            if watermark <= later(entry.at, ACCESS_SECONDS):
                break
            self._tell_of(id)
        while self._told_entries:
            id, (_, _, entry) = next(iter(self._told_entries.items()))
            if self.read_until <= later(entry.at, ACCESS_SECONDS):
                break
            del self._told_entries[id]
        others, self._others = self._others, []
        return others

    def positions(self) -> list[RecordPosition]:
        """Where the records stand that are still needed for what was not given."""
        return [
            *(position for parts in self._pending.values() if not parts.given for position in parts.positions),
            *(early.position for early in self._early_entries.values()),
        ]

    def _set_deadline(self, parts: Parts) -> None:
        if not parts.over:
            return
        deadline = self._deadline(parts)
        deadlines, queue = self._deadlines, self._queue
        if parts.given:
            deadlines, queue = self._settling, self._settling_queue
        if deadlines.get(parts.id) != deadline:
            deadlines[parts.id] = deadline
            heapq.heappush(queue, (deadline, parts.id))

    def _deadline(self, parts: Parts) -> str:
        """Until when more may come of an exchange that has ended."""
        entry, ended_at = parts.access, parts.ended_at or ""
        if entry is None:
            return later(ended_at, self._policy.entry_seconds)
        came_at = entry.at
        if parts.is_alone:
            return later(came_at, self._policy.entry_seconds)
        whole_at = later(max(came_at, ended_at), LATE_SECONDS)
        return whole_at if parts.request is not None else max(whole_at, later(ended_at, REQUEST_SECONDS))

    def _give(self, parts: Parts, watermark: str = "") -> Iterator[Exchange]:
        is_kept = self._keeps_given and self._deadlines[parts.id] >= self.read_until
        if is_kept:
            self._keep(parts)
        else:
            self._forget(parts)
        if parts.is_alone and parts.access is not None:
            self._add_other(parts.access)
            _remember(
                self._given_alone,
                str(parts.access.request_id),
                (parts.access, parts.positions),
                _REMEMBERED_ENTRIES,
            )
        if not self._began_in_time(parts):
            return
        # Whether an entry may still come is a question only where there is none.
        made = parts.exchange(None if parts.access else max(watermark, timestamp(self._clock())))
        if not is_kept and self._keeps_given:
            self._settled.append(made)
        elif is_kept and self._policy.keep_bodies:
            parts.leave_bodies()
        elif is_kept:
            parts.made = made
        yield made

    def _keep(self, parts: Parts) -> None:
        del self._deadlines[parts.id]
        parts.given = True
        self._set_deadline(parts)

    # For who asks for what has settled -----------------------------------------------------------------------------

    def adopt(self, other: Joiner) -> None:
        """Keep what was given from now on, and what another one still waits for, who has read as far, by the times of
        the records alone."""
        self._keeps_given = True
        self.read_until = max(self.read_until, other.read_until)
        for theirs in other._pending.values():
            ours = self._pending.get(theirs.id)
            if ours is None or len(ours.positions) < len(theirs.positions):
                theirs.given = ours is None or ours.given
                self._deadlines.pop(theirs.id, None)
                self._pending[theirs.id] = theirs
                self._set_deadline(theirs)
        for id, found in other._early_entries.items():
            if id not in self._early_entries and id not in self._pending:
                self._told_entries[id] = found
        self._by_request_id = other._by_request_id | self._by_request_id
        self._given_alone = other._given_alone | self._given_alone
        self._given = other._given | self._given

    def release(self) -> None:
        """Nobody asks for what has settled any more."""
        self._keeps_given = False
        for parts in [parts for parts in self._pending.values() if parts.given]:
            self._forget(parts)
        self._settled.clear()
        self._settling_queue.clear()
        self._told_entries.clear()

    def settled(self) -> list[Exchange]:
        """Those of which nothing more is expected by the times of the records, of those that were given."""
        queue = self._settling_queue
        while queue and (queue[0][0] < self.read_until or len(self._settling) > self._policy.most_waiting):
            deadline, id = heapq.heappop(queue)
            if self._settling.get(id) == deadline:
                parts = self._pending[id]
                self._forget(parts)
                self._settled.append(parts.made or parts.exchange(self.read_until))
        settled, self._settled = self._settled, []
        return settled

    def unsettled(self) -> list[RecordPosition]:
        """Where the records stand that are still needed for what has not settled."""
        return [
            *(position for parts in self._pending.values() for position in parts.positions),
            *(early.position for early in self._early_entries.values()),
            *(told.position for told in self._told_entries.values()),
        ]

    def _began_in_time(self, parts: Parts) -> bool:
        return self._policy.since <= parts.started_at < self._policy.until

    def _forget(self, parts: Parts) -> None:
        del self._pending[parts.id]
        self._deadlines.pop(parts.id, None)
        self._settling.pop(parts.id, None)
        for record in (parts.request, parts.opened, parts.access):
            request_id = None if record is None else record.request_id
            if request_id is not None and self._by_request_id.get(request_id) == parts.id:
                del self._by_request_id[request_id]
        _remember(self._given, parts.id, None, _REMEMBERED)


def _remember(latest: dict[str, T], key: str, value: T, most: int) -> None:
    latest[key] = value
    if len(latest) > most:
        del latest[next(iter(latest))]
