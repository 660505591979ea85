"""The follower's loop: the journal of one data directory to the consumers, while it grows.

    follower = Follower(directory, consumers, kept)
    while not stopped:
        if not follower.step():
            wait a moment
    follower.close()

Each exchange is given to every consumer once. A checkpoint is kept about once a second, but only for what all
consumers are done with: killed at any moment, a follower repeats what came since, and loses nothing.

The index has a checkpoint of its own, and reads by itself what it lacks, as far as we have read. From then on it is
given what is read and joined here: consumers have an exchange by the time of day, the index by that of the records.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from extproc.core.llm import without_content
from extproc.core.records import AnyRecord, Segment
from extproc.core.times import timestamp
from extproc.follow import checkpoint
from extproc.follow.checkpoint import Checkpoint
from extproc.history import feed
from extproc.history.feed import Feed
from extproc.history.index.indexer import Indexer
from extproc.history.join import Exchange
from extproc.history.joiner import FOLLOWING, Joiner
from extproc.history.position import PositionedRecord, records_at

SAVE_SECONDS: Final = 1.0
BATCH: Final = 1000
_log = logging.getLogger("extproc.follow")


class Consumer(Protocol):
    """What is made of exchanges. Calls come from one thread, and return at once."""

    def exchange(self, exchange: Exchange) -> None:
        """A final exchange; each comes once."""
        ...

    def record(self, record: AnyRecord) -> None:
        """A record of no exchange: a `gap`, or an `access` entry to which there is none of ours."""
        ...

    def sequence(self) -> int:
        """A number for everything that was given so far."""
        ...

    def flushed_to(self, sequence: int) -> bool:
        """Whether everything up to this number is out of our hands: exported, or counted as dropped."""
        ...


class Watcher(Consumer, Protocol):
    """A consumer that looks at what has not ended, too."""

    def taken(self, record: AnyRecord) -> None:
        """A record, as it is read."""
        ...

    def step(self, now: float, joiner: Joiner, *, is_caught_up: bool) -> None:
        """Everything was read up to this time, in seconds since 1970. `is_caught_up`: it is the time of day."""
        ...

    def close(self, timeout: float) -> None:
        """Nothing more will come."""
        ...


class Follower:
    """One directory. `kept`: the file of the checkpoint, or None to keep none and read everything once."""

    def __init__(
        self,
        directory: Path,
        consumers: Sequence[Consumer],
        kept: Path | None,
        *,
        keep_bodies: bool = False,
        index: Indexer | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.exchanges = 0
        self.lag_seconds = 0.0
        """How old the record is that was read last, while there are more; 0 when everything has been read."""
        self._directory = directory
        self._consumers = consumers if watcher is None else [*consumers, watcher]
        self._watcher = watcher
        self._kept = kept
        self._keep_bodies = keep_bodies
        self.index = index
        self._is_shared = False
        before = None if kept is None else checkpoint.load(kept)
        self._new = before is None and kept is not None
        self._seen_series: set[str] = set()
        if kept is None:
            self._feed = Feed([directory], feed.everything)
        else:
            start = feed.open_segments(directory) if before is None else before.series
            self._feed = Feed([directory], feed.from_checkpoint(start), follow=True)
        entries_since = "" if kept is None else timestamp(time.time_ns())
        self._joiner = Joiner(dataclasses.replace(FOLLOWING, keep_bodies=keep_bodies, entries_since=entries_since))
        self._unsaved: tuple[Checkpoint, list[int]] | None = None
        self._saved = before
        self._save_at = time.monotonic() + SAVE_SECONDS
        self._joiner.restore(records_at(directory, () if before is None else before.pending))

    @property
    def given_up(self) -> int:
        """Exchanges that were not exported because there were too many in flight."""
        return self._joiner.given_up

    def step(self) -> bool:
        """Read what is there, up to a batch, and give out what is final. False: everything has been read."""
        count, at = 0, ""
        for some in feed.together(self._feed.records(BATCH)):
            count, at = count + len(some), some[-1].record.at
            self._take(some)
        more = count == BATCH
        self.lag_seconds = max(0.0, time.time() - _seconds(at)) if more else 0.0
        watermark = self._joiner.read_until if more else timestamp(time.time_ns())
        self._give_out(watermark)
        if self._watcher is not None:
            self._watcher.step(_seconds(watermark), self._joiner, is_caught_up=not more)
        if self._kept is not None:
            self._save_now_and_then()
        return self._keep_index() or more

    def _take(self, whole: Sequence[PositionedRecord]) -> None:
        if self._new:
            self._begin_series(whole)
        short = [found.with_record(without_content(found.record)) for found in whole]
        read = whole if self._keep_bodies else short  # what they say is read once, whoever asks for it
        if self._is_shared and self.index is not None:
            self.index.hear(short, whole)
            self._join_for(self.index, read)
        else:
            for found in read:
                self._joiner.add(found)
        if self._watcher is not None:
            for found in short:
                self._watcher.taken(found.record)

    def _join_for(self, index: Indexer, records: Sequence[PositionedRecord]) -> None:
        """What settles is for the index: by the times of the records alone, and so after each of them."""
        joiner, final, settled = self._joiner, list[Exchange](), list[Exchange]()
        for found in records:
            joiner.add(found)
            final += joiner.final(joiner.read_until)
            settled += joiner.settled()
        self._give(final)
        index.put(settled)

    def _keep_index(self) -> bool:
        """Once the index has read as far as we have, we read and join for it too. True: it has more to read until
        then."""
        if self.index is None:
            return False
        positions = self._feed.positions(self._directory)
        if self._is_shared:
            self.index.taken(positions)
            self._is_shared = self.index.shares
            if not self._is_shared:  # its file cannot be used: it begins anew where that ends
                self._joiner.release()
            return False
        more = self.index.step(positions)
        self.index.share(self._joiner, positions)
        self._is_shared = self.index.shares
        return more

    def finish(self) -> None:
        """Give out what has ended: there is nothing more to come."""
        self._give(list(self._joiner.ended()))

    def behind_bytes(self) -> int:
        """How much of the journal is still to be read."""
        return self._feed.behind_bytes()

    def close(self, timeout: float) -> None:
        """Wait until the consumers are done, and keep a checkpoint. After a timeout the last sure one stays."""
        if self.index is not None:
            self.index.close()
        if self._watcher is not None:
            self._watcher.close(timeout / 2)
        if self._kept is None:
            return
        self._unsaved = self._snapshot()
        until = time.monotonic() + timeout
        while not self._save() and time.monotonic() < until:
            time.sleep(0.01)

    def _begin_series(self, records: Sequence[PositionedRecord]) -> None:
        """On the very first start: what is in flight at the head of an open segment began before our time."""
        for _, (series, _, _), head in records:
            if isinstance(head, Segment) and series not in self._seen_series:
                self._seen_series.add(series)
                self._joiner.pass_over(head.in_flight)

    def _give_out(self, watermark: str) -> None:
        self._give(self._joiner.final(watermark))
        for record in self._joiner.others(watermark):
            for consumer in self._consumers:
                consumer.record(record)

    def _give(self, exchanges: Sequence[Exchange]) -> None:
        self.exchanges += len(exchanges)
        for consumer in self._consumers:
            for exchange in exchanges:
                consumer.exchange(exchange)

    def _save_now_and_then(self) -> None:
        if self._unsaved is not None:
            self._save()
        elif time.monotonic() >= self._save_at:
            self._unsaved = self._snapshot()
            self._save_at = time.monotonic() + SAVE_SECONDS

    def _snapshot(self) -> tuple[Checkpoint, list[int]]:
        kept = Checkpoint(self._feed.positions(self._directory), self._joiner.positions())
        return kept, [consumer.sequence() for consumer in self._consumers]

    def _save(self) -> bool:
        """Keep the snapshot, if the consumers are done with what it covers."""
        assert self._kept is not None
        if self._unsaved is None:
            return True
        kept, given = self._unsaved
        if not all(consumer.flushed_to(sequence) for consumer, sequence in zip(self._consumers, given, strict=True)):
            return False
        self._unsaved = None
        if kept == self._saved:
            return True  # an idle machine's disk is left alone
        try:
            checkpoint.save(self._kept, kept)
            self._saved = kept
        except OSError as error:
            _log.warning("the position cannot be kept: %s: %s", self._kept, error.strerror)
        return True


def _seconds(at: str) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return time.time()
