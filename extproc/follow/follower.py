"""The follower's loop: the journal of one data directory to the consumers, while it grows.

    follower = Follower(directory, consumers, position)
    while not stopped:
        if not follower.step():
            wait a moment
    follower.close()

Each exchange is given to every consumer once. The position is kept about once a second, but only for what all
consumers are done with: killed at any moment, a follower repeats what came since, and loses nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from extproc.core.record import timestamp
from extproc.follow import position
from extproc.follow.position import Position
from extproc.history.join import Exchange
from extproc.history.joiner import Join
from extproc.history.tails import Tails, record_at

Record = Mapping[str, Any]

SAVE_SECONDS: Final = 1.0
BATCH: Final = 1000
_log = logging.getLogger("extproc.follow")


class Consumer(Protocol):
    """What is made of exchanges. Calls come from one thread, and return at once."""

    def exchange(self, exchange: Exchange) -> None:
        """A final exchange; each comes once."""
        ...

    def record(self, record: Record) -> None:
        """A record of no exchange: a `gap`, or an `access` entry to which there is none of ours."""
        ...

    def mark(self) -> int:
        """A number for everything that was given so far."""
        ...

    def settled(self, mark: int) -> bool:
        """Whether everything up to this mark is out of our hands: exported, or counted as dropped."""
        ...


class Follower:
    """One directory. `kept`: the position file, or None to keep none and read everything once."""

    def __init__(
        self, directory: Path, consumers: Sequence[Consumer], kept: Path | None, *, keep_bodies: bool = False
    ) -> None:
        self.exchanges = 0
        self.lag_seconds = 0.0
        """How old the record is that was read last, while there are more; 0 when everything has been read."""
        self._directory = directory
        self._consumers = consumers
        self._kept = kept
        self._join = Join(directory, keep_bodies=keep_bodies)
        before = None if kept is None else position.load(kept)
        self._new = before is None and kept is not None
        self._seen_series: set[str] = set()
        self._tails = Tails(directory, None if before is None else before.series, history=kept is None)
        self._horizon = ""
        self._unsaved: tuple[Position, list[int]] | None = None
        self._saved = before
        self._save_at = time.monotonic() + SAVE_SECONDS
        self._restore(before)

    @property
    def given_up(self) -> int:
        """Exchanges that were not exported because there were too many in flight."""
        return self._join.given_up

    def step(self) -> bool:
        """Read what is there, up to a batch, and give out what is final. False: everything has been read."""
        count = 0
        at = ""
        for place, record in self._tails.records(BATCH):
            count += 1
            at = str(record["at"])
            if self._new and record["type"] == "segment":
                self._begin_series(place[0], record)
            self._join.add(place, record)
        more = count == BATCH
        self._horizon = max(self._horizon, at) if more else timestamp(time.time_ns())
        self.lag_seconds = max(0.0, time.time() - _seconds(at)) if more else 0.0
        self._give_out()
        if self._kept is not None:
            self._save_now_and_then()
        return more

    def finish(self) -> None:
        """Give out what has ended: there is nothing more to come."""
        for exchange in self._join.rest(timestamp(time.time_ns())):
            self._give(exchange)

    def behind_bytes(self) -> int:
        """How much of the journal is still to be read."""
        return self._tails.behind_bytes()

    def close(self, timeout: float) -> None:
        """Wait until the consumers are done, and keep the position. After a timeout the last sure one stays."""
        if self._kept is None:
            return
        self._unsaved = self._snapshot()
        until = time.monotonic() + timeout
        while not self._save() and time.monotonic() < until:
            time.sleep(0.01)

    def _restore(self, before: Position | None) -> None:
        for place in before.pending if before is not None else ():
            record = record_at(self._directory, place)
            if record is not None:
                self._join.add(place, record)

    def _begin_series(self, series: str, header: Record) -> None:
        """On the very first start: what is in flight at the head of an open segment began before our time."""
        if series not in self._seen_series:
            self._seen_series.add(series)
            self._join.began_before(iter(header.get("in_flight") or {}))

    def _give_out(self) -> None:
        for exchange in self._join.exchanges(self._horizon):
            self._give(exchange)
        for record in self._join.others(self._horizon):
            for consumer in self._consumers:
                consumer.record(record)

    def _give(self, exchange: Exchange) -> None:
        self.exchanges += 1
        for consumer in self._consumers:
            consumer.exchange(exchange)

    def _save_now_and_then(self) -> None:
        if self._unsaved is not None:
            self._save()
        elif time.monotonic() >= self._save_at:
            self._unsaved = self._snapshot()
            self._save_at = time.monotonic() + SAVE_SECONDS

    def _snapshot(self) -> tuple[Position, list[int]]:
        kept = Position(self._tails.positions(), self._join.pending())
        return kept, [consumer.mark() for consumer in self._consumers]

    def _save(self) -> bool:
        """Keep the snapshot, if the consumers are done with what it covers."""
        assert self._kept is not None
        if self._unsaved is None:
            return True
        kept, marks = self._unsaved
        if not all(consumer.settled(mark) for consumer, mark in zip(self._consumers, marks, strict=True)):
            return False
        self._unsaved = None
        if kept == self._saved:
            return True  # an idle machine's disk is left alone
        try:
            position.save(self._kept, kept)
            self._saved = kept
        except OSError as error:
            _log.warning("the position cannot be kept: %s: %s", self._kept, error.strerror)
        return True


def _seconds(at: str) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return time.time()
