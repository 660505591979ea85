"""A journal that cannot be written: why, when it is tried again, and what is to be written first once it can.

    error = outage.begin("No space left on device")
    if outage.pauses: ...               # too early to try again
    outage.end()                        # it was written

What passes meanwhile is not lost without a trace: gaps are counted (from any thread), one record for each direction
and reason; and of an exchange whose beginning is on disk the terminal record is kept, without its body.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from extproc.core.events import Direction
from extproc.core.llm import at_least, without_body
from extproc.core.record import LONGEST
from extproc.core.records import Gap, Response
from extproc.core.times import timestamp
from extproc.errors import JournalError
from extproc.journal.flight import Flight
from extproc.journal.spool import Entry

_log = logging.getLogger(__name__)

_PENDING_RECORDS: Final = 10_000


class Pending(NamedTuple):
    """What `take` gave out: to be written, or given back."""

    terminal: dict[str, Entry]
    gaps: dict[tuple[Direction, str], list[int]]

    def entries(self, at_ns: int) -> list[Entry]:
        """As records of this time."""
        at = timestamp(at_ns)
        gaps = (
            Gap(at=at, from_=timestamp(first), to=timestamp(last), count=count, direction=direction.value, why=why)
            for (direction, why), (first, last, count) in self.gaps.items()
        )
        return [*self.terminal.values(), *map(Entry.of, gaps)]


class Outage:
    """One worker's. All but `count_gap` belongs to the writer's thread."""

    def __init__(self, path: Path, flight: Flight, retry_seconds: float) -> None:
        self.failure: JournalError | None = None
        """Why the journal cannot be written at this moment; None while it can."""
        self._path = path
        self._flight = flight
        self._retry_seconds = retry_seconds
        self._retry_at = 0.0
        self._gaps: dict[tuple[Direction, str], list[int]] = {}
        self._gaps_lock = threading.Lock()
        self._terminal: dict[str, Entry] = {}

    @property
    def pauses(self) -> bool:
        """The last attempt has failed, and the next one is not due."""
        return self.failure is not None and time.monotonic() < self._retry_at

    @property
    def is_pending(self) -> bool:
        """Something is to be written that should have been written before."""
        return bool(self._gaps or self._terminal)

    def begin(self, why: str) -> JournalError:
        """It cannot be written: what everyone who waits is told. Called again when the next attempt fails too."""
        error = JournalError(f"{self._path / 'segments'}: the journal cannot be written: {why}")
        if self.failure is None:
            _log.error("%s", error)
        self.failure = error
        self._retry_at = time.monotonic() + self._retry_seconds
        return error

    def end(self) -> None:
        """It was written."""
        if self.failure is not None:
            self.failure = None
            _log.warning("%s: the journal can be written again", self._path / "segments")

    def keep(self, entries: Sequence[Entry], *, keep_file: bool) -> bool:
        """Keep what is needed to end an exchange whose beginning is on disk and whose end could not be written.

        Returns whether there was any.
        """
        kept = False
        for record, _ in entries:
            if (
                isinstance(record, Response)
                and record.id in self._flight.open_exchanges
                and len(self._terminal) < _PENDING_RECORDS
            ):
                entry = Entry.of(without_body(record, keep_file=keep_file))
                self._terminal[record.id] = entry if len(entry.line) <= LONGEST else Entry.of(at_least(record))
                kept = True
        return kept

    def count_gap(self, key: tuple[Direction, str], first: int, last: int, count: int) -> None:
        """Count what passed without a record between these times."""
        with self._gaps_lock:
            gap = self._gaps.setdefault(key, [first, last, 0])
            gap[:] = min(gap[0], first), max(gap[1], last), gap[2] + count

    def take(self) -> Pending:
        """All of it, to be written now."""
        with self._gaps_lock:
            gaps, self._gaps = self._gaps, {}
        # One that its owner has submitted again in the meantime has ended, and is pending no more.
        terminal = {id: entry for id, entry in self._terminal.items() if id in self._flight.open_exchanges}
        self._terminal = {}
        return Pending(terminal, gaps)

    def give_back(self, pending: Pending) -> None:
        """It could not be written."""
        self._terminal = pending.terminal
        for key, (first, last, count) in pending.gaps.items():
            self.count_gap(key, first, last, count)
