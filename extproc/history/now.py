"""What is in flight now, on which backend, and for how long it has been silent.

From the journal of the workers that live, and from their tables (`journal/live.py`), which know an exchange before its
first record, and how far it has come since.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from extproc.core.record import timestamp
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


def exchanges(directories: Sequence[Path], asked: Answers) -> Iterator[Exchange]:
    """What has not ended, of the workers that live; oldest first. Each with the fields of `state` besides its own."""
    writing = live_series(directories)
    tables = asked.tables
    found = {each["id"]: each for each in asked.in_flight() if _of(each) in writing}
    for directory in directories:
        for seen in tables.of(directory).values():
            if (directory, seen.worker, seen.boot_id) in writing and seen.id not in found:
                found[seen.id] = _unrecorded(directory, seen, tables)
    now_ns = time.time_ns()
    for exchange in sorted(found.values(), key=lambda exchange: str(exchange["started_at"])):
        exchange.update(state(exchange, now_ns))
        yield exchange


def state(exchange: Mapping[str, Any], now_ns: int) -> dict[str, Any]:
    """How an exchange in flight stands: `state` is `waiting`, `streaming` or `silent`; the rest is numbers, and null
    where nothing has come, or nothing is known."""
    progress = exchange.get("progress") or {}
    last = progress.get("last_chunk_at")
    silent_ms = _since(last or str(exchange["started_at"]), now_ns)
    streaming = bool(progress.get("response_chunks"))
    return {
        "model": filters.model(exchange) or None,
        "state": "waiting" if not streaming else "silent" if silent_ms >= SILENT_MS else "streaming",
        "request_bytes": progress.get("request_bytes"),
        "response_bytes": progress.get("response_bytes"),
        "response_chunks": progress.get("response_chunks"),
        "first_token_ms": progress.get("first_token_ms"),
        "last_chunk_at": last,
        "silent_ms": silent_ms,
    }


def _of(exchange: Exchange) -> tuple[Path, int, str]:
    return exchange.directory, exchange["worker"], exchange["boot_id"]


def _unrecorded(directory: Path, seen: LiveExchange, tables: LiveTables) -> Exchange:
    exchange = reader.unfinished(Parts(seen.id, directory), tables)
    exchange.update(
        started_at=timestamp(seen.started_ns),
        method=seen.method,
        path=seen.path,
        worker=seen.worker,
        boot_id=seen.boot_id,
    )
    return exchange


def _since(at: str, now_ns: int) -> float:
    then = datetime.fromisoformat(at)
    return max(0.0, round(now_ns / 1e6 - then.timestamp() * 1000, 3))
