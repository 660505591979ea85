"""A person's exchanges taken out: of a journal, its body files and its index, or of a bucket.

    found = erase.find(directories, by)            # the exchanges, and those that are still being written
    erase.from_journal(directory, found)           # each returns what the signed list says of it
    erase.from_bucket(bucket, directories, found)

Never out of a segment that is being written: an exchange with a record in one is left as a whole, and named. Segments
are replaced one by one, each whole or not at all. What leads to the rest goes last (bodies and rows before the records
that name them), so that an erasure that was cut off is done by doing it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from extproc import fs
from extproc.core.joined import NO_LLM
from extproc.errors import BucketError, ExtprocError
from extproc.fleet import pack, table, tombstone
from extproc.fleet.bucket import Bucket
from extproc.fleet.ledger import Ledger
from extproc.fleet.names import BODIES as PACKS
from extproc.fleet.names import Place
from extproc.fleet.tombstone import Erased, Wanted
from extproc.history.answers import Answers
from extproc.history.filters import Filters, Param
from extproc.history.index import store
from extproc.history.join import Exchange
from extproc.journal import lines, lock
from extproc.journal.directory import BODIES, SEGMENTS, exchange_of, open_directory
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, TORN, Name

USER_PARAMETERS: Final = ("user", "metadata.user_id", "safety_identifier")
"""Where requests name the person that they are for: OpenAI's words and Anthropic's."""
_LOCK_SECONDS: Final = 60.0

Said = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class By:
    """Whose exchanges: one of these."""

    key: str | None = None
    """The mark of a credential."""
    user: str | None = None
    id: str | None = None

    def filters(self) -> list[Filters]:
        """Those that are meant, by any of these."""
        if self.key is not None:
            return [Filters(keys=(self.key,))]
        if self.id is not None:
            return [Filters(ids=(self.id,))]
        return [Filters(params=(Param(name),)) for name in USER_PARAMETERS]

    def means(self, exchange: Exchange) -> bool:
        """Whether one that a filter has left is meant: filters take globs and parts, and what is erased is gone."""
        if self.key is not None:
            return _mark(exchange.key) == _mark(self.key)
        if self.user is None:
            return True
        params = (exchange.llm or NO_LLM).params
        return any(_named(params, name.split(".")) == self.user for name in USER_PARAMETERS)

    def said(self) -> Said:
        """What the list says of it: not the name of a person."""
        return {"key": self.key} if self.key is not None else {"id": self.id} if self.id is not None else {"user": True}


def _mark(text: object) -> str:
    return str(text).removeprefix("redacted:")


def _named(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


@dataclasses.dataclass(slots=True)
class Found:
    """The exchanges that are meant."""

    wanted: Wanted
    left: set[str]
    """Those of which a record stands in a segment that is being written, or is still to come."""


def find(directories: Sequence[Path], by: By) -> Found:
    """What is meant, in all of these directories. Raises ExtprocError where an id is that of several."""
    ids: set[str] = set()
    request_ids: set[str] = set()
    left: set[str] = set()
    with Answers(directories) as asked:
        for filters in by.filters():
            for exchange in asked.exchanges(filters, running=True, complete=True):
                if not by.means(exchange):
                    continue
                if exchange.in_flight or _is_being_written(exchange):
                    left.add(exchange.id)
                else:
                    ids.add(exchange.id)
                    if exchange.request_id is not None:
                        request_ids.add(exchange.request_id)
    if by.id is not None and len(ids | left) > 1:
        raise ExtprocError(f"{len(ids | left)} exchanges go by {by.id!r}: {', '.join(sorted(ids | left)[:10])}")
    return Found(Wanted(ids - left, request_ids), left)


def _is_being_written(exchange: Exchange) -> bool:
    paths = {f"{series}-{segment:06d}{OPEN}" for series, segment, _ in exchange.positions}
    return any((exchange.directory / SEGMENTS / path).exists() for path in paths)


# A journal -------------------------------------------------------------------------------------------------------


def from_journal(directory: Path, found: Found) -> Said:
    """Take them out of a data directory. Raises JournalError, OSError, and sqlite3.Error where a reader holds the
    index; it is then done again."""
    with Ledger.held(directory, _LOCK_SECONDS) as ledger, lock.maintenance(directory, _LOCK_SECONDS):
        ledger.unstage()  # rows and packs that were made of them
        bodies = _remove_bodies(directory, found.wanted)
        segments = [said for name in _closed(directory) if (said := _replace(directory, name, found.wanted))]
        torn = _remove_torn(directory, found.wanted)
        rows = store.erase(directory, sorted(found.wanted.ids))
    return {"segments": segments, "bodies": bodies, "torn": torn, "index_rows": rows}


def _closed(directory: Path) -> Iterator[Name]:
    names = (name for series in lines.series(directory) for name in series.names)
    return (name for name in names if name.state != OPEN and not name.moved)


def _replace(directory: Path, name: Name, wanted: Wanted) -> Said | None:
    """Put a segment in its place that has nothing of them. None where it had nothing."""
    with lines.open_segment(directory, name) as file:
        data, erased = tombstone.without(file, wanted)
    if not erased.lines:
        return None
    path = directory / SEGMENTS / str(name)
    before, times = path.read_bytes(), path.stat()
    after = tombstone.compressed(data)

    def write(target: BinaryIO) -> None:
        target.write(after)
        target.flush()
        os.utime(target.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))

    fd = open_directory(directory / SEGMENTS)
    try:
        fs.put(fd, f"{name.stem}{COMPRESSED}", write)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{name.stem}{CLOSED}", dir_fd=fd)
        os.fsync(fd)
    finally:
        os.close(fd)
    return _changed(name.stem, erased, before, after)


def _changed(what: str, erased: Erased, before: bytes, after: bytes) -> Said:
    digests = {
        name: hashlib.sha256(data).hexdigest() for name, data in (("sha256_before", before), ("sha256_after", after))
    }
    damage = {} if erased.damage is None else {"damage": erased.damage}
    return {"segment": what, "records": erased.lines, **digests, **damage}


def _remove_bodies(directory: Path, wanted: Wanted) -> list[str]:
    names = sorted(f"{id}.{direction}" for id in wanted.ids for direction in ("request", "response"))
    there = [name for name in names if exchange_of(name) is not None and (directory / BODIES / name).exists()]
    for name in there:
        (directory / BODIES / name).unlink(missing_ok=True)
    if there:
        with fs.directory(directory / BODIES) as fd:
            os.fsync(fd)
    return there


def _remove_torn(directory: Path, wanted: Wanted) -> list[str]:
    """What recovery cut off a segment's end may have half a line of theirs: such a file goes as a whole."""
    gone = []
    for path in sorted((directory / SEGMENTS).glob(f"*{TORN}")):
        data = path.read_bytes()
        if any(id.encode() in data for id in wanted.ids):
            path.unlink()
            gone.append(path.name)
    return gone


