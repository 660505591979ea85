"""Closed segments go to the bucket, each whole and each once, whatever happens in between.

    shipper = Shipper(directory, bucket)
    done = shipper.round()      # all that is closed and not there yet; done.error says what stood in the way

Of a segment three kinds of objects are made, in this order: the packs of its body files, the rows of its exchanges, the
segment itself. The rows wait until nothing more is expected of its exchanges (`SETTLED_SECONDS`, while a sidecar
runs). An object that is there with the same content is done, so that a round that was cut off anywhere, or whose answer
was lost, is repeated and changes nothing. With another content it is a conflict: told, counted, and nothing is
overwritten. Where the bucket fails, the round ends; what is left is lag, and the next round begins with it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from extproc.errors import BucketError, Conflict, JournalError
from extproc.fleet import host, pack, rows, table
from extproc.fleet.bucket import Bucket
from extproc.fleet.ledger import Ledger
from extproc.fleet.names import Place
from extproc.fleet.pack import Entry
from extproc.fleet.rows import Ended
from extproc.fleet.table import Rows
from extproc.history.join import Exchange
from extproc.journal import lines, lock, retention
from extproc.journal.directory import BODIES, SEGMENTS, exchange_of
from extproc.journal.segment import COMPRESSED, Name

SETTLED_SECONDS: Final = 10.0
"""After its last record nothing more is expected of what ended in a segment: Envoy's entries come within five."""
TOGETHER: Final = 4
"""Segments whose rows are read in one pass, and are in memory together."""
_PACK_BYTES: Final = 64 * 1024 * 1024
_LOCK_SECONDS: Final = 30.0

Report = Callable[[str], None]


