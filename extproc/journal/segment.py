"""Segments: the files that hold the journal's records. This is the format, and the rules by which it is written.

Names. `segments/w<worker>-<boot>-<number>.jsonl.open` while it is written, `.jsonl` once it is closed, `.jsonl.zst`
once it is compressed: the same bytes in zstd frames of about 1 MiB, each of whole lines, and a table of the frames
at the end (`frames.py`). Earlier versions wrote one frame and no table. `<worker>` is the worker's index, `<boot>`
the id of that run of the worker, `<number>` counts the segments of the run from 000001. All segments of one worker
and one boot are a series. Nobody else may rename them; what has a number or a date behind such a name (`.jsonl.1`)
was renamed by another program: it is read, and `verify` and /readyz name it. `.torn` holds what recovery cut off a
segment's end.
Files are 0600 in a 0700 directory, made with O_EXCL and O_NOFOLLOW, and only ever appended to.

Lines. A segment is lines of ASCII, each one JSON object, closed by a line feed. What came from a client stands
inside JSON strings only, where line feeds and quotes are escaped: no body can look like a line. Each line ends with

    ,"worker":0,"boot_id":"0193c0de","seq":17,"crc":"8f3a11c0"}

`crc` is CRC-32C of the line's bytes before `,"crc"`. `seq` counts every line of a series from 1, without gaps and
across its segments, but for what retention has taken: whole segments from the beginning of a series on, and of a
segment that is `kept` all lines but those that it names.

    segment   the first line: `version` (1), `at`, `host`, `pid`, `extproc`, `clock_offset_ms`, and `in_flight`, the
              exchanges of this series without a terminal record at this point: {id: "open" | "request"}, and
              "response" for one whose terminal record came before its request record, which may still follow.
              `kept`, in a segment of which retention has left only the records of exchanges that are in flight: for
              each of its lines the exchange and the offset at which the line stood before, [[id, offset], ...]
              `latest`, where the clock had been set back: the time up to which the segments before were written
    request   the request direction of an exchange has ended; at most one for each exchange
    open      a request that is long in coming, as far as it is known
    response  the exchange is over: the terminal record
    orphan    the exchange was cut off by the sidecar's own end: the terminal record that recovery writes
    late      what came after the terminal record
    gap       what passed without a record: `from`, `to`, `count`, `direction`, `why`
    end       the last line of a closed segment: `records` (the lines before it) and `recovered`

Each exchange has exactly one terminal record, `response` or `orphan`. Readers pass over types they do not know.

Writing. Lines are acknowledged once they, and the directory entry of their segment, are on stable storage
(`fsync`) or with the system (`write`). A new segment exists before the old one gets its footer, so a series that
was killed always has an `.open` segment. A segment on which a write or a sync failed is never written again: it is
cut back to the acknowledged lines, if the system lets us, and stays `.open` for recovery; the lines that were not
acknowledged go to the next segment. One number is left free for the footer that recovery will write. So:

    when the next segment of a series begins with number n, lines numbered n-1 and above in an earlier one were
    never acknowledged and are void, except an `end` line numbered n-1.

Limits. A record has at most 32 MiB, and a longer one is refused: no reader takes more for a line.

Times. A segment that is closed was last changed at the time of its latest record or later, also when the clock was
set back.

Damage. Nothing before the last whole line of an `.open` segment is ever touched. Recovery copies what follows it
to `.torn` and truncates. In a closed segment a damaged line is reported by `extproc verify` and skipped by readers.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from msgspec import UNSET

from extproc import __version__, fs
from extproc.core import records

VERSION = 1
OPEN = ".jsonl.open"
CLOSED = ".jsonl"
COMPRESSED = ".jsonl.zst"
TORN = ".torn"

BOOT_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
_NAME = re.compile(r"w(\d{1,6})-([0-9A-Za-z][0-9A-Za-z-]{0,63})-(\d{6,})(\.jsonl(?:\.open|\.zst)?)")
_MOVED = re.compile(rf"({_NAME.pattern})([.-]\d[\d.-]*)")
_OURS = re.compile(rf"{_NAME.pattern}(?:\.tmp)?|w\d+-[0-9A-Za-z-]+-\d+(?:\.\d+)?\.torn(?:\.tmp)?")
_LIKE_OURS = re.compile(r"w\d{1,6}-[0-9A-Za-z][0-9A-Za-z-]{0,63}-\d{6,}\..*", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A segment's name, taken apart. Sorts by series and number."""

    worker: int
    boot_id: str
    number: int
    state: str = CLOSED
    moved: str = ""
    """What another program has put behind it."""

    @classmethod
    def parse(cls, file_name: str) -> Self | None:
        """The name of a segment, or None for any other file."""
        match = _NAME.fullmatch(file_name)
        if match is None:
            return None
        return cls(int(match[1]), match[2], int(match[3]), match[4])

    @classmethod
    def parse_moved(cls, file_name: str) -> Self | None:
        """The name of a segment that was renamed as logrotate does, or None for any other file."""
        match = _MOVED.fullmatch(file_name)
        found = None if match is None else cls.parse(match[1])
        return None if match is None or found is None else replace(found, moved=match[6])

    @property
    def stem(self) -> str:
        """What the names of this segment have in common, whatever its state."""
        return f"w{self.worker}-{self.boot_id}-{self.number:06d}"

    @property
    def series(self) -> tuple[int, str]:
        """Worker and boot: the segments that are numbered together."""
        return self.worker, self.boot_id

    def __str__(self) -> str:
        return self.stem + self.state + self.moved