# A bucket --------------------------------------------------------------------------------------------------------


def from_bucket(bucket: Bucket, directories: Sequence[Path], found: Found) -> Said:
    """Take them out of a bucket, of which `directories` are a view (`view.opened`). Raises BucketError: where something
    was changed in between, too, and it is then done again."""
    segments, packs, rows = [], [], 0
    for directory in directories:
        for name in _closed(directory):
            with lines.open_segment(directory, name) as file:
                data, erased = tombstone.without(file, found.wanted)
            if not erased.lines:
                continue
            head = lines.header(directory, name) or {}
            place = Place(str(head.get("at"))[:10], directory.name, name.stem)
            packs += _out_of_packs(bucket, place, found.wanted)
            rows += _out_of_rows(bucket, place, found.wanted)
            before, version = bucket.read_version(place.raw)
            after = tombstone.compressed(data)
            if hashlib.sha256(before).digest() != _digest(directory / SEGMENTS / str(name)):
                raise BucketError(f"{place.raw}: changed since it was read; begin again")
            bucket.replace(place.raw, after, version)
            segments.append(_changed(place.raw, erased, before, after))
    return {"segments": segments, "bodies": packs, "rows": rows}


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _out_of_packs(bucket: Bucket, place: Place, wanted: Wanted) -> list[str]:
    gone: list[str] = []
    for each in list(bucket.objects(f"{PACKS}/dt={place.dt}/host={place.host}")):
        if Place.of_pack(each.path) != place:
            continue
        data, version = bucket.read_version(each.path)
        data, names = pack.without(data, lambda name: exchange_of(name) in wanted.ids)
        if names:
            bucket.replace(each.path, data, version)
            gone += names
    return gone


def _out_of_rows(bucket: Bucket, place: Place, wanted: Wanted) -> int:
    if not bucket.has(place.exchanges):
        return 0
    data, version = bucket.read_version(place.exchanges)
    data, count = table.without(data, wanted.ids.__contains__)
    if count:
        bucket.replace(place.exchanges, data, version)
    return count
