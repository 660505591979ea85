"""Where a record stands, and the record that stands there.

A position holds for good: through closing and compression, and where retention has left only some lines of a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from extproc.core.records import AnyRecord
from extproc.journal import lines
from extproc.journal.lines import Line, Series
from extproc.journal.segment import Name


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


def record_at(directory: Path, position: RecordPosition) -> AnyRecord | None:
    """The record that stands at a position, whatever has become of its segment; None when it is gone."""
    series, number, offset = position
    name = Name.parse(f"{series}-{number:06d}.jsonl")
    line = None if name is None else lines.line_at(directory, name, offset)
    if line is None and (renamed := _renamed(directory, series, number)) is not None:
        line = lines.line_at(directory, renamed, offset)
    return None if line is None else line.typed


def records_at(directory: Path, positions: Iterable[RecordPosition]) -> Iterator[PositionedRecord]:
    """The records that stand at these positions, without those that are gone."""
    for position in positions:
        record = record_at(directory, position)
        if record is not None:
            yield PositionedRecord(directory, position, record)


def _renamed(directory: Path, key: str, number: int) -> Name | None:
    """The name that another program has given to a segment."""
    for series in lines.series(directory):
        if series_key(series) == key:
            return next((name for name in series.names if name.number == number and name.moved), None)
    return None
