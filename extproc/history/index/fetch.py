"""Exchanges read from the positions of their records, near ones together.

    fetch = Fetch(directory)
    fetch.exchange(positions)      # None when what is left of it is no exchange

What stands near a record is kept for a while: the records of an exchange are written together, and so are exchanges.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Final

from extproc.core.record import DamagedLine
from extproc.core.records import AnyRecord
from extproc.history import lookup
from extproc.history.index.store import Positions
from extproc.history.join import Exchange
from extproc.history.position import RecordPosition, record_at
from extproc.journal import lines
from extproc.journal.frames import FRAME_BYTES
from extproc.journal.segment import Name

_KEPT: Final = 16
"""Pieces of about a megabyte."""


class Fetch:
    """Of one data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pieces: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._reduced: dict[tuple[str, int], bool] = {}

    def exchange(self, positions: Positions) -> Exchange | None:
        """What the records that stand there say together."""
        return lookup.at_positions(self._directory, positions, self.record)

    def record(self, directory: Path, position: RecordPosition) -> AnyRecord | None:
        """The record that stands at a position; None when it is gone."""
        try:
            raw = None if self._is_reduced(position) else self._line(position)
        except (DamagedLine, FileNotFoundError):
            raw = None
        if raw is None:
            return record_at(directory, position)
        line = lines.parse(_name(position), 0, position[2], raw)[0]
        return line.typed if line.damage is None else None

    def _is_reduced(self, position: RecordPosition) -> bool:
        """Whether retention has left only some lines of a segment, which then stand elsewhere in the file."""
        key = position[:2]
        if key not in self._reduced:
            head = lines.header(self._directory, _name(position))
            self._reduced[key] = head is None or bool(head.get("kept"))
        return self._reduced[key]

    def _line(self, position: RecordPosition) -> bytes | None:
        series, number, offset = position
        for key, piece in self._pieces.items():
            if key[0] == series and key[1] == number and key[2] <= offset < key[2] + len(piece):
                end = piece.find(b"\n", offset - key[2])
                if end >= 0:
                    self._pieces.move_to_end(key)
                    return piece[offset - key[2] : end + 1]
        return self._read(position)

    def _read(self, position: RecordPosition) -> bytes | None:
        with lines.open_segment(self._directory, _name(position), position[2]) as file:
            line = next(lines.raw_lines(file), b"")
            piece = line + (file.read1(FRAME_BYTES) if hasattr(file, "read1") else b"")
        if not line.endswith(b"\n"):
            return None
        self._pieces[position] = piece
        if len(self._pieces) > _KEPT:
            self._pieces.popitem(last=False)
        return line


def _name(position: RecordPosition) -> Name:
    """A segment, whatever has become of it."""
    worker, _, boot_id = position[0][1:].partition("-")
    return Name(int(worker), boot_id, position[1])
