"""Whether the journal is as it was written. A finding names the file, the line if there is one, and what is wrong.

Checked, in closed, compressed and growing segments alike:

* each line: its checksum, and that worker and boot are those of the file's name;
* the names: none that another program has changed;
* each series: a header first in each segment, a footer last in a closed one, numbers without gaps from the first
  segment that retention has left to the last, but for those that it has reduced to the beginnings of exchanges;
* each exchange: at most one `request` record and exactly one terminal record. One without a terminal record is in
  flight, which only a running sidecar can have;
* each body: length and SHA-256, in the record or in its file; and that each body file belongs to an exchange.

Half a line at the end of a segment that a process is writing is no damage; nor is what recovery has yet to do, as
long as a sidecar holds the directory. Memory holds the ids of one series' unfinished exchanges, the last half
million of its finished ones, and the names of the body files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from extproc.core.records import AnyRecord, Body, Request, RequestDirection, Response, ResponseDirection, fields_of
from extproc.errors import JournalError
from extproc.history import bodies
from extproc.journal import lines, lock, segment
from extproc.journal.directory import BODIES, SEGMENTS, exchange_of
from extproc.journal.lines import Line, Series
from extproc.journal.segment import CLOSED, OPEN, Name, is_live

_MISSING: Final = "the segment is missing, and later ones are there; put it back, or what it held is lost"

_FINISHED_IDS: Final = 500_000
_RENAMED: Final = (
    "a segment that another program has renamed; give it its name again (it ends in .jsonl, .jsonl.open or .jsonl.zst) "
    "and keep logrotate and the like away from this directory"
)


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong."""

    file: Path
    line: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


def verify(
    directory: Path, report: Callable[[str], None] = lambda _: None, *, growing: bool = False
) -> Iterator[Defect]:
    """Everything that is wrong with the journal in a data directory. `report` is told how far it is. `growing`: more of
    its exchanges may come, though nobody writes to this directory."""
    if not (directory / SEGMENTS).is_dir():
        yield Defect(directory / SEGMENTS, None, "there is no such directory, so this is no journal")
        return
    for name in segment.misplaced(directory / SEGMENTS):
        yield Defect(directory / SEGMENTS / name, None, _RENAMED)
    for stem in lines.missing(directory):
        yield Defect(directory / SEGMENTS / f"{stem}{CLOSED}", None, _MISSING)
    files = _Bodies(directory)
    for series in lines.series(directory):
        yield from _Series(series, files, report, growing=growing).check()
    yield from files.unclaimed()


class _Series:
    """One series, checked in one pass."""

    def __init__(self, series: Series, files: _Bodies, report: Callable[[str], None], *, growing: bool) -> None:
        self._series = series
        self._directory = series.directory
        self._bodies = files
        self._report = report
        self._seq: int | None = None
        self._exchanges = _Exchanges()
        self._live = growing
        self._reduced = False
        """The segment has only what retention left in it for exchanges that are in flight."""

    def check(self) -> Iterator[Defect]:
        names = self._series.names
        for position, name in enumerate(names):
            self._report(str(name))
            try:
                yield from self._segment(name, names[position + 1 :])
            except FileNotFoundError:
                self._seq = None  # deleted by retention while this was running
        if not self._live and not lock.is_in_use(self._directory):
            for id, (name, number) in self._exchanges.unfinished.items():
                yield self._finding(name, number, f"exchange {id} has no terminal record, and no sidecar is running")

    def _segment(self, name: Name, later: list[Name]) -> Iterator[Defect]:
        live = name.state == OPEN and is_live(self._directory / SEGMENTS / str(name))
        self._live |= live
        limit = lines.void_from(self._directory, later) if name.state == OPEN else None
        first, last, self._reduced = True, None, False
        for line in lines.read_lines(self._directory, name):
            if line.damage is not None:
                if not (live and line.damage == lines.CUT_OFF):
                    yield self._finding(name, line.number, line.damage)
                if line.damage not in {lines.CUT_OFF, lines.LOST_LINE_END} and self._seq is not None:
                    self._seq += 1
            elif not lines.is_void(line.typed, limit):
                yield from self._record(name, line, first=first)
                last = line
            first = False
        yield from self._ending(name, last, first=first, followed=bool(later))
        if self._reduced:
            self._seq = None  # what followed may be gone

    def _ending(self, name: Name, last: Line | None, *, first: bool, followed: bool) -> Iterator[Defect]:
        if name.state == OPEN:
            if followed and last is not None and last.record.get("type") != "end" and self._seq is not None:
                self._seq += 1  # the number that is left free for the footer from recovery
            return
        if first:
            yield self._finding(name, None, "the segment is empty")
        elif last is None or last.record.get("type") != "end":
            yield self._finding(
                name, last.number if last else None, "the segment is closed but has no footer: it was cut"
            )
        elif last.record.get("records") != last.number - 1:
            said = last.record.get("records")
            yield self._finding(
                name, last.number, f"the footer counts {said} lines before it, there are {last.number - 1}"
            )

    def _record(self, name: Name, line: Line, *, first: bool) -> Iterator[Defect]:
        record, number = line.record, line.number
        type = record.get("type")
        self._reduced |= first and bool(record.get("kept"))
        if first and (type != "segment" or record.get("version") != 1):
            yield self._finding(name, number, "the first line is no segment header of version 1")
        if not first and type == "segment":
            yield self._finding(name, number, "a segment header that is not the first line")
        if (record.get("worker"), record.get("boot_id")) != name.series:
            yield self._finding(name, number, f"the line belongs to w{record.get('worker')}-{record.get('boot_id')}")
        yield from self._number(name, number, record.get("seq"))
        if isinstance(record.get("id"), str):
            yield from self._exchange(name, number, str(type), record["id"], line.typed)

    def _number(self, name: Name, number: int, seq: Any) -> Iterator[Defect]:
        if not isinstance(seq, int):
            yield self._finding(name, number, "the line has no number")
            return
        expected = seq if self._seq is None else self._seq + 1
        if seq != expected and not (self._reduced and seq > expected):
            yield self._finding(name, number, f"line number {expected} should follow, but it is {seq}")
        self._seq = seq

    def _exchange(self, name: Name, number: int, type: str, id: str, record: AnyRecord) -> Iterator[Defect]:
        what = self._exchanges.add(type, id, (name, number))
        if what is not None:
            yield self._finding(name, number, f"exchange {id}: {what}")
        self._bodies.claim(id)
        passed: RequestDirection | ResponseDirection | None = None
        match record:
            case Request():
                passed = record.request
            case Response():
                passed = record.response
        for what in self._bodies.check(passed) if passed is not None else ():
            yield self._finding(name, number, f"exchange {id}: {type} body: {what}")

    def _finding(self, name: Name, line: int | None, what: str) -> Defect:
        return Defect(self._directory / SEGMENTS / str(name), line, what)


