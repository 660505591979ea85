"""Journals for the journal's own tests: records with known ids, a writer that is waited for, and a disk with faults."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from extproc.core.effects import Append, Effect
from extproc.core.record import encode
from extproc.core.records import Body, Unknown, fields_of, of_fields
from extproc.core.times import timestamp
from extproc.errors import JournalError
from extproc.journal import lines
from extproc.journal.writer import Journal

START_NS = 1_793_000_000_000_000_000
WAIT_SECONDS = 90


def id_of(number: int, at_ns: int = START_NS) -> str:
    """The id of exchange `number`: a UUIDv7 of that time."""
    milliseconds = f"{at_ns // 1_000_000:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7000-8000-{number:012x}"


def _direction(body: bytes, ended_by: str | None, field: dict[str, str] | None) -> dict[str, Any]:
    return {
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest() if ended_by else None,
        "chunks": 1,
        "ended_by": ended_by,
        "truncated": False,
        "content_type": "application/json",
        "headers": [["content-type", "application/json"]],
        "body": field or fields_of(Body.of(body)),
    }


def request(
    number: int, body: bytes = b"{}", *, at: int = START_NS, file: bool = False, type: str = "request"
) -> bytes:
    """A `request` (or `open`) record."""
    id = id_of(number, at)
    field = {"file": f"bodies/{id}.request"} if file else None
    half = _direction(body, "end_of_stream" if type == "request" else None, field)
    fields = {"type": type, "id": id, "at": timestamp(at), "started_at": timestamp(at), "method": "POST", "path": "/x"}
    protocol: dict[str, Any] = {"late": {}, "duplicate_end_of_stream": 0}
    return encode(fields | {"authority": "a", "request": half, "llm": None, "protocol": protocol})


def response(number: int, body: bytes = b"ok", *, at: int = START_NS, file: bool = False, **more: Any) -> bytes:
    """A `response` record, of an answer that took a second."""
    id = id_of(number, at)
    half = _direction(body, "end_of_stream", {"file": f"bodies/{id}.response"} if file else None)
    end = timestamp(at + 1_000_000_000)
    fields = {"type": "response", "id": id, "at": end, "started_at": timestamp(at), "ended_at": end}
    protocol: dict[str, Any] = {"late": {}, "duplicate_end_of_stream": 0}
    rest = {"duration_ms": 1000.0, "method": "POST", "path": "/x", "status": 200, "response": half, "llm": None}
    return encode(fields | rest | {"protocol": protocol} | more)


def access(number: int | None, *, at: int = START_NS, **more: Any) -> bytes:
    """Envoy's access entry of an exchange that ended after a second, come a quarter of a second later."""
    fields = {
        "type": "access",
        "id": None if number is None else id_of(number, at),
        "at": timestamp(at + 1_250_000_000),
    }
    rest = {"started_at": timestamp(at), "duration_ms": 1000.0, "method": "POST", "path": "/x", "status": 200}
    said = {"response_flags": [], "response_code_details": "via_upstream", "upstream": "127.0.0.1:8001"}
    counted = {"cluster": "llm", "route": "all", "attempts": 1, "request_bytes": 2, "response_bytes": 2}
    return encode(fields | rest | said | counted | more)


