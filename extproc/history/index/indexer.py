"""Keeps the index of one directory: what becomes final in the journal becomes a row.

    indexer = Indexer(directory)
    while indexer.step(): ...            # up to what is there now
    indexer.share(joiner, positions)     # or given by one who reads and joins the journal anyway,
    indexer.hear(records, whole)         # what he reads,
    indexer.put(exchanges)               # what has settled in his joiner,
    indexer.taken(feed.positions(...))   # and how far he has come with it
    indexer.close()

An exchange is final by the times of the records alone, never by the clock, so that the index holds what a scan of the
same records would give. Whatever goes wrong with the file, nothing is raised: it is counted, the file is let go of,
and after a while the work goes on from what the file holds, or from the beginning where it holds nothing any more.
"""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import zstandard

from extproc.core.llm import without_content
from extproc.core.records import AnyRecord, Request, Response
from extproc.errors import JournalError
from extproc.history import lookup
from extproc.history.feed import Feed, SegmentOffset, from_checkpoint, together
from extproc.history.index import store, told
from extproc.history.index.store import Checkpoint, Positions, Store
from extproc.history.index.told import Told
from extproc.history.join import Exchange
from extproc.history.joiner import FOLLOWING, Joiner
from extproc.history.position import PositionedRecord, RecordReader, records_at, series_key
from extproc.journal import lines
from extproc.journal.segment import Name

COMMIT_SECONDS: Final = 0.5
AGAIN_SECONDS: Final = 10.0
BATCH: Final = 2000
MOST_WAITING: Final = 5000
"""Rows that are put and not yet committed."""
POLICY: Final = dataclasses.replace(FOLLOWING, keep_others=False)

_BEGINNING: Final[SegmentOffset] = (0, 0)
_MOST_TOLD: Final = FOLLOWING.most_pending or 0
_ERRORS: Final = (sqlite3.Error, store.Unusable, OSError, JournalError, OverflowError)
_log = logging.getLogger("extproc.index")


class Indexer:
    """`reader`: who reads what only bodies tell; `open_store` makes the store; `clock` is monotonic."""

    def __init__(
        self,
        directory: Path,
        open_store: Callable[[Path], Store] = Store.open,
        clock: Callable[[], float] = time.monotonic,
        reader: told.Reader | None = None,
    ) -> None:
        self.failures = 0
        """How often the file could not be used."""
        self.reader = reader
        self._directory = directory
        self._open_store = open_store
        self._clock = clock
        self._work: _Work | None = None
        self._again_at = 0.0

    @property
    def exchanges(self) -> int:
        """Rows that were committed since the file was opened."""
        return 0 if self._work is None else self._work.committed

    @property
    def behind_bytes(self) -> int:
        """How much of the journal has not been read for the index; all of it while its file cannot be used."""
        positions = {} if self._work is None else self._work.positions
        return Feed([self._directory], from_checkpoint(positions)).behind_bytes()

    @property
    def is_caught_up(self) -> bool:
        """Everything that was there has been read."""
        return self._work is not None and self._work.caught_up

    @property
    def shares(self) -> bool:
        """Somebody else reads and joins for it: it is to be given what he reads, and what has settled."""
        return self._work is not None and self._work.shares

    def step(self, until: Mapping[str, SegmentOffset] | None = None) -> bool:
        """Read what is there, up to a batch, or up to where somebody else has read. False: everything has been read, or
        nothing can be done at the moment."""
        more = self._tried(lambda work: work.read(BATCH, until)) or False
        self.commit()
        return more

    def share(self, joiner: Joiner, positions: Mapping[str, SegmentOffset]) -> None:
        """Let a joiner join for this one too from now on, if nobody has read further than the other one: it has read
        up to `positions`."""
        work = self._work
        if work is not None and work.has_read_to(positions):
            work.share(joiner)

    def hear(self, read: Sequence[PositionedRecord], whole: Sequence[PositionedRecord]) -> None:
        """What the other one has read, and the same with its bodies: something of it may stand in no exchange."""
        if self.shares:
            self._tried(lambda work: work.hear(read, whole))

    def put(self, settled: Sequence[Exchange]) -> None:
        """What has settled in the joiner that is shared."""
        if settled and self.shares:
            self._tried(lambda work: work.put(settled))

    def taken(self, positions: Mapping[str, SegmentOffset]) -> None:
        """How far the other one has read, when all that has settled by then was put."""
        if self._work is not None:
            self._work.positions = dict(positions)
            self.commit()

    def commit(self, *, now: bool = False) -> None:
        """Write what has come, when it is time for that."""
        self._tried(lambda work: work.commit(self._clock(), at_once=now))

    def close(self) -> None:
        """Write what has come, and let go of the file."""
        self.commit(now=True)
        self._let_go()

    def _tried(self, do: Callable[[_Work], bool | None]) -> bool | None:
        if self._work is None and self._clock() < self._again_at:
            return None
        try:
            if self._work is None:
                self._work = _Work(self._directory, self._open_store(self._directory), self.reader)
            done = do(self._work)
        except _ERRORS as error:
            self._failed(error)
            return None
        return done

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._again_at = self._clock() + AGAIN_SECONDS
        _log.warning("%s: %s; going on in %g s", store.path_of(self._directory), error, AGAIN_SECONDS)
        self._let_go()
        if isinstance(error, store.Unusable) or is_damage(error):
            try:
                store.delete(self._directory)
            except OSError as worse:
                _log.warning("%s", worse)

    def _let_go(self) -> None:
        if self._work is not None:
            self._work.close()
        self._work = None