def header(at: str, in_flight: dict[str, str], *, latest: str | None = None) -> records.Segment:
    """The record that opens a segment. `latest`: where that is after `at`, up to when was written before."""
    return records.Segment(
        version=VERSION,
        at=at,
        host=os.uname().nodename,
        pid=os.getpid(),
        extproc=__version__,
        in_flight=in_flight,
        latest=UNSET if latest is None else latest,
    )


def names(segments: Path | int) -> list[Name]:
    """The segments in a directory, by series and number, each once: the `.zst` only where it is alone.

    A segment that was renamed while the directory was read may be missing or appear under its old name.
    """
    found: dict[str, Name] = {}
    with os.scandir(segments) as entries:
        for entry in entries:
            name = Name.parse(entry.name) or Name.parse_moved(entry.name)
            if name is None or not entry.is_file(follow_symlinks=False):
                continue
            known = found.get(name.stem)
            if known is None or _preference(name) < _preference(known):
                found[name.stem] = name
    return sorted(found.values(), key=lambda name: (name.worker, name.boot_id, name.number))


def misplaced(segments: Path) -> list[str]:
    """The files that were segments, by the beginning of their names, and have names that we give to none."""
    names = (path.name for path in segments.iterdir())
    return sorted(name for name in names if _LIKE_OURS.fullmatch(name) and _OURS.fullmatch(name) is None)


def _preference(name: Name) -> tuple[bool, int]:
    return bool(name.moved), _PREFERENCE[name.state]


# Two states of one segment are there at once only when a step was cut short: closed but not yet unlinked.
_PREFERENCE = {CLOSED: 0, OPEN: 1, COMPRESSED: 2}


class Segment:
    """An open segment. Any method may raise OSError; after that only `set_aside` may be called."""

    __slots__ = ("_directory", "_fd", "acknowledged", "lines", "name", "size")

    def __init__(self, directory: int, name: Name, fd: int) -> None:
        self.name = name
        self.size = 0
        self.lines = 0
        """Acknowledged lines."""
        self.acknowledged = 0
        """Bytes up to which every line is acknowledged."""
        self._directory = directory
        self._fd = fd

    @classmethod
    def create(cls, directory: int, name: Name, header: bytes, *, sync: bool) -> Self:
        """Make the file with its first line. Its directory entry is on disk before this returns."""
        fd = os.open(str(name), fs.NEW | os.O_APPEND, 0o600, dir_fd=directory)
        segment = cls(directory, name, fd)
        try:
            # Held for as long as the process lives: this is how recovery and readers tell a live segment.
            fs.lock(fd, math.inf)
            segment.append(header)
            if sync:
                segment.sync()
                os.fsync(directory)
        except OSError:
            segment.set_aside()
            raise
        segment.acknowledge(1)
        return segment

    def append(self, data: bytes) -> None:
        """Write whole lines. A short write is continued; only an error is a failure."""
        fs.write_all(self._fd, data)
        self.size += len(data)

    def sync(self) -> None:
        """Bring what was written to stable storage."""
        os.fdatasync(self._fd)

    def is_in_place(self) -> bool:
        """Whether the file is still what its name stands for, with all that is acknowledged. Raises OSError."""
        ours = os.fstat(self._fd)
        try:
            named = os.stat(str(self.name), dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return named.st_ino == ours.st_ino and ours.st_size >= self.acknowledged

    def acknowledge(self, lines: int) -> None:
        """Everything written so far, `lines` more than before, is as durable as was asked for."""
        self.acknowledged = self.size
        self.lines += lines

    def close(self, footer: bytes, *, sync: bool, latest_ns: int = 0) -> None:
        """Finish the segment with its last line and give it its final name.

        `latest_ns`: the latest time of its records, should the clock have been set back since.
        """
        self.append(footer)
        touch(self._fd, latest_ns)
        if sync:
            self.sync()
        self.acknowledge(1)
        os.rename(str(self.name), self.name.stem + CLOSED, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        if sync:
            os.fsync(self._directory)
        os.close(self._fd)

    def set_aside(self) -> None:
        """Never write here again. Recovery gives the segment its end; one without acknowledged lines is removed."""
        with contextlib.suppress(OSError):
            if self.acknowledged:
                if os.fstat(self._fd).st_size > self.acknowledged:
                    os.ftruncate(self._fd, self.acknowledged)
            else:
                os.unlink(str(self.name), dir_fd=self._directory)
        with contextlib.suppress(OSError):
            os.close(self._fd)


def touch(fd: int, latest_ns: int) -> None:
    """Make the file no older than its latest record: by its age readers and retention pass it over."""
    status = os.fstat(fd)
    if status.st_mtime_ns < latest_ns:
        with contextlib.suppress(OSError):
            os.utime(fd, ns=(status.st_atime_ns, latest_ns))


def is_live(path: Path) -> bool:
    """Whether a running process is writing this `.open` segment."""
    try:
        fd = os.open(path, fs.READ)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and fs.is_locked(fd)
    finally:
        os.close(fd)