class Waiter:
    """Takes the place of a reply that waits: the answers of the journal, in the order in which they came."""

    def __init__(self) -> None:
        self.answers: list[JournalError | None] = []
        self._changed = threading.Condition()

    def __call__(self, error: JournalError | None) -> None:
        with self._changed:
            self.answers.append(error)
            self._changed.notify_all()

    def wait(self, count: int = 1) -> list[JournalError | None]:
        """The answers, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= count, WAIT_SECONDS)
            return list(self.answers)


def write(journal: Journal, *effects: Effect) -> JournalError | None:
    """Have the effects of one exchange carried out, and wait for the word on them."""
    waiter = Waiter()
    journal.submit(effects, waiter)
    return waiter.wait()[0]


def appended(record: bytes, *, gate: bool = True) -> Append:
    """The effect that has this record written."""
    typed = of_fields(json.loads(record))
    assert not isinstance(typed, Unknown)
    return Append(typed, gate)


def append(journal: Journal, *lines: bytes) -> None:
    """Write records one after the other; each must succeed."""
    for line in lines:
        assert write(journal, appended(line)) is None


@contextmanager
def journal(directory: Path, *, boot_id: str = "b1", worker: int = 0, **settings: Any) -> Iterator[Journal]:
    """A started journal, closed at the end."""
    started = Journal(
        directory, worker=worker, boot_id=boot_id, **({"free_space_floor_bytes": 0, "retry_seconds": 0.01} | settings)
    )
    started.start()
    try:
        yield started
    finally:
        started.close(WAIT_SECONDS)


def at_rest(journal: Journal) -> None:
    """Wait until the writer has ended what comes after an acknowledgement: a rotation that was due. The next batch has
    its turn only then."""
    journal._wait_for([])


def abandon(journal: Journal) -> None:
    """Leave the segment as a killed process leaves it: not closed, not locked. The journal is of no use after this."""
    journal._closed = True
    journal._spooler.close(WAIT_SECONDS)
    at_rest(journal)
    series = journal._series
    segment, series._segment = series._segment, None
    if segment is not None:
        os.close(segment._fd)
    series.flight.open_exchanges.clear()
    journal._queue.put(None)
    journal._thread.join(WAIT_SECONDS)


def segments(directory: Path) -> list[str]:
    """The names in `segments`, sorted."""
    return sorted(path.name for path in (directory / "segments").iterdir())


def records(directory: Path, *, type: str | None = None) -> list[dict[str, Any]]:
    """All good records of all segments in order, or those of one type."""
    found: list[dict[str, Any]] = []
    for series in lines.series(directory):
        for name in series.names:
            with suppress(FileNotFoundError):  # made and removed again by a writer that tries
                found += [line.record for line in lines.read_lines(directory, name) if line.damage is None]
    return [record for record in found if type is None or record["type"] == type]


def ids(records: Sequence[dict[str, Any]]) -> list[str]:
    """The ids of records that have one."""
    return [record["id"] for record in records if "id" in record]


class Faults:
    """System calls that fail on purpose. `calls` holds the names of those that were made, of the ones watched."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._patch = patch
        self._rules: dict[str, Callable[[int], OSError | None]] = {}
        self._counts: dict[str, int] = {}

    def fail(self, name: str, *, error: int = errno.EIO, first: int = 1, times: int | None = None) -> None:
        """Let `os.<name>` fail from its `first` call on, so many times or for ever."""
        last = None if times is None else first + times - 1

        def rule(count: int) -> OSError | None:
            if count >= first and (last is None or count <= last):
                return OSError(error, os.strerror(error))
            return None

        self._watch(name)
        self._counts[name] = 0
        self._rules[name] = rule

    def reached(self, name: str) -> int:
        """How many calls there were since `fail` was called for it."""
        return self._counts[name]

    def heal(self) -> None:
        """Nothing fails any more."""
        self._rules.clear()

    def _watch(self, name: str) -> None:
        if name in self._counts:
            return
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._counts[name] += 1
            self.calls.append(name)
            rule = self._rules.get(name)
            error = rule(self._counts[name]) if rule is not None else None
            if error is not None:
                raise error
            return real(*args, **kwargs)

        self._patch.setattr(os, name, call)


class Trace:
    """The calls that bring things to disk or take them away, in their order: `sync NAME`, `rename OLD NEW`, ...

    Writes through Python's own files are not among them.
    """

    _CALLS: Final = ("write", "fsync", "fdatasync", "ftruncate", "rename", "unlink")

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for name in self._CALLS:
            patch.setattr(os, name, self._traced(name, getattr(os, name)))

    def _traced(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *rest: Any, **more: Any) -> Any:
            files = [_file_name(target)] + ([_file_name(rest[0])] if name == "rename" else [])
            self.calls.append(" ".join(["sync" if "sync" in name else name, *files]))
            return real(target, *rest, **more)

        return call


def _file_name(target: int | str | Path) -> str:
    return (Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target)).name
