"""What becomes of closed segments: they are compressed, and one day deleted with the bodies that belong to them.

Compression writes a new file, brings it to disk and renames it into place before the old one goes; whatever is cut
short is done again the next time. Nothing is ever copied and truncated.

Deletion goes by age, by number and by total size, whole segments only and oldest first, and never touches a segment
that is being written. Of one that holds the beginning of an exchange still in flight the records of such exchanges
stay, alone, until they end: one that never ends keeps a few lines, not the journal. It never deletes more than the
rules say to make room: a full disk is for `on_audit_failure`. Sizes are what the files are on disk. A body goes with
the segment after which nothing of its exchange is to come, whichever record names it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from extproc import fs
from extproc.core.events import Direction
from extproc.core.record import DamagedLine, encode, seal
from extproc.journal import frames, lines, lock
from extproc.journal.directory import BODIES, SEGMENTS, exchange_of, open_directory, sync
from extproc.journal.flight import BEGINNING, Flight, type_and_id
from extproc.journal.lines import Series
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, TORN, Name, is_live

_DAY_SECONDS: Final = 86_400
_SEQ: Final = re.compile(rb',"seq":(\d+),"crc":"[0-9a-f]{8}"\}\n$')
_SEQ_WITHIN: Final = 64
_SEALED: Final = frozenset({"worker", "boot_id", "seq", "crc"})


@dataclass(slots=True)
class Done:
    """What a round of housekeeping did."""

    compressed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    """Reduced ones, too."""


class SteadyClock:
    """The time of day by the wall clock at the start and the monotonic clock since.

    So a clock that is set forward while the sidecar runs makes no segment look old.
    """

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def __call__(self) -> int:
        return time.monotonic_ns() + self._offset


_now: Final = SteadyClock()


def apply_retention(
    directory: Path,
    *,
    days: int,
    segments: int,
    bytes: int,  # noqa: A002 - the setting's unit
    may_go: Callable[[Name], bool] = lambda _: True,
) -> Done:
    """One round: delete what the rules say, compress the rest. Raises JournalError while another is at it."""
    with lock.maintenance(directory):
        done = apply(directory, days=days, segments=segments, bytes=bytes, now_ns=_now(), may_go=may_go)
        done.compressed = compress_closed(directory)
    return done


def compress_closed(directory: Path) -> list[str]:
    """Compress every closed segment. Returns the names of the new files."""
    fd = open_directory(directory / SEGMENTS)
    try:
        _remove_leftovers(fd)
        everything = (name for series in lines.series(directory) for name in series.names)
        names = [name for name in everything if name.state == CLOSED and not name.moved]
        return [_compress(fd, name) for name in names]
    finally:
        os.close(fd)


def apply(
    directory: Path,
    *,
    days: int,
    segments: int,
    bytes: int,  # noqa: A002
    now_ns: int,
    may_go: Callable[[Name], bool] = lambda _: True,
) -> Done:
    """Delete segments older than `days`, then the oldest beyond `segments` and beyond `bytes` in all.

    0 is no limit. The newest one that is written no more stays, whatever its age: a wrong clock must not empty the
    journal. Where a segment that is too old, or one too many, may not go yet, nothing that is younger goes before it;
    `bytes` asks nobody, as the disk is no larger than it is.
    """
    done = Done()
    if not (directory / SEGMENTS).is_dir():
        return done
    everything = list(_deletable(directory, now_ns / 1e9))
    for reduced in everything:
        if reduced.kept and not reduced.is_needed():
            reduced.delete()
            done.deleted.append(str(reduced.name))
    whole = sorted((each for each in everything if not each.kept), key=lambda each: each.written_at)
    total = _size_of_files(directory) if bytes else 0
    oldest = now_ns / 1e9 - days * _DAY_SECONDS
    for position, segment in enumerate(whole[:-1]):
        too_old = bool(days) and segment.written_at < oldest
        too_many = bool(segments) and len(whole) - position > segments
        too_large = bool(bytes) and total > bytes
        if not too_large and not ((too_old or too_many) and may_go(segment.name)):
            break
        total -= segment.delete()
        done.deleted.append(str(segment.name))
    if days:
        done.deleted += _delete_torn(directory, oldest)
    return done


class _Segment:
    """One segment that is written no more."""

    def __init__(
        self,
        series: Series,
        name: Name,
        kept: list[str],
        in_flight: frozenset[str],
        *,
        not_before: float,
        now: float,
    ) -> None:
        self.name = name
        self.kept = kept
        """The exchanges for which it was kept, of a segment that has been reduced to them."""
        self._series = series
        self._in_flight = in_flight
        self._segments = series.directory / SEGMENTS
        self._stat = (self._segments / str(name)).stat()
        # A clock that was set back must not make a later segment of a series older than an earlier one.
        # One that was ahead for a while must not keep all that follows: what seems to come from the future is as old
        # as its file.
        written_at = self._stat.st_mtime if self._stat.st_mtime <= now else self._stat.st_ctime
        self.written_at = max(written_at, not_before)
        # There are two where a compression was cut short before the old one went.
        states = {name.state, CLOSED, COMPRESSED}
        self._paths = [self._segments / f"{name.stem}{state}" for state in sorted(states)]

    def is_needed(self) -> bool:
        """Whether an exchange for which it was reduced is still in flight."""
        return not self._in_flight.isdisjoint(self.kept)

    def delete(self) -> int:
        """Delete it and the bodies that go with it, but not the beginning of what is still in flight. Returns how many
        bytes that gives back.

        The segment goes last: a body must not be left without a record of its exchange. And each is on disk before the
        next goes: a power cut must leave no hole in a series.
        """
        needed = [] if self.kept else [line for line in self._raw() if type_and_id(line[1])[1] in self._in_flight]
        if needed and not _head(self._series, self.name):
            return 0  # damaged, and all that there is of an exchange in flight
        freed = sum(_delete(path) for path in self._bodies_that_end_here())
        if freed:
            sync(self._series.directory / BODIES)
        if needed:
            freed += sum(map(_size, self._paths))
            self._reduce(needed)
            freed -= _size(self._segments / f"{self.name.stem}{COMPRESSED}")
        else:
            freed += sum(map(_delete, self._paths))
        sync(self._segments)
        return freed

    def _bodies_that_end_here(self) -> list[Path]:
        """Of the exchanges that this segment knows, those bodies after which nothing of them is to come."""
        flight = Flight.restore(_head(self._series, self.name).get("in_flight"))
        before = flight.snapshot()
        known = set(before)
        for _, raw in self._raw():
            type, id = type_and_id(raw)
            flight.note(type, id)
            if type in BEGINNING:
                known.add(id)
        # Of an early answer the request may follow, but not after another whole segment.
        expected = {id for id, had in flight.snapshot().items() if had != "response" or before.get(id) != "response"}
        if self.name == self._series.names[-1]:
            expected = set()
        over = known - expected - self._in_flight
        directory = self._series.directory / BODIES
        names = (f"{id}.{direction.value}" for id in over for direction in Direction)
        return [directory / name for name in names if exchange_of(name) is not None and (directory / name).exists()]

    def _reduce(self, needed: list[tuple[int, bytes]]) -> None:
        """Put a segment in its place that has only these lines, as they are, and says so."""
        raws = [raw for _, raw in needed]
        kept = [(type_and_id(raw)[1], offset) for offset, raw in needed]
        head = _head(self._series, self.name)
        fields = {name: value for name, value in head.items() if name not in _SEALED} | {"kept": kept}
        seqs = [int(head["seq"]), _seq(raws[-1]) + 1]
        end = {"type": "end", "at": head["at"], "records": len(raws) + 1, "recovered": False}
        first, last = (
            seal(encode(each), *self.name.series, seq) for each, seq in zip((fields, end), seqs, strict=True)
        )
        target = self.name.stem + COMPRESSED
        fd = open_directory(self._segments)
        try:
            _put(fd, target, io.BytesIO(b"".join([first, *raws, last])), self._stat)
        finally:
            os.close(fd)
        for path in self._paths:
            if path.name != target:
                path.unlink(missing_ok=True)

    def _raw(self) -> Iterator[tuple[int, bytes]]:
        """Its whole lines with their offsets, but not those that were written again in the next segment."""
        later = [name for name in self._series.names if name.number > self.name.number]
        limit = lines.void_from(self._series.directory, later) if self.name.state == OPEN else None
        try:
            with lines.open_segment(self._series.directory, self.name) as file:
                offset = 0
                for raw in lines.raw_lines(file):
                    if raw.endswith(b"\n") and (limit is None or _seq(raw) < limit):
                        yield offset, raw
                    offset += len(raw)
        except (DamagedLine, FileNotFoundError):
            return


def _head(series: Series, name: Name) -> Mapping[str, Any]:
    return lines.header(series.directory, name) or {}


def _seq(raw: bytes) -> int:
    match = _SEQ.search(raw[-_SEQ_WITHIN:])
    return int(match[1]) if match is not None else 0


def _delete(path: Path) -> int:
    size = _size(path)
    path.unlink(missing_ok=True)
    return size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _size_of_files(directory: Path) -> int:
    total = 0
    for name in (SEGMENTS, BODIES):
        with os.scandir(directory / name) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _deletable(directory: Path, now: float) -> Iterator[_Segment]:
    """The segments that nobody writes any more, of series of which we know what is in flight."""
    for series in lines.series(directory):
        in_flight = _in_flight(series)
        if in_flight is None:
            continue
        written_at, reduced = 0.0, True
        for name in series.names:
            if name.moved:
                continue  # no business of ours until it has its name again
            if name.state == OPEN and (name == series.names[-1] or is_live(directory / SEGMENTS / str(name))):
                continue
            with contextlib.suppress(FileNotFoundError):
                # Those that have been reduced are the oldest of their series, so that few heads have to be read.
                kept = [id for id, _ in _head(series, name).get("kept") or ()] if reduced else []
                reduced = bool(kept)
                segment = _Segment(series, name, kept, in_flight, not_before=written_at, now=now)
                written_at = segment.written_at
                yield segment


def _in_flight(series: Series) -> frozenset[str] | None:
    """The exchanges whose beginning must stay: those that were in flight when the open segment was begun.

    None while that cannot be read, as at the moment when the segment is being made.
    """
    last = series.names[-1]
    if last.state != OPEN:
        return frozenset()
    head = lines.header(series.directory, last)
    if head is None:
        return None
    return frozenset(id for id, had in (head.get("in_flight") or {}).items() if had != "response")


def _compress(segments: int, name: Name) -> str:
    target = name.stem + COMPRESSED
    source_fd = os.open(str(name), fs.READ, dir_fd=segments)
    with os.fdopen(source_fd, "rb") as source:
        _put(segments, target, source, os.fstat(source.fileno()))
    os.unlink(str(name), dir_fd=segments)
    return target


def _put(segments: int, target: str, source: BinaryIO, times: os.stat_result) -> None:
    """Compress what is there into a file of this name and bring that to disk, in the place of one that has it."""

    def write(file: BinaryIO) -> None:
        frames.compress(source, file)
        file.flush()
        os.utime(file.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))  # its age is that of its records

    fs.put(segments, target, write)


def _remove_leftovers(segments: int) -> None:
    for name in os.listdir(segments):
        if name.endswith(COMPRESSED + fs.TEMPORARY):
            os.unlink(name, dir_fd=segments)


def _delete_torn(directory: Path, oldest: float) -> list[str]:
    deleted = []
    for path in sorted((directory / SEGMENTS).glob(f"*{TORN}")):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
                deleted.append(path.name)
    return deleted
