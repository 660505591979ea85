"""What is in flight now, on which backend, and for how long it has been silent.

From the journal of the workers that live, and from their tables (`journal/live.py`), which know an exchange before its
first record, and how far it has come since.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import structs

from extproc.core.records import Progress
from extproc.core.times import timestamp
from extproc.history import filters, reader
from extproc.history.answers import Answers
from extproc.history.join import Exchange, Parts
from extproc.history.live_tables import LiveTables
from extproc.journal import lines, segment
from extproc.journal.directory import SEGMENTS
from extproc.journal.live import LiveExchange

SILENT_MS: Final = 5000
"""A stream without a chunk for so long is called silent."""


def live_series(directories: Sequence[Path]) -> set[tuple[Path, int, str]]:
    """The series that a worker is writing: directory, worker, boot."""
    return {
        (directory, series.worker, series.boot_id)
        for directory in directories
        for series in lines.series(directory)
        for name in series.names
        if name.state == segment.OPEN and segment.is_live(directory / SEGMENTS / str(name))
    }


class Running(Exchange, frozen=True, dict=True, gc=True, kw_only=True):
    """One in flight, and how it stands: numbers are null where nothing has come, or nothing is known."""

    model: str | None
    state: str
    """`waiting`, `streaming` or `silent`."""
    request_bytes: int | None
    response_bytes: int | None
    response_chunks: int | None
    first_token_ms: float | None
    last_chunk_at: str | None
    silent_ms: float


def exchanges(directories: Sequence[Path], asked: Answers) -> Iterator[Running]:
    """What has not ended, of the workers that live; oldest first."""
    writing = live_series(directories)
    tables = asked.tables
    found = {each.id: each for each in asked.in_flight() if _of(each) in writing}
    for directory in directories:
        for seen in tables.of(directory).values():
            if (directory, seen.worker, seen.boot_id) in writing and seen.id not in found:
                found[seen.id] = _unrecorded(directory, seen, tables)
    now_ns = time.time_ns()
    for exchange in sorted(found.values(), key=lambda exchange: exchange.started_at):
        yield running(exchange, now_ns)


def running(exchange: Exchange, now_ns: int) -> Running:
    """An exchange in flight with how it stands at a moment."""
    progress = exchange.progress or Progress()
    silent_ms = _since(progress.last_chunk_at or exchange.started_at, now_ns)
    waiting = not progress.response_chunks
    made = Running(
        **structs.asdict(exchange),
        model=filters.model(exchange) or None,
        state="waiting" if waiting else "silent" if silent_ms >= SILENT_MS else "streaming",
        request_bytes=progress.request_bytes,
        response_bytes=progress.response_bytes,
        response_chunks=progress.response_chunks,
        first_token_ms=progress.first_token_ms,
        last_chunk_at=progress.last_chunk_at,
        silent_ms=silent_ms,
    )
    return made.read_from(exchange.directory, exchange.records, exchange.positions)


def _of(exchange: Exchange) -> tuple[Path, int, str]:
    return exchange.directory, exchange.worker or 0, exchange.boot_id or ""


def _unrecorded(directory: Path, seen: LiveExchange, tables: LiveTables) -> Exchange:
    return reader.unfinished(Parts(seen.id, directory), tables).with_fields(
        started_at=timestamp(seen.started_ns),
        method=seen.method,
        path=seen.path,
        worker=seen.worker,
        boot_id=seen.boot_id,
    )


def _since(at: str, now_ns: int) -> float:
    then = datetime.fromisoformat(at)
    return max(0.0, round(now_ns / 1e6 - then.timestamp() * 1000, 3))