def is_damage(error: Exception) -> bool:
    """Whether it is the file that is wrong, and not the disk that is full or the file that is busy."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)


class _Work:
    """An opened store, and where in the journal it is."""

    def __init__(self, directory: Path, opened: Store, reader: told.Reader | None) -> None:
        self._directory = directory
        self._store = opened
        self._reader = reader
        self._told: dict[str, Told] = {}
        """Of exchanges that are not final yet."""
        if not _is_there(directory, opened.checkpoint):
            opened.close()
            raise store.Unusable("the journal ends before the place up to which it was read")
        self._listed: object = None
        self._listing = lines.Listing(directory)
        self._joiner = Joiner(POLICY)
        self.positions: dict[str, SegmentOffset] = dict(opened.checkpoint.series)
        self._feed = Feed([directory], from_checkpoint(self.positions), follow=True)
        self.caught_up = self.shares = False
        self.committed = 0
        self._commit_at = 0.0
        for found in records_at(directory, opened.checkpoint.pending):
            read = found.with_record(without_content(found.record))
            self.hear([read], [found])
            self._joiner.restore([read])

    def read(self, most: int, until: Mapping[str, SegmentOffset] | None = None) -> bool:
        count = 0
        for some in together(self._feed.records(most, until)):
            count += len(some)
            read = [found.with_record(without_content(found.record)) for found in some]
            self.hear(read, some)
            self.put(self._join(read))
        self.positions = self._feed.positions(self._directory)
        self.caught_up = count < most and not self._store.make_ready()
        return not self.caught_up

    def has_read_to(self, positions: Mapping[str, SegmentOffset]) -> bool:
        return self.caught_up and all(
            position <= positions.get(series, _BEGINNING) for series, position in self.positions.items()
        )

    def share(self, joiner: Joiner) -> None:
        joiner.adopt(self._joiner)
        self._joiner = joiner
        self._feed = Feed([], from_checkpoint({}))  # a segment that is deleted must not stay open here
        self.shares = True

    def _join(self, records: Sequence[PositionedRecord]) -> list[Exchange]:
        joiner, final = self._joiner, list[Exchange]()
        for found in records:
            joiner.add(found)
            final += joiner.final(joiner.read_until)
        return final

    def put(self, exchanges: Sequence[Exchange]) -> None:
        for exchange in exchanges:
            self._store.put(exchange, self._told.pop(exchange.id, told.NOTHING))

    def hear(self, read: Sequence[PositionedRecord], whole: Sequence[PositionedRecord]) -> None:
        """Keep what bodies tell until their exchanges are final. `read`: the records with `llm` in the body's place."""
        if self._reader is not None:
            for (_, _, short), (_, _, record) in zip(read, whole, strict=True):
                self._hear(self._reader, short, record)

    def _hear(self, reader: told.Reader, read: AnyRecord, record: AnyRecord) -> None:
        if isinstance(record, Request):
            before, asked = self._told.pop(record.id, told.NOTHING), read.llm if isinstance(read, Request) else None
            self._told[record.id] = before.having(reader.asked(record, asked, self._directory))
        elif isinstance(record, Response) and isinstance(read, Response) and told.may_have_failed(read):
            before = self._told.pop(record.id, told.NOTHING)
            self._told[record.id] = before._replace(message=reader.failed(record, self._directory))
        if len(self._told) > _MOST_TOLD:
            del self._told[next(iter(self._told))]

    def _again(self, records: RecordReader, positions: Positions) -> tuple[Exchange, Told] | None:
        exchange = lookup.at_positions(self._directory, positions, records)
        return None if exchange is None else (exchange, told.of(exchange, self._reader))

    def commit(self, now: float, *, at_once: bool) -> None:
        """Write what is there to be written, when it is time for that."""
        if not at_once and now < self._commit_at and self._store.waiting < MOST_WAITING:
            return
        self._commit_at = now + COMMIT_SECONDS
        if not self.shares:
            self._joiner.others(self._joiner.read_until)  # an entry without its exchange is waited for no longer
        checkpoint = Checkpoint(self.positions, self._joiner.unsettled())
        if checkpoint != self._store.checkpoint:  # an idle machine's disk is left alone
            self.committed += self._store.waiting
            self._store.commit(checkpoint)
        if not self._store.is_in_place(self._directory):
            raise store.Unusable("it has been deleted")
        self._follow_retention()

    def _follow_retention(self) -> None:
        listed = self._listing.series()
        if listed is self._listed:
            return
        self._listed = listed
        there = {(series_key(series), name.number) for series in listed for name in series.names}
        # One reader for all of them, and none that outlives them: it knows segments as they are now.
        again = partial(self._again, RecordReader(self._directory))
        for segment in set(self._store.segments()) - there:
            self._store.forget(segment, again)

    def close(self) -> None:
        self._store.close()


def _is_there(directory: Path, checkpoint: Checkpoint) -> bool:
    """Whether the journal goes as far as it was read: a power cut may have taken what was on no disk yet."""
    names = {(series_key(series), name.number): name for series in lines.series(directory) for name in series.names}
    for series, (number, offset) in checkpoint.series.items():
        name = names.get((series, number))
        if name is not None and offset and not _ends_line(directory, name, offset):
            return False
    return True


def _ends_line(directory: Path, name: Name, offset: int) -> bool:
    head = lines.header(directory, name)
    if head is None or head.get("kept"):
        return True  # where its lines have stood before can be seen no more
    try:
        with lines.open_segment(directory, name, offset - 1) as file:
            return file.read(1) == b"\n"
    except (FileNotFoundError, zstandard.ZstdError):
        return True  # deleted since, or damaged, which is no matter of ours
