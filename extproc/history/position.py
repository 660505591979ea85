"""Where a record stands, and the record that stands there.

    reader = RecordReader(directory)
    reader.record(position)     # None when it is gone

A position holds for good: through closing and compression, and where retention has left only some lines of a segment.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import zstandard

from extproc.core.record import DamagedLine
from extproc.core.records import AnyRecord
from extproc.journal import lines
from extproc.journal.frames import FRAME_BYTES
from extproc.journal.lines import Line, Series
from extproc.journal.segment import Name

_KEPT: Final = 16
"""Pieces of a megabyte at most."""


class RecordPosition(NamedTuple):
    """A line of a data directory."""

    series: str
    """`w0-BOOT`"""
    segment: int
    """The segment's number."""
    offset: int
    """In its uncompressed bytes."""


class PositionedRecord(NamedTuple):
    """A record as it was met."""

    directory: Path
    position: RecordPosition
    record: AnyRecord

    def with_record(self, record: AnyRecord) -> PositionedRecord:
        """The same place with another record, such as the one that stands there without its body."""
        return self if record is self.record else PositionedRecord(self.directory, self.position, record)


def series_key(series: Series) -> str:
    """What a series is called in a position."""
    return f"w{series.worker}-{series.boot_id}"


def position_of(line: Line) -> RecordPosition:
    """Where a line stands."""
    return RecordPosition(f"w{line.segment.worker}-{line.segment.boot_id}", line.segment.number, line.offset)


def records_at(directory: Path, positions: Iterable[RecordPosition]) -> Iterator[PositionedRecord]:
    """The records that stand at these positions, in this order, without those that are gone."""
    reader = RecordReader(directory)
    for position in positions:
        record = reader.record(position)
        if record is not None:
            yield PositionedRecord(directory, position, record)


class RecordReader:
    """Of one data directory. What stands behind a record is kept for a while: the records of an exchange are written
    together, and so are exchanges, and a compressed segment gives a line for the price of a megabyte."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pieces: OrderedDict[RecordPosition, bytes] = OrderedDict()
        """What stands from these positions on."""
        self._names: dict[tuple[str, int], Name | None] = {}
        """Segments whose lines stand in their file where they are said to; None for others."""

    def record(self, position: RecordPosition) -> AnyRecord | None:
        """The record that stands at a position; None when it is gone."""
        name = self._name(position)
        try:
            raw = None if name is None else self._kept(position) or self._read(name, position)
        except (DamagedLine, FileNotFoundError):
            raw = None
        if raw is None or name is None:
            return _alone(self._directory, position)
        line = lines.parse(name, 0, position.offset, raw)[0]
        return line.typed if line.damage is None else None

    def _name(self, position: RecordPosition) -> Name | None:
        key = position[:2]
        if key not in self._names:
            name = _name(position)
            head = None if name is None else lines.typed_header(self._directory, name)
            self._names[key] = None if head is None or head.kept else name
        return self._names[key]

    def _kept(self, position: RecordPosition) -> bytes | None:
        series, number, offset = position
        for begins, piece in self._pieces.items():
            start = offset - begins.offset
            if begins.series == series and begins.segment == number and 0 <= start < len(piece):
                end = piece.find(b"\n", start)
                if end >= 0:
                    self._pieces.move_to_end(begins)
                    return piece[start : end + 1]
        return None

    def _read(self, name: Name, position: RecordPosition) -> bytes | None:
        with lines.open_segment(self._directory, name, position.offset) as file:
            line = next(lines.raw_lines(file), b"")
            piece = line + _what_follows(file)
        if not line.endswith(b"\n"):
            return None
        self._pieces[position] = piece
        if len(self._pieces) > _KEPT:
            self._pieces.popitem(last=False)
        return line


def _what_follows(file: BinaryIO) -> bytes:
    """What has been read of a segment beyond a line, or a little more; nothing where that is damaged."""
    assert isinstance(file, io.BufferedReader)
    try:
        return file.read1(FRAME_BYTES)
    except zstandard.ZstdError:
        return b""


def _alone(directory: Path, position: RecordPosition) -> AnyRecord | None:
    """The record of a segment that was reduced, or that another program has renamed."""
    series, number, offset = position
    name = _name(position)
    line = None if name is None else lines.line_at(directory, name, offset)
    if line is None and (renamed := _renamed(directory, series, number)) is not None:
        line = lines.line_at(directory, renamed, offset)
    return None if line is None else line.typed


def _name(position: RecordPosition) -> Name | None:
    """A segment, whatever has become of it."""
    return Name.parse(f"{position.series}-{position.segment:06d}.jsonl")


def _renamed(directory: Path, key: str, number: int) -> Name | None:
    """The name that another program has given to a segment."""
    for series in lines.series(directory):
        if series_key(series) == key:
            return next((name for name in series.names if name.number == number and name.moved), None)
    return None
