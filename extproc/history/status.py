"""How the recorder is: what its files say of it, without asking any of its processes.

A worker that writes holds a lock on its segment, so that a reader can tell it from one that is gone. What the disk will
hold is reckoned from what was recorded in the last day.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from extproc.history import deaths, now
from extproc.history.answers import Answers
from extproc.history.join import Exchange
from extproc.journal import lines
from extproc.journal.directory import BODIES, SEGMENTS, space

_DAY_SECONDS: Final = 86_400.0


class Worker(msgspec.Struct, frozen=True):
    """One that writes now."""

    worker: int
    boot_id: str
    pid: int | None
    recording_since: str | None


class Status(msgspec.Struct, frozen=True):
    """Of one data directory. Times are RFC 3339 in UTC, sizes bytes; null where nothing is known."""

    data_dir: str
    recording: bool
    """There is a worker that writes."""
    workers: list[Worker]
    in_flight: dict[str, int]
    """Exchanges in flight by backend; those that none has answered are under the name of their cluster."""
    silent: int
    """Of them: streams that have been silent for more than five seconds."""
    used_bytes: int
    free_bytes: int
    """Of the file system, above the floor at which recording stops."""
    bytes_a_day: int | None
    """What the last day has added, after compression."""
    lasts_days: float | None
    """How long the room lasts at that rate, if nothing were deleted."""
    oldest_record_at: str | None
    follower_behind_bytes: int | None
    """How much of the journal the follower has not read; null where none has run."""
    follower_seen_at: str | None
    """When it last kept its position."""
    last_death_at: str | None
    index_behind_bytes: int | None = None
    """How much of the journal the index has not; null where there is none that can be used."""


def of(directory: Path, asked: Answers, floor_bytes: int | None, behind: int | None, seen_at: float | None) -> Status:
    """The status of a data directory. `floor_bytes` of the settings; `behind` and `seen_at` are the follower's.

    Raises OSError when the directory cannot be read.
    """
    workers = list(_workers(directory))
    running = list(now.exchanges([directory], asked))
    files = list(_files(directory))
    free, floor = space(directory, floor_bytes)
    room = max(0, free - floor)
    a_day = _bytes_a_day(files)
    died = deaths.last([directory])
    return Status(
        data_dir=str(directory),
        recording=bool(workers),
        workers=workers,
        in_flight=dict(Counter(_where(each) for each in running).most_common()),
        silent=sum(each.state == "silent" for each in running),
        used_bytes=sum(size for size, _ in files),
        free_bytes=room,
        bytes_a_day=a_day,
        lasts_days=None if not a_day else round(room / a_day, 1),
        oldest_record_at=_oldest(directory),
        follower_behind_bytes=behind,
        follower_seen_at=None if seen_at is None else _text(datetime.fromtimestamp(seen_at, UTC)),
        last_death_at=None if died is None else _text(died),
        index_behind_bytes=asked.index_behind_bytes(directory),
    )


def _workers(directory: Path) -> Iterator[Worker]:
    writing = {(worker, boot_id) for _, worker, boot_id in now.live_series([directory])}
    for series in lines.series(directory):
        if (series.worker, series.boot_id) in writing:
            first = lines.header(directory, series.names[0]) or {}
            last = lines.header(directory, series.names[-1]) or {}
            yield Worker(series.worker, series.boot_id, last.get("pid"), first.get("at"))


def _where(exchange: Exchange) -> str:
    return exchange.upstream or exchange.cluster or "-"


def _files(directory: Path) -> Iterator[tuple[int, float]]:
    """Size and time of each file of the journal."""
    for name in (SEGMENTS, BODIES):
        with contextlib.suppress(FileNotFoundError), os.scandir(directory / name) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield found.st_size, found.st_mtime


def _bytes_a_day(files: Sequence[tuple[int, float]]) -> int | None:
    """What was written in the last day; of a younger journal, at the rate that it has had so far."""
    current = time.time()
    recent = [(size, at) for size, at in files if at > current - _DAY_SECONDS]
    if not recent:
        return None
    span = _DAY_SECONDS if len(recent) < len(files) else max(60.0, current - min(at for _, at in recent))
    return round(sum(size for size, _ in recent) * _DAY_SECONDS / span)


def _oldest(directory: Path) -> str | None:
    heads = (lines.header(directory, series.names[0]) for series in lines.series(directory))
    return min((str(head["at"]) for head in heads if head is not None and "at" in head), default=None)


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
