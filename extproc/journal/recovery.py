"""What a killed worker left behind is brought in order before its successor writes.

For each series of the worker that has an `.open` segment, oldest first:

1. What follows the last good line is copied to `<segment>.torn`, synced, and cut off. What stands before that
   line is never touched. A segment without a good line is removed, unless it is the last and has to take orphans.
2. Each exchange without a terminal record gets an `orphan` record, in the series that it belongs to. Which those
   are stands at the head of the last segment and in its lines, so nothing else has to be read. How far each had
   come, and at which backend, is taken from the table of what was in flight (`live.py`), where it was left behind.
3. The segment gets its footer, marked `recovered`, and its closed name.

Each step is on disk before the next begins and finds its own work done when it is done again, so recovery may be
killed anywhere, any number of times. Bodies that were being spooled stay as they are. A segment that some process
still writes is not touched: that is an error after a few seconds of waiting.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import structs

from extproc import fs
from extproc.core.record import seal
from extproc.core.records import End, Known, Orphan, encode
from extproc.core.times import timestamp
from extproc.errors import JournalError
from extproc.journal import lines, live, segment
from extproc.journal.directory import SEGMENTS, open_directory, reason
from extproc.journal.flight import Flight
from extproc.journal.lines import Series
from extproc.journal.segment import CLOSED, OPEN, TORN, Name

_WAIT_SECONDS: Final = 5.0
_COPY_BYTES: Final = 1024 * 1024


@dataclass(slots=True)
class Recovered:
    """What was found and done."""

    segments: int = 0
    """Segments that were closed."""
    orphans: list[str] = field(default_factory=list)
    """The ids of the exchanges that were cut off."""
    torn: list[str] = field(default_factory=list)
    """The files into which torn ends were copied."""


def recover(
    directory: Path,
    *,
    worker: int | None = None,
    boot_id: str | None = None,
    clock: Callable[[], int] = time.time_ns,
    wait: float = _WAIT_SECONDS,
) -> Recovered:
    """Recover the series of one worker, or of all, except those of `boot_id`, which is the caller's own.

    Raises JournalError when the disk does not let us, or a segment is still being written.
    """
    recovered = Recovered()
    if not (directory / SEGMENTS).is_dir():
        return recovered
    fd = open_directory(directory / SEGMENTS)
    try:
        for series in lines.series(directory):
            if worker not in {None, series.worker} or boot_id == series.boot_id:
                continue
            if any(name.state == OPEN for name in series.names):
                _Recovery(series, fd, clock, recovered).run(wait)
            live.remove(directory, series.worker, series.boot_id)
    except OSError as error:
        raise JournalError(f"{directory / SEGMENTS}: recovery failed: {reason(error)}") from error
    finally:
        os.close(fd)
    return recovered


@dataclass(slots=True)
class _End:
    """Where the good lines of a segment end."""

    offset: int = 0
    seq: int = 0
    lines: int = 0
    footer: bool = False
    latest: str = ""
    """The time of the latest record."""


class _Recovery:
    """The recovery of one series."""

    def __init__(self, series: Series, segments: int, clock: Callable[[], int], recovered: Recovered) -> None:
        self._series = series
        self._segments = segments
        self._clock = clock
        self._recovered = recovered

    def run(self, wait: float) -> None:
        names = self._series.names
        for position, name in enumerate(names):
            if name.state == OPEN:
                self._recover(name, names[:position], names[position + 1 :], wait)

    def _recover(self, name: Name, earlier: list[Name], later: list[Name], wait: float) -> None:
        try:
            fd = os.open(str(name), fs.READ_APPEND, dir_fd=self._segments)
        except FileNotFoundError:
            return  # its worker has closed it since it was listed
        try:
            if not fs.lock(fd, wait):
                raise JournalError(f"{name}: another process is still writing this segment")
            if not self._is_still(fd, name):
                return  # its worker, whose supervisor is gone, has come to its own end meanwhile
            end = self._find_end(name, later)
            self._cut(fd, name, end)
            if not end.lines and not later:
                end = self._begin_again(fd, earlier)
            if end.lines:
                self._finish(fd, name, end, last=not later)
            else:
                os.unlink(str(name), dir_fd=self._segments)
                os.fsync(self._segments)
        finally:
            os.close(fd)

    def _is_still(self, fd: int, name: Name) -> bool:
        """Whether the file has the name that it was opened by."""
        try:
            found = os.stat(str(name), dir_fd=self._segments, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(fd))

    def _find_end(self, name: Name, later: list[Name]) -> _End:
        limit, end = lines.void_from(self._series.directory, later), _End()
        for line in lines.read_lines(self._series.directory, name):
            if line.damage is None and not lines.is_void(line.typed, limit):
                latest = max(end.latest, line.typed.at)
                is_footer = line.typed.type == "end"
                end = _End(line.end, line.typed.seq, line.number, is_footer, latest)
        return end

    def _cut(self, fd: int, name: Name, end: _End) -> None:
        size = os.fstat(fd).st_size
        if size > end.offset:
            self._recovered.torn.append(_copy_aside(self._segments, fd, name, end.offset, size))
            os.ftruncate(fd, end.offset)
        os.fsync(fd)

    def _finish(self, fd: int, name: Name, end: _End, *, last: bool) -> None:
        if not end.footer:
            orphans = self._orphans() if last else []
            seq = self._append(fd, orphans, end.seq)
            self._append(fd, [End(at=self._now(), records=end.lines + len(orphans), recovered=True)], seq)
            self._recovered.orphans += [orphan.id for orphan in orphans]
        segment.touch(fd, _nanoseconds(end.latest))
        os.rename(str(name), name.stem + CLOSED, src_dir_fd=self._segments, dst_dir_fd=self._segments)
        os.fsync(self._segments)
        self._recovered.segments += 1

    def _begin_again(self, fd: int, earlier: list[Name]) -> _End:
        """The last segment has no line: its worker was killed as it began it. It takes the orphans, if any."""
        flight = self._in_flight()
        if not flight.open_exchanges:
            return _End()
        seq = max((self._find_end(name, []).seq for name in earlier[-1:]), default=0)
        self._append(fd, [segment.header(self._now(), flight.snapshot())], seq)
        return _End(lines=1, seq=seq + 1)

    def _orphans(self) -> list[Orphan]:
        series, at = self._series, self._now()
        seen = {each.id: each for each in live.read(series.directory, series.worker, series.boot_id)}

        def orphan(id: str, had: str) -> Orphan:
            record = Orphan(id=id, had=had, at=at, of_boot=series.boot_id, of_worker=series.worker)
            last = seen.get(id)
            if last is None:
                return record
            known = {"upstream": last.upstream, "cluster": last.cluster, "status": last.status}
            return structs.replace(record, **known, progress=last.progress())

        return [orphan(id, had) for id, had in self._in_flight().open_exchanges.items()]

    def _in_flight(self) -> Flight:
        """From the last segment whose head is whole; from the start of the series when none is."""
        directory, names = self._series.directory, self._series.names
        flight = Flight()
        first = 0
        for position in range(len(names) - 1, -1, -1):
            head = lines.header(directory, names[position])
            if head is not None:
                flight, first = Flight.restore(head.get("in_flight")), position
                break
        for position in range(first, len(names)):
            limit = lines.void_from(directory, names[position + 1 :])
            for line in lines.read_lines(directory, names[position]):
                if line.damage is None and not lines.is_void(line.typed, limit):
                    flight.take(line.typed)
        return flight

    def _append(self, fd: int, records: Sequence[Known], seq: int) -> int:
        """Write lines and sync them. Returns the last number used."""
        worker, boot_id = self._series.worker, self._series.boot_id
        data = b"".join(seal(encode(record), worker, boot_id, number) for number, record in enumerate(records, seq + 1))
        fs.write_all(fd, data)
        os.fdatasync(fd)
        return seq + len(records)

    def _now(self) -> str:
        return timestamp(self._clock())


def _nanoseconds(at: str) -> int:
    try:
        return int(datetime.fromisoformat(at).timestamp()) * 1_000_000_000
    except ValueError:
        return 0


def _copy_aside(segments: int, fd: int, name: Name, start: int, end: int) -> str:
    """Copy the torn end of a segment to a file of its own, and bring that to disk."""
    tail = b"".join(_pieces(fd, start, end))
    for attempt in range(1, 1000):
        torn = f"{name.stem}{TORN}" if attempt == 1 else f"{name.stem}.{attempt}{TORN}"
        if _store(segments, torn, tail):
            return torn
    raise OSError(0, f"there is no name left for the torn end of {name}")


def _pieces(fd: int, start: int, end: int) -> list[bytes]:
    return [os.pread(fd, min(_COPY_BYTES, end - at), at) for at in range(start, end, _COPY_BYTES)]


def _store(segments: int, torn: str, tail: bytes) -> bool:
    """Write a file under a free name, whole or not at all. True as well when it is there already."""
    with contextlib.suppress(FileNotFoundError):
        there = os.open(torn, fs.READ, dir_fd=segments)
        with os.fdopen(there, "rb") as file:
            return file.read() == tail
    fs.put(segments, torn, tail)
    return True