@dataclass(slots=True)
class Done:
    """What a round did, and what is left."""

    segments: int = 0
    objects: int = 0
    """Made now; those that were there already are not counted."""
    failures: int = 0
    errors: list[str] = field(default_factory=list)
    unfound: int = 0
    """Exchanges that ended in a segment and could not be read: damaged lines, as `verify` names them."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    name: Name
    size: int
    changed_at: float


class Shipper:
    """From one data directory to one bucket. `clock`: the time of day in seconds. `report` hears of each step."""

    def __init__(
        self,
        directory: Path,
        bucket: Bucket,
        *,
        report: Report = lambda _: None,
        clock: Callable[[], float] = time.time,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directory = directory
        self._bucket = bucket
        self._report = report
        self._clock = clock
        self._stopping = stopping
        self._url = bucket.url
        self._refused: set[str] = set()
        """Segments that are in conflict with the bucket: once is enough to say so."""
        self._left: list[_Waiting] = []
        table.require()

    def round(self, *, last: bool = False) -> Done:
        """Ship what is closed, oldest first. `last`: nothing more will come to it. Raises JournalError where another
        process is at it."""
        done = Done()
        with Ledger.held(self._directory, _LOCK_SECONDS) as ledger:
            self._compress(done)
            self._left = waiting = self._waiting(ledger)
            ledger.forget({name.stem for name in self._names()})
            try:
                machine = host.name_of(self._directory)
                for batch in _batches(self._settled(waiting, last=last), TOGETHER):
                    self._ship(batch, machine, ledger, done)
                    self._left = self._waiting(ledger)
                    if self._stopping() and not last:
                        break
            except (BucketError, OSError) as error:
                done.failures += 1
                done.errors.append(str(error))
        return done

    @property
    def lag_seconds(self) -> float:
        """The time since the last record of the oldest segment that was closed and not there; 0 where none was."""
        oldest = min((each.changed_at for each in self._left), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    @property
    def behind_bytes(self) -> int:
        """The size of all such segments."""
        return sum(each.size for each in self._left)

    # What there is to ship -------------------------------------------------------------------------------------

    def _compress(self, done: Done) -> None:
        """What is closed gets its last form. Housekeeping does the same, a minute later."""
        try:
            with lock.maintenance(self._directory):
                retention.compress_closed(self._directory)
        except (OSError, JournalError) as error:
            done.errors.append(str(error))

    def _names(self) -> Iterator[Name]:
        return (name for series in lines.series(self._directory) for name in series.names)

    def _waiting(self, ledger: Ledger) -> list[_Waiting]:
        """What is closed and not in the bucket, the oldest first."""
        found = []
        for name in self._names():
            if name.state == COMPRESSED and not name.moved and not ledger.is_shipped(name.stem, self._url):
                try:
                    status = (self._directory / SEGMENTS / str(name)).stat()
                except FileNotFoundError:
                    continue
                found.append(_Waiting(name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda each: (each.changed_at, each.name))

    def _settled(self, waiting: Sequence[_Waiting], *, last: bool) -> list[Name]:
        running = not last and lock.is_in_use(self._directory)
        before = self._clock() - SETTLED_SECONDS
        return [
            each.name
            for each in waiting
            if each.name.stem not in self._refused and not (running and each.changed_at > before)
        ]

    # Shipping --------------------------------------------------------------------------------------------------

    def _ship(self, names: Sequence[Name], machine: str, ledger: Ledger, done: Done) -> None:
        segments = [found for name in names if (found := rows.ended_in(self._directory, name)) is not None]
        tables = self._tables([each for each in segments if ledger.staged(f"{each.name.stem}.parquet") is None], done)
        for each in segments:
            place = Place(f"{each.begun:%Y-%m-%d}", machine, each.name.stem)
            try:
                self._ship_segment(place, each, tables.get(each.name.stem, Rows()), ledger, done)
            except Conflict as error:
                self._refused.add(each.name.stem)
                done.failures += 1
                done.errors.append(str(error))
            except FileNotFoundError:
                continue  # retention was quicker

    def _tables(self, segments: Sequence[Ended], done: Done) -> dict[str, Rows]:
        tables = {each.name.stem: Rows() for each in segments}

        def take(stem: str, exchange: Exchange) -> None:
            tables[stem].add(exchange)

        if segments:
            done.unfound += rows.read(self._directory, segments, take)
        return tables

    def _ship_segment(self, place: Place, ended: Ended, found: Rows, ledger: Ledger, done: Done) -> None:
        raw = (self._directory / SEGMENTS / str(place.name)).read_bytes()
        said: dict[str, Any] = {"to": self._url, "objects": {}}
        packed: dict[str, tuple[str, Entry]] = {}
        for part, bodies in enumerate(self._bodies(ended), 1):
            path = place.pack(part)
            data = self._staged(ledger, path, partial(_pack, bodies))
            packed |= {name: (path.rpartition("/")[2], entry) for name, entry in pack.table_of(data).items()}
            self._create(path, data, said, done)
        data = self._staged(ledger, place.exchanges, lambda: found.to_parquet(place.stem, packed))
        self._create(place.exchanges, data, said, done)
        self._create(place.raw, raw, said, done)
        self._report(f"mark {place.stem}")
        ledger.set_mark(place.stem, said)
        done.segments += 1

    def _staged(self, ledger: Ledger, path: str, make: Callable[[], bytes]) -> bytes:
        """What was made of a segment before, or what is made now, and kept until it is shipped."""
        name = path.rpartition("/")[2]
        data = ledger.staged(name)
        if data is None:
            data = make()
            self._report(f"stage {name}")
            ledger.stage(name, data)
        return data

    def _create(self, path: str, data: bytes, said: dict[str, Any], done: Done) -> None:
        self._report(f"put {path}")
        done.objects += self._bucket.create(path, data)
        said["objects"][path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _bodies(self, ended: Ended) -> Iterator[list[tuple[str, bytes]]]:
        """The body files of what ended in a segment, as many together as one pack should have."""
        directory = self._directory / BODIES
        ids = sorted(ended.ids | ended.requests_after)
        together: list[tuple[str, bytes]] = []
        size = 0
        for name in (f"{id}.{direction}" for id in ids for direction in ("request", "response")):
            if exchange_of(name) is None or not (directory / name).exists():
                continue
            body = (directory / name).read_bytes()
            if together and size + len(body) > _PACK_BYTES:
                yield together
                together, size = [], 0
            together.append((name, body))
            size += len(body)
        if together:
            yield together


def _pack(bodies: list[tuple[str, bytes]]) -> bytes:
    return pack.packed(bodies)[0]


def _batches(names: Sequence[Name], size: int) -> Iterable[Sequence[Name]]:
    return (names[start : start + size] for start in range(0, len(names), size))
