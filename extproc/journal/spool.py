"""Bodies too large for a record: one file for each, `bodies/<id>.<direction>`, written as the bytes arrive.

The spool has its own threads and its own syncs, so that a large body never holds up the records of others. All
effects of one exchange go through the same thread, in order: its records are handed to the writer only
after the bytes before them are where they belong.

    Spool      the bytes are with the system when `done` is called; not synced
    SpoolEnd   the file and its directory entry are synced, with `durability: fsync`, before the record that follows
    Append     goes on to the writer's queue

When a write fails, that exchange gets the error, now and for whatever else it spools: a body has no holes. The file
stays as it is, and no other exchange notices.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, NamedTuple, Self

from extproc import fs
from extproc.core.effects import Append, Effect, Spool, SpoolEnd
from extproc.core.records import Known, encode
from extproc.errors import JournalError
from extproc.journal.directory import BODIES, FreeSpace, exchange_of, reason

Done = Callable[[JournalError | None], None]


class Entry(NamedTuple):
    """A record and its line, unsealed."""

    record: Known
    line: bytes

    @classmethod
    def of(cls, record: Known) -> Self:
        """What a record says never makes this raise; what no record can hold does."""
        return cls(record, encode(record))


Item = tuple[Entry | list[Entry], Done | None, JournalError | None]
"""What the writer takes: records of one exchange, who waits for them, and the error of the spool, if any."""

_log = logging.getLogger(__name__)

_THREADS: Final = 4
_OPEN_FILES: Final = 64
"""Files that a thread keeps open. Beyond that the one that was idle longest is closed, and opened again when needed."""


@dataclass(slots=True)
class _File:
    error: JournalError | None


class Spooler:
    """Takes over what must not overtake, or be overtaken by, the bytes of a body.

    `begin` is called before an exchange's first body file is made; `forward` hands records on to the writer.
    """

    def __init__(
        self,
        bodies: int,
        *,
        sync: bool,
        space: FreeSpace,
        forward: Callable[[Item], None],
        begin: Callable[[str], JournalError | None],
    ) -> None:
        self.busy = False
        """Some exchange has effects here that were not carried out yet."""
        self._pending: dict[str, int] = {}
        self._lock = threading.Lock()
        self._threads = [
            _SpoolThread(self._settle, bodies, sync=sync, space=space, forward=forward, begin=begin)
            for _ in range(_THREADS)
        ]

    def start(self) -> None:
        """Start the threads."""
        for each in self._threads:
            each.thread.start()

    def busy_since(self) -> list[float | None]:
        """Since when each thread has been at the same work, on the monotonic clock; None where it has none."""
        return [each.busy_since for each in self._threads]

    def take(self, effects: Sequence[Effect], done: Done | None) -> bool:
        """Take these effects of one exchange over, unless they are records that need not wait for any bytes."""
        spooled = next((effect.id for effect in effects if not isinstance(effect, Append)), None)
        with self._lock:
            id = spooled or _id(effects)
            if spooled is None and id not in self._pending:
                return False
            self._pending[id] = self._pending.get(id, 0) + 1
            self.busy = True
            self._threads[hash(id) % _THREADS].queue.put((id, effects, done))
        return True

    def _settle(self, id: str) -> None:
        with self._lock:
            self._pending[id] -= 1
            if not self._pending[id]:
                del self._pending[id]
                self.busy = bool(self._pending)

    def close(self, timeout: float) -> None:
        """Carry out what was taken over and stop."""
        for each in self._threads:
            each.queue.put(None)
        for each in self._threads:
            each.thread.join(timeout)


class _SpoolThread:
    """One thread and the files of its exchanges."""

    def __init__(
        self,
        settle: Callable[[str], None],
        bodies: int,
        *,
        sync: bool,
        space: FreeSpace,
        forward: Callable[[Item], None],
        begin: Callable[[str], JournalError | None],
    ) -> None:
        self.queue: SimpleQueue[tuple[str, Sequence[Effect], Done | None] | None] = SimpleQueue()
        self.busy_since: float | None = None
        self.thread = threading.Thread(target=self._run, name="journal-spool", daemon=True)
        self._settle = settle
        self._bodies = bodies
        self._sync = sync
        self._space = space
        self._forward = forward
        self._begin = begin
        self._files: dict[str, _File] = {}
        self._open: dict[str, int] = {}

    def _run(self) -> None:
        while (item := self.queue.get()) is not None:
            id, effects, done = item
            self.busy_since = time.monotonic()
            try:
                self._carry_out(effects, done)
            except Exception as error:  # noqa: BLE001 - the thread goes on for all other exchanges
                _log.exception("a body could not be spooled", extra={"exchange_id": id})
                records = [Entry(effect.record, b"") for effect in effects if isinstance(effect, Append)]
                self._forward((records, done, JournalError(f"{BODIES}/{id}: {error!r}")))
            self._settle(id)
            self.busy_since = None
        for name in list(self._open):
            self._close(name)

    def _carry_out(self, effects: Sequence[Effect], done: Done | None) -> None:
        error: JournalError | None = None
        records: list[Entry] = []
        for effect in effects:
            if isinstance(effect, Append):
                records.append(Entry.of(effect.record))
                continue
            if records:
                self._forward((records, None, None))
                records = []
            failed = self._append(effect) if isinstance(effect, Spool) else self._end(effect)
            error = error or failed
        if records:
            self._forward((records, done, error))
        else:
            _tell(done, error)

    def _append(self, effect: Spool) -> JournalError | None:
        name = f"{effect.id}.{effect.direction.value}"
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = _File(self._new(effect.id, name))
            create = os.O_CREAT | os.O_EXCL
        else:
            create = 0
        if file.error is None:
            file.error = self._write(name, b"".join(effect.data), create)
        return file.error

    def _new(self, id: str, name: str) -> JournalError | None:
        if exchange_of(name) is None:
            return JournalError(f"{BODIES}: {name!r} is no name of a body")
        return self._begin(id)

    def _write(self, name: str, data: bytes, create: int) -> JournalError | None:
        shortage = self._space.shortage()
        if shortage is not None:
            return JournalError(f"{BODIES}/{name}: {shortage}")
        try:
            fs.write_all(self._descriptor(name, create), data)
        except OSError as error:
            return JournalError(f"{BODIES}/{name}: {reason(error)}")
        return None

    def _end(self, effect: SpoolEnd) -> JournalError | None:
        name = f"{effect.id}.{effect.direction.value}"
        file = self._files.pop(name, None)
        if file is None:
            return None
        if file.error is None and self._sync:
            try:
                os.fdatasync(self._descriptor(name, 0))
                os.fsync(self._bodies)
            except OSError as error:
                file.error = JournalError(f"{BODIES}/{name}: {reason(error)}")
        self._close(name)
        return file.error

    def _descriptor(self, name: str, create: int) -> int:
        fd = self._open.pop(name, None)
        if fd is None:
            fd = os.open(name, fs.APPEND | create, 0o600, dir_fd=self._bodies)
            if len(self._open) >= _OPEN_FILES:
                self._close(next(iter(self._open)))
        self._open[name] = fd  # the one used last stands last
        return fd

    def _close(self, name: str) -> None:
        fd = self._open.pop(name, None)
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


def _id(effects: Sequence[Effect]) -> str:
    first = effects[0] if effects else None
    return getattr(first.record, "id", None) or "" if isinstance(first, Append) else ""


def _tell(done: Done | None, error: JournalError | None) -> None:
    if done is not None:
        done(error)
