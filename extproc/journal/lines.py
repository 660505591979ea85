"""Segments read as lines, whatever their state, beside a writer that goes on writing.

A segment may be renamed or compressed between the moment it was listed and the moment it is opened; `open_segment`
finds it under its new name. The end of a segment that is being written may be half a line: it comes without its
line end, and it is the caller who knows whether that is damage.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import zstandard

from extproc import fs
from extproc.core.record import LONGEST_LINE, DamagedLine
from extproc.core.records import NOTHING, AnyRecord, Segment, as_dict, unseal
from extproc.journal import frames, segment
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, Name

_BUFFER: Final = 256 * 1024
_COMPRESSED_BUFFER: Final = 32 * 1024

_NEAR_BYTES: Final = 4096
"""More than a footer has."""
_TICK_NS: Final = 100_000_000

Wanted = Callable[[bytes], bool]
"""Asked of a line as it stands, whether it is worth being decoded."""

CUT_OFF: Final = "the line is cut off"
LOST_LINE_END: Final = "the end of a line is damaged"


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line of a segment: its record, or what is wrong with it."""

    segment: Name
    number: int
    """From 1."""
    offset: int
    """Where it begins, and where the next one does: in the uncompressed bytes."""
    end: int
    typed: AnyRecord
    """`NOTHING` when the line is damaged."""
    damage: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The same as plain values. Empty when the line is damaged."""
        return as_dict(self.typed)


@dataclass(frozen=True, slots=True)
class Series:
    """The segments of one worker and one boot, in order."""

    directory: Path
    """The data directory."""
    worker: int
    boot_id: str
    names: list[Name]


def series(directory: Path) -> list[Series]:
    """All series of a data directory. One without `segments` has none."""
    found: dict[tuple[int, str], Series] = {}
    try:
        names = segment.names(directory / "segments")
    except FileNotFoundError:
        return []
    for name in names:
        found.setdefault(name.series, Series(directory, *name.series, [])).names.append(name)
    return list(found.values())


class Listing:
    """All series of a data directory for one who asks again and again: the directory is read when it has changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._series: list[Series] = []
        self._changed_at = -1
        self._sure = False

    def series(self) -> list[Series]:
        """The same list as before as long as nothing was made, renamed or deleted."""
        try:
            changed_at = (self._directory / "segments").stat().st_mtime_ns
        except FileNotFoundError:
            changed_at = 0
        if changed_at != self._changed_at or not self._sure:
            # What changes within the same tick of the file system's clock leaves the same time behind.
            self._sure = abs(time.time_ns() - changed_at) > _TICK_NS
            self._changed_at = changed_at
            listed = series(self._directory)
            if listed != self._series:
                self._series = listed
        return self._series


def open_segment(directory: Path, name: Name, offset: int = 0) -> BinaryIO:
    """The segment's uncompressed bytes, from `offset` on. Raises FileNotFoundError once it has been deleted."""
    for state in (name.state + name.moved, CLOSED, COMPRESSED, OPEN, CLOSED, COMPRESSED):
        try:
            fd = os.open(directory / "segments" / (name.stem + state), fs.READ)
        except FileNotFoundError:
            continue
        if state.startswith(COMPRESSED):
            return frames.decompressed(os.fdopen(fd, "rb", buffering=_COMPRESSED_BUFFER), offset)
        file = os.fdopen(fd, "rb", buffering=_BUFFER)
        file.seek(offset)
        return file
    raise FileNotFoundError(f"{directory / 'segments' / str(name)}: the segment has been deleted")


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines as they are, each with its line end, except perhaps the last. Raises DamagedLine for a broken frame.

    What is longer than any line may be is garbage, and comes in pieces.
    """
    while True:
        try:
            line = file.readline(LONGEST_LINE)
        except zstandard.ZstdError as error:
            raise DamagedLine(f"the compressed data is damaged: {error}") from error
        if not line:
            return
        yield line


def read_lines(directory: Path, name: Name, offset: int = 0, wanted: Wanted | None = None) -> Iterator[Line]:
    """Every line of a segment, or those from the one at `offset` on, numbered from there. With `wanted` only those
    that are wanted by their bytes, and perhaps the head; only these are decoded.

    Half a line at the end is a damaged line. Where retention has reduced the segment, places are those at which the
    lines stood before, so that a place stands for one line for good.
    """
    everything = _lines(directory, name, 0, wanted)
    first = next(everything, None)
    if first is None:
        return
    if isinstance(first.typed, Segment) and first.typed.kept:
        stood = _as_they_stood(first, first.typed.kept, everything)
        yield from (line for line in stood if line.offset >= offset)
    elif offset:
        everything.close()
        yield from _lines(directory, name, offset, wanted)
    else:
        yield first
        yield from everything


def line_at(directory: Path, name: Name, offset: int) -> Line | None:
    """The line at this place, whole; None when it is gone. Of a compressed segment one frame is read, and the head."""
    try:
        line = next(read_lines(directory, name, offset), None)
    except FileNotFoundError:
        return None
    return line if line is not None and line.offset == offset and line.damage is None else None


def last_record(directory: Path, name: Name) -> AnyRecord | None:
    """The record of a closed segment's last line; None when that is not whole."""
    raw = b""
    try:
        with open_segment(directory, name, _near_the_end(directory, name)) as file:
            for raw in raw_lines(file):  # noqa: B007 - the last one is wanted
                pass
    except (DamagedLine, FileNotFoundError):
        return None
    last = parse(name, 0, 0, raw)[-1]
    return last.typed if last.damage is None else None