class _Exchanges:
    """The exchanges of a series: begun, ended, and how often."""

    def __init__(self) -> None:
        self.unfinished: dict[str, tuple[Name, int]] = {}
        self._requested: set[str] = set()
        self._ended: dict[str, bool] = {}
        """id -> whether its request record was seen, for the exchanges that ended last."""

    def add(self, type: str, id: str, place: tuple[Name, int]) -> str | None:
        """Take a record in. Returns what is wrong with it, if anything."""
        match type:
            case "open" if id not in self._ended:
                self.unfinished.setdefault(id, place)
            case "request":
                return self._request(id, place)
            case "response" | "orphan":
                return self._end(id)
        return None

    def _request(self, id: str, place: tuple[Name, int]) -> str | None:
        if id in self._requested or self._ended.get(id):
            return "a second request record"
        if id in self._ended:
            self._ended[id] = True
        else:
            self._requested.add(id)
            self.unfinished.setdefault(id, place)
        return None

    def _end(self, id: str) -> str | None:
        if id in self._ended:
            return "a second terminal record"
        self.unfinished.pop(id, None)
        self._ended[id] = id in self._requested
        self._requested.discard(id)
        if len(self._ended) > _FINISHED_IDS:
            del self._ended[next(iter(self._ended))]
        return None


class _Bodies:
    """The bodies in records and in files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unclaimed: dict[str, list[str]] = {}
        try:
            names = [path.name for path in (directory / BODIES).iterdir()]
        except FileNotFoundError:
            names = []
        self._strange = [name for name in names if exchange_of(name) is None]
        for name in names:
            id = exchange_of(name)
            if id is not None:
                self._unclaimed.setdefault(id, []).append(name)

    def claim(self, id: str) -> None:
        """There is a record of this exchange."""
        self._unclaimed.pop(id, None)

    def unclaimed(self) -> Iterator[Defect]:
        """The files that belong to nothing."""
        for name in [*self._strange, *(name for names in self._unclaimed.values() for name in names)]:
            yield Defect(self._directory / BODIES / name, None, "the body of no recorded exchange")

    def check(self, passed: RequestDirection | ResponseDirection) -> Iterator[str]:
        """What is wrong with the body of one direction."""
        field, length, sha256 = passed.body, passed.bytes, passed.sha256
        if field is None or sha256 is None:
            return  # an exchange that could only be noted, or is unfinished
        try:
            seen, digest = self._digest(field)
        except JournalError as error:
            yield str(error)
            return
        if seen != length:
            yield f"{seen} bytes are there, the record says {length}"
        elif digest != sha256:
            yield f"its SHA-256 is {digest}, the record says {sha256}"

    def _digest(self, field: Body) -> tuple[int, str]:
        if field.text is None and field.base64 is None and field.file is None:
            raise JournalError(f"it is neither text nor base64 nor a file: {sorted(fields_of(field))}")
        digest, length = hashlib.sha256(), 0
        for piece in bodies.pieces_of(field, self._directory):
            digest.update(piece)
            length += len(piece)
        return length, digest.hexdigest()
