"""The segments of one worker's boot, one after another: what the journal's writer thread writes to.

    why = series.write(entries)     # None: they are durable, in the open segment or else in a new one
    series.rotate_if_due()          # between batches: a segment that is full, old, of yesterday, or out of its place
    series.finish()                 # the last one gets its footer, unless an exchange is still in flight

A write or sync that fails is never tried again on the same file: the segment is set aside, and the records go to the
next one, once. One number is left free for the footer that recovery will write (`segment.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from extproc.core.record import LONGEST_LINE, seal
from extproc.core.records import End, encode
from extproc.core.times import timestamp
from extproc.errors import JournalError
from extproc.journal import segment as segments
from extproc.journal.directory import REMOVED, DataDirectory, FreeSpace, reason
from extproc.journal.flight import Flight
from extproc.journal.segment import Name, Segment
from extproc.journal.spool import Entry
from extproc.journal.timing import Times

_log = logging.getLogger(__name__)

_DAY: Final = 86_400_000_000_000
_SET_BACK: Final = 30_000_000_000
"""A clock that is set back by less, readers of a time allow for."""


class SeriesWriter:
    """Used by one thread at a time. `recover` closes what a predecessor left open, before the first segment begins."""

    def __init__(
        self,
        path: Path,
        worker: int,
        boot_id: str,
        *,
        sync: bool,
        segment_bytes: int,
        segment_seconds: float,
        clock: Callable[[], int],
        recover: Callable[[], object],
        retry_seconds: float,
        look_seconds: float,
    ) -> None:
        if not segments.BOOT_ID.fullmatch(boot_id):
            raise ValueError(f"a boot id is letters, digits and hyphens: {boot_id!r}")
        self.flight = Flight()
        """Of what is acknowledged, the exchanges without a terminal record; noted at the head of each segment."""
        self.sync_times = Times()
        self._path = path
        self._worker = worker
        self._boot_id = boot_id
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._segment_ns = round(segment_seconds * 1e9)
        self._clock = clock
        self._recover: Callable[[], object] | None = recover
        self._retry_seconds = retry_seconds
        self._look_seconds = look_seconds
        self._segment: Segment | None = None
        self._number = 0
        self._seq = 0
        self._day = 0
        self._begun_at = 0
        self._latest = 0
        """The latest time at which something was written to the segment."""
        self._rotate_at = 0.0
        self._look_at = 0.0

    def begin(self, directory: DataDirectory, space: FreeSpace) -> None:
        """Begin the first segment. Raises OSError and JournalError; `write` then tries it again."""
        self._directory = directory
        self._space = space
        self._segment = self._begin_segment()

    def write(self, entries: list[Entry]) -> str | None:
        """Make these records durable. Why that cannot be done, else None. Raises ValueError for what is no record."""
        shortage = self._space.shortage()
        if shortage is not None:
            return shortage
        why = None
        for _ in range(1 if self._segment is None else 2):
            try:
                if self._segment is None:
                    self._segment = self._begin_segment()
                self._commit(self._segment, entries)
            except (OSError, JournalError) as error:
                why = reason_of(error)
                self.set_aside()
            else:
                return None
        return why

    def rotate_if_due(self) -> None:
        """Begin the next segment where the open one is full, old, of another day or time, or no longer in its place."""
        if self._segment is not None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self._look_seconds
            self._look_after(self._segment)
        segment = self._segment
        if segment is None or segment.lines == 1:
            return  # a segment without records is not worth ending
        now = self._clock()
        self._latest = max(self._latest, now)
        too_old = 0 < self._segment_ns <= now - self._begun_at
        set_back = now < self._latest - _SET_BACK
        if segment.size >= self._segment_bytes or too_old or set_back or now // _DAY != self._day:
            self._rotate(segment)

    def finish(self) -> None:
        """End the series. With an exchange still in flight the segment stays open: recovery ends both."""
        segment = self._segment
        if segment is None:
            return
        if self.flight.open_exchanges:
            segment.set_aside()
        else:
            self._end(segment, self._seq + 1, self._latest)

    def set_aside(self) -> None:
        """Never write to the open segment again: recovery ends it."""
        if self._segment is not None:
            self._segment.set_aside()
            self._segment = None

    def _commit(self, segment: Segment, entries: list[Entry]) -> None:
        if not entries:
            return
        worker, boot_id = self._worker, self._boot_id
        sealed = [seal(entry.line, worker, boot_id, seq) for seq, entry in enumerate(entries, self._seq + 1)]
        data = b"".join(sealed)
        if data.count(b"\n") != len(entries) or not data.isascii():
            raise ValueError("a record is not one line of ASCII")
        if len(data) > LONGEST_LINE and (longest := max(map(len, sealed))) > LONGEST_LINE:
            raise ValueError(f"a record of {longest} bytes is longer than any may be ({LONGEST_LINE} bytes)")
        segment.append(data)
        if self._sync:
            began = time.perf_counter()
            segment.sync()
            self.sync_times.observe(time.perf_counter() - began)
        segment.acknowledge(len(entries))
        self._seq += len(entries)

    def _begin_segment(self) -> Segment:
        """The next segment, and before the very first one the end of what a predecessor left open."""
        if self._recover is not None:
            self._recover()
            self._recover = None
        return self._open_segment()

    def _open_segment(self) -> Segment:
        """The next segment of the series; one number before its own is left for the footer of the last."""
        now, first = self._clock(), self._seq + 2 if self._seq else 1
        latest = timestamp(self._latest) if now < self._latest - _SET_BACK else None
        header = segments.header(timestamp(now), self.flight.snapshot(), latest=latest)
        line = seal(encode(header), self._worker, self._boot_id, first)
        name = Name(self._worker, self._boot_id, self._number + 1, segments.OPEN)
        try:
            segment = Segment.create(self._directory.segments, name, line, sync=self._sync)
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            raise JournalError(REMOVED) from error
        except OSError:
            if self._directory.has_segment(str(name)):
                self._number = name.number  # it could not even be removed again: its name is used up
            raise
        self._number, self._seq, self._day, self._latest = name.number, first, now // _DAY, now
        self._begun_at = now
        return segment

    def _look_after(self, segment: Segment) -> None:
        """What another program has taken out of its place is not written on: the next batch begins a new one."""
        with suppress(OSError):
            if segment.is_in_place():
                return
        _log.error(
            "%s has been renamed, removed or cut by another program; keep logrotate and the like away from %s",
            segment.name,
            self._path / "segments",
        )
        self.set_aside()

    def _rotate(self, old: Segment) -> None:
        """Begin the next segment, then end the old one, which stays `.open` for recovery when that fails."""
        if time.monotonic() < self._rotate_at:
            return
        footer, latest = self._seq + 1, self._latest
        try:
            self._segment = self._open_segment()
        except (OSError, JournalError) as error:
            _log.warning("the next segment cannot be opened yet: %s", reason_of(error))
            self._rotate_at = time.monotonic() + self._retry_seconds
            return
        self._end(old, footer, latest)

    def _end(self, segment: Segment, seq: int, latest: int) -> None:
        end = End(at=timestamp(self._clock()), records=segment.lines, recovered=False)
        try:
            footer = seal(encode(end), self._worker, self._boot_id, seq)
            segment.close(footer, sync=self._sync, latest_ns=latest)
        except OSError as error:
            _log.warning("%s is left to recovery: %s", segment.name, reason(error))
            segment.set_aside()


def reason_of(error: OSError | JournalError) -> str:
    """What is wrong, for a line that names the directory."""
    return reason(error) if isinstance(error, OSError) else str(error)
