"""What becomes of closed segments: they are compressed, and one day deleted with the bodies that belong to them.

Compression writes a new file, brings it to disk and renames it into place before the old one goes; whatever is cut
short is done again the next time. Nothing is ever copied and truncated.

Deletion goes by age, by number and by total size, whole segments only and oldest first, and never touches a segment
that is being written, or that holds the beginning of an exchange still in flight. It never deletes more than the
rules say to make room: a full disk is for `on_audit_failure`. Sizes are what the files are on disk; the bodies of a
segment count with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zstandard

from extproc.core.record import DamagedLine
from extproc.journal import lines
from extproc.journal.directory import BODIES, SEGMENTS, open_directory, sync
from extproc.journal.flight import type_and_id
from extproc.journal.lines import Series
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, TORN, Name
from extproc.journal.spool import exchange_of

_DAY_SECONDS: Final = 86_400
_LEVEL: Final = 3
_TEMPORARY: Final = ".tmp"
_PIECE_BYTES: Final = 1024 * 1024
# Quotes in a client's text are escaped in a record, so nothing that a client sends can look like this.
_BODY_FILE: Final = re.compile(rb'"body":\{"file":"bodies/([0-9A-Za-z.-]{1,80})"\}')


@dataclass(slots=True)
class Done:
    """What a round of housekeeping did."""

    compressed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


class SteadyClock:
    """The time of day by the wall clock at the start and the monotonic clock since.

    So a clock that is set forward while the sidecar runs makes no segment look old.
    """

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def __call__(self) -> int:
        return time.monotonic_ns() + self._offset


_now: Final = SteadyClock()


def keep_house(directory: Path, *, days: int, segments: int, bytes: int) -> Done:  # noqa: A002 - the setting's unit
    """One round: delete what the rules say, compress the rest."""
    done = apply(directory, days=days, segments=segments, bytes=bytes, now_ns=_now())
    done.compressed = compress(directory)
    return done


def compress(directory: Path) -> list[str]:
    """Compress every closed segment. Returns the names of the new files."""
    fd = open_directory(directory / SEGMENTS)
    try:
        _remove_leftovers(fd)
        names = [name for series in lines.series(directory) for name in series.names if name.state == CLOSED]
        return [_compress(fd, name) for name in names]
    finally:
        os.close(fd)


def apply(directory: Path, *, days: int, segments: int, bytes: int, now_ns: int) -> Done:  # noqa: A002
    """Delete closed segments older than `days`, then the oldest beyond `segments` and beyond `bytes` in all.

    0 is no limit. The newest closed segment stays, whatever its age: a wrong clock must not empty the journal.
    """
    done = Done()
    if not (directory / SEGMENTS).is_dir():
        return done
    kept = sorted(_closed(directory), key=lambda closed: closed.written_at)
    total = _size_of_files(directory) if bytes else 0
    oldest = now_ns / 1e9 - days * _DAY_SECONDS
    needed: set[tuple[int, str]] = set()
    for position, closed in enumerate(kept[:-1]):
        too_old = bool(days) and closed.written_at < oldest
        too_many = bool(segments) and len(kept) - position > segments
        too_large = bool(bytes) and total > bytes
        if not (too_old or too_many or too_large):
            break
        if closed.name.series in needed or closed.holds_beginning():
            needed.add(closed.name.series)  # what follows it stays too: a series has no holes
            continue
        total -= closed.delete()
        done.deleted.append(str(closed.name))
    if days:
        done.deleted += _delete_torn(directory, oldest)
    return done


class _Closed:
    """One closed segment, with the bodies that its records refer to."""

    def __init__(self, series: Series, name: Name, in_flight: frozenset[str], not_before: float) -> None:
        self.name = name
        self._directory = series.directory
        self._in_flight = in_flight
        segments = series.directory / SEGMENTS
        # A clock that was set back must not make a later segment of a series older than an earlier one.
        self.written_at = max((segments / str(name)).stat().st_mtime, not_before)
        # There are two where a compression was cut short before the old one went.
        self._paths = [segments / f"{name.stem}{state}" for state in (CLOSED, COMPRESSED)]
        self._bodies: set[str] = set()

    def holds_beginning(self) -> bool:
        """Whether an exchange in flight has a record here. Finds the bodies as well: to be called before `delete`."""
        needed = False
        for raw in _raw_lines(self._directory, self.name):
            type, id = type_and_id(raw)
            needed |= id in self._in_flight
            self._bodies.update(match.decode("ascii") for match in _BODY_FILE.findall(raw))
            if type == "orphan":
                self._bodies |= {f"{id}.request", f"{id}.response"}
        return needed

    def delete(self) -> int:
        """Delete it and its bodies. Returns their size."""
        # The segment last: a body must not be left without the record that names it. And each on disk before the
        # next goes: a power cut must leave no hole in a series.
        bodies = [self._directory / BODIES / body for body in self._bodies if exchange_of(body) is not None]
        size = sum(_delete(path) for path in bodies)
        if size:
            sync(self._directory / BODIES)
        size += sum(_delete(path) for path in self._paths)
        sync(self._directory / SEGMENTS)
        return size


def _delete(path: Path) -> int:
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size


def _size_of_files(directory: Path) -> int:
    total = 0
    for name in (SEGMENTS, BODIES):
        with os.scandir(directory / name) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _closed(directory: Path) -> Iterator[_Closed]:
    for series in lines.series(directory):
        in_flight, written_at = _in_flight(series), 0.0
        for name in series.names:
            if name.state != OPEN:
                with contextlib.suppress(FileNotFoundError):
                    closed = _Closed(series, name, in_flight, written_at)
                    written_at = closed.written_at
                    yield closed


def _in_flight(series: Series) -> frozenset[str]:
    """The exchanges whose beginning must stay: those that were in flight when the open segment was begun."""
    last = series.names[-1]
    head = lines.header(series.directory, last) if last.state == OPEN else None
    return frozenset((head or {}).get("in_flight") or ())


def _raw_lines(directory: Path, name: Name) -> Iterator[bytes]:
    try:
        with lines.open_segment(directory, name) as file:
            yield from lines.raw_lines(file)
    except (DamagedLine, FileNotFoundError):
        return


def _compress(segments: int, name: Name) -> str:
    target = name.stem + COMPRESSED
    temporary = target + _TEMPORARY
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        os.fdopen(os.open(str(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=segments), "rb") as source,
        os.fdopen(os.open(temporary, flags, 0o600, dir_fd=segments), "wb") as file,
    ):
        status = os.fstat(source.fileno())
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        compressor.copy_stream(source, file, size=status.st_size, read_size=_PIECE_BYTES)
        file.flush()
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))  # its age is that of its records
        os.fsync(file.fileno())
    os.rename(temporary, target, src_dir_fd=segments, dst_dir_fd=segments)
    os.fsync(segments)
    os.unlink(str(name), dir_fd=segments)
    return target


def _remove_leftovers(segments: int) -> None:
    for name in os.listdir(segments):
        if name.endswith(COMPRESSED + _TEMPORARY):
            os.unlink(name, dir_fd=segments)


def _delete_torn(directory: Path, oldest: float) -> list[str]:
    deleted = []
    for path in sorted((directory / SEGMENTS).glob(f"*{TORN}")):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
                deleted.append(path.name)
    return deleted