def _near_the_end(directory: Path, name: Name) -> int:
    """The beginning of a line not far from the end of a segment, or of the segment."""
    for state in (CLOSED, COMPRESSED):
        try:
            with (directory / "segments" / f"{name.stem}{state}").open("rb") as file:
                if state == COMPRESSED:
                    return frames.start_of_last(file)
                start = max(0, file.seek(0, os.SEEK_END) - _NEAR_BYTES)
                file.seek(start)
                return start + file.read(_NEAR_BYTES).find(b"\n") + 1 if start else 0
        except FileNotFoundError:
            continue
    return 0


def _lines(directory: Path, name: Name, offset: int, wanted: Wanted | None) -> Generator[Line]:
    number = 0
    with open_segment(directory, name, offset) as file:
        try:
            for raw in raw_lines(file):
                number += 1
                if wanted is None or offset == 0 or wanted(raw):  # the head says where the others stood
                    yield from parse(name, number, offset, raw)
                offset += len(raw)
        except DamagedLine as error:
            yield Line(name, number + 1, offset, offset, NOTHING, str(error))


def _as_they_stood(head: Line, kept: Sequence[tuple[str, int]], rest: Iterator[Line]) -> Iterator[Line]:
    """The lines of a reduced segment, with the places that its head has noted; the footer behind them."""
    behind = kept[0][1]
    yield msgspec.structs.replace(head, end=behind)  # it has grown since, and must not reach beyond the first of them
    for line in rest:
        place = line.number - 2
        begins = kept[place][1] if place < len(kept) else behind
        behind = begins + line.end - line.offset
        yield msgspec.structs.replace(line, offset=begins, end=behind)


def parse(name: Name, number: int, offset: int, raw: bytes) -> list[Line]:
    """A line with its place. Where a line end was lost, the lines that it parted, behind the damaged one."""
    line = _parse(name, number, offset, raw)
    if line.damage is None:
        return [line]
    cuts = [match.start() for match in _LOST_LINE_END.finditer(raw)]
    if not cuts:
        return [line]
    found = [Line(name, number, offset, line.end, NOTHING, LOST_LINE_END)]
    for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, None], strict=True):
        piece = raw[start:] if end is None else raw[start:end] + b"\n"
        found.append(_parse(name, number, offset + start, piece))
    return found


# Quotes in a client's text are escaped in a record, so this can only be the end of one line and the start of another.
_LOST_LINE_END: Final = re.compile(rb'(?<=,"crc":"[0-9a-f]{8}"\}).(?=\{"type":")', re.DOTALL)


def _parse(name: Name, number: int, offset: int, raw: bytes) -> Line:
    end = offset + len(raw)
    if not raw.endswith(b"\n"):
        return Line(name, number, offset, end, NOTHING, CUT_OFF)
    try:
        return Line(name, number, offset, end, unseal(raw))
    except DamagedLine as error:
        return Line(name, number, offset, end, NOTHING, str(error))


def header(directory: Path, name: Name) -> dict[str, Any] | None:
    """A segment's first line, or None when it is damaged, not there yet, or the segment is gone."""
    head = typed_header(directory, name)
    return None if head is None else as_dict(head)


def typed_header(directory: Path, name: Name) -> Segment | None:
    """The same as its type."""
    try:
        with open_segment(directory, name) as file:
            record = unseal(next(raw_lines(file), b""))
    except (DamagedLine, OSError):
        return None
    return record if isinstance(record, Segment) else None


def missing(directory: Path) -> list[str]:
    """The stems of segments that were there and are not, though later ones are: retention leaves no such hole."""
    return [stem for each in series(directory) for pair in pairwise(each.names) for stem in _between(directory, *pair)]


def _between(directory: Path, earlier: Name, later: Name) -> list[str]:
    numbers = range(earlier.number + 1, later.number)
    if not numbers:
        return []
    begin, end = header(directory, earlier), header(directory, later)
    if begin is None or end is None or begin.get("kept"):
        return []
    last = max((line.typed.seq for line in read_lines(directory, earlier)), default=0)
    # A number may stand for a file that nothing could be written to. A segment takes more than two numbers of lines.
    return [replace(later, number=number).stem for number in numbers] if end["seq"] > last + 2 else []


def void_from(directory: Path, later: list[Name]) -> int | None:
    """The number from which on lines of a segment were never acknowledged, given the segments after it."""
    for name in later:
        first = typed_header(directory, name)
        if first is not None:
            return first.seq - 1
    return None


def is_void(record: AnyRecord, limit: int | None) -> bool:
    """Whether a line was written again in the next segment. The footer takes the number left free for it."""
    return limit is not None and (record.seq > limit or (record.seq == limit and record.type != "end"))
