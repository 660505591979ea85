"""The journal as the recorder sees it: effects go in, and `done` is called when they are durable.

    threads of the server           spool workers (4)                the writer thread
    ---------------------           -----------------                -----------------
    submit --+-- bytes of a body --> queue each --> bodies/*
             |                          | records of that exchange
             |                          v
             +-- records -----------> [queue] --> a batch: all that is there
                                                     |
                                            SeriesWriter.write     one write, one sync (`series.py`)
                                              |           |
                                           durable     cannot be written
                                              |           |
                                         done(None)   done(error), Outage keeps what is to be noted (`outage.py`)
    gap ---- count ------------------------------------> Outage, written with the next batch that can be

One thread writes. It takes everything that has been submitted, writes it with one call, syncs once, calls the
`done` of each, and takes what arrived meanwhile: group commit. `done` is called exactly once, in this thread or in
one of the spool's, with None or with the JournalError that says why not.

A record is lost only together with its acknowledgement. When records can be written neither to the open segment nor
to a new one, or the file system is below its floor, everyone who waits gets the error and `failure` is set. From then
on submits fail at once, without touching the disk; once a second the journal tries again, and service resumes when it
can. What went unrecorded meanwhile is then noted. Whoever waits for a terminal record that was kept is told
`Postponed`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Literal

from extproc.core.effects import Append, Effect
from extproc.core.events import Direction
from extproc.core.records import Open
from extproc.core.times import timestamp
from extproc.errors import JournalError, Postponed
from extproc.journal.directory import DataDirectory, FreeSpace, lacks_room
from extproc.journal.outage import Outage
from extproc.journal.series import SeriesWriter, reason_of
from extproc.journal.spool import Done, Entry, Item, Spooler
from extproc.journal.timing import Times

Durability = Literal["fsync", "write", "off"]

_log = logging.getLogger(__name__)

_BATCH_ITEMS: Final = 256
_IDLE_SECONDS: Final = 5.0
_STRAGGLER_SECONDS: Final = 0.05


class Journal:
    """One worker's series of segments. `submit` and `gap` may be called from any thread.

    `boot_id` must be new for each process: it names the series. `durability`: `fsync` survives a power cut, `write`
    a killed process; `off` answers before it writes, for measuring only. `recover` closes what a predecessor left open,
    before the first segment is begun; it raises JournalError where the disk does not let it. A segment with records is
    closed when it is `segment_seconds` old; 0: whatever its age. `retry_seconds`: how long
    a disk that has failed is left alone; `look_seconds`: how often the open segment is looked for in its place.
    """

    def __init__(
        self,
        directory: Path,
        *,
        worker: int,
        boot_id: str,
        durability: Durability = "fsync",
        segment_bytes: int = 64 * 1024 * 1024,
        segment_seconds: float = 0.0,
        free_space_floor_bytes: int | None = None,
        clock: Callable[[], int] = time.time_ns,
        recover: Callable[[], object] = lambda: None,
        retry_seconds: float = 1.0,
        look_seconds: float = 0.5,
    ) -> None:
        self._path = directory
        self._sync = durability == "fsync"
        self._answer_first = durability == "off"
        self._floor = free_space_floor_bytes
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._series = SeriesWriter(
            directory,
            worker,
            boot_id,
            sync=self._sync,
            segment_bytes=segment_bytes,
            segment_seconds=segment_seconds,
            clock=clock,
            recover=recover,
            retry_seconds=retry_seconds,
            look_seconds=look_seconds,
        )
        self._outage = Outage(directory, self._series.flight, retry_seconds)
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._closing = False
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)

    # -- for the recorder -----------------------------------------------------------------------------------------

    @property
    def failure(self) -> JournalError | None:
        """Why the journal cannot be written at this moment; None while it can."""
        return self._outage.failure

    @property
    def sync_times(self) -> Times:
        """How long the syncs of segments took."""
        return self._series.sync_times

    @property
    def queue_depth(self) -> int:
        """What waits for the writer's thread."""
        return self._queue.qsize()

    @property
    def busy_seconds(self) -> float:
        """How long the disk has been at the same work: a batch of records, or what was spooled. 0 while it rests."""
        since = [at for at in (self._busy_since, *self._spooler.busy_since()) if at is not None]
        return time.monotonic() - min(since) if since else 0.0

    def start(self, *, patient: bool = False) -> None:
        """Open the first segment and start the threads. Raises JournalError when the journal cannot be written.

        Not for lack of room: then it starts with `failure` set, and goes on by itself when there is room. `patient`: so
        it does whatever the disk has against it.
        """
        self._directory = DataDirectory(self._path)
        try:
            self._series.begin(self._directory, FreeSpace(self._directory.segments, self._floor))
        except (OSError, JournalError) as error:
            failure = JournalError(f"{self._path}: cannot open a segment: {reason_of(error)}")
            if not patient and not lacks_room(error):
                self._directory.close()
                raise (failure if isinstance(error, OSError) else error) from error
            self._outage.begin(reason_of(error))
        self._spooler = Spooler(
            self._directory.bodies,
            sync=self._sync,
            space=FreeSpace(self._directory.bodies, self._floor),
            forward=self._queue.put,
            begin=self._begin_body,
        )
        self._spooler.start()
        self._thread.start()

    def submit(self, effects: Sequence[Effect], done: Done | None) -> None:
        """Carry out the effects of one exchange, in order, and call `done`. Never blocks, never raises."""
        if len(effects) == 1 and not self._spooler.busy and not self._closed:
            effect = effects[0]
            if type(effect) is Append:
                self._queue.put((Entry.of(effect.record), done, None))
                return
        self._submit_any(effects, done)

    def gap(self, direction: Direction, why: str, at_ns: int) -> None:
        """Count something that passed without a record, at this time of the wall clock."""
        self._outage.count_gap((direction, why), at_ns, at_ns, 1)
        if self.failure is None:
            self._queue.put(([], None, None))

    def close(self, timeout: float) -> None:
        """Write what was submitted, finish the segment, stop the threads; give up after `timeout` seconds."""
        if self._closed:
            return
        until = time.monotonic() + timeout
        self._closed = True
        self._spooler.close(timeout)
        self._queue.put(None)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._outage.failure = JournalError(f"{self._path}: the journal could not be closed within {timeout:g} s")
        else:
            self._directory.close()

    def _submit_any(self, effects: Sequence[Effect], done: Done | None) -> None:
        if self._closed:
            _tell(done, self.failure or JournalError(f"{self._path}: the journal is closed"))
        elif not self._spooler.take(effects, done):
            self._queue.put(([Entry.of(effect.record) for effect in effects if isinstance(effect, Append)], done, None))

    def _begin_body(self, id: str) -> JournalError | None:
        """A body file is about to be made: wait until the journal holds a record of its exchange.

        So a body file is never without a record of its exchange, wherever a crash falls.
        """
        error = self._wait_for([])
        if error is None and id not in self._series.flight.open_exchanges:
            error = self._wait_for(Entry.of(Open(id=id, at=timestamp(self._clock()))))
        return error

    def _wait_for(self, records: Entry | list[Entry]) -> JournalError | None:
        answer: SimpleQueue[JournalError | None] = SimpleQueue()
        self._queue.put((records, answer.put, None))
        return answer.get()

    # -- the writer thread: batches -------------------------------------------------------------------------------

    def _run(self) -> None:
        batch: list[Item] = []
        try:
            while not self._closing:
                self._busy_since = None
                batch = self._take()
                self._busy_since = time.monotonic()
                self._carry_out(batch)
            self._finish()
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody may be left waiting
            _log.critical("the journal's writer thread has died", exc_info=error)
            self._die(JournalError(f"{self._path}: the writer thread has died: {error!r}"), batch)

    def _take(self) -> list[Item]:
        """Wait for the next batch: everything that is there. Empty after a while without any."""
        queue = self._queue
        try:
            items = [queue.get(timeout=_IDLE_SECONDS if self.failure is None else self._retry_seconds)]
        except Empty:
            return []
        waiting = queue.qsize()
        if waiting:
            items += [queue.get() for _ in range(min(waiting, _BATCH_ITEMS))]
        if None in items:
            self._closing = True
        return [item for item in items if item is not None] if self._closing else items  # type: ignore[return-value]

    def _carry_out(self, batch: list[Item]) -> None:
        """Write a batch and tell everyone who waits; the batch is empty afterwards."""
        failure = self._outage.failure
        if failure is not None and self._outage.pauses:
            self._refuse(batch, failure)
            return
        if self._answer_first:
            batch[:] = [_answered(item) for item in batch]
        try:
            error = self._write(_records(batch))
        except Exception as problem:  # noqa: BLE001 - not the disk, so something in the batch
            self._isolate(batch, problem)
            return
        if error is not None:
            self._refuse(batch, error)
        else:
            self._settle(batch)
            self._write_pending()
            self._series.rotate_if_due()

    def _settle(self, batch: list[Item]) -> None:
        note = self._series.flight.take
        for written, done, spool_error in batch:
            if spool_error is not None:
                self._refuse([(written, done, spool_error)], spool_error)
                continue
            if isinstance(written, Entry):
                note(written.record)
            else:
                for entry in written:
                    note(entry.record)
            if done is not None:
                _tell(done, None)
        batch.clear()

    def _refuse(self, batch: list[Item], error: JournalError) -> None:
        for written, done, spool_error in batch:
            records = [written] if isinstance(written, Entry) else written
            kept = self._outage.keep(records, keep_file=spool_error is None)
            why = spool_error or error
            _tell(done, Postponed(str(why)) if kept else why)
        batch.clear()

    def _isolate(self, batch: list[Item], problem: Exception) -> None:
        """Something in a batch cannot be written at all: the others are not to suffer for it."""
        if len(batch) == 1:
            first = next(iter(_records(batch)), None)
            id = getattr(first.record, "id", None) if first is not None else None
            _log.error("a record cannot be written", exc_info=problem, extra={"exchange_id": id or ""})
            self._refuse(batch, JournalError(f"{self._path}: the record cannot be written: {problem!r}"))
        for item in batch:
            self._carry_out([item])
        batch.clear()

    def _die(self, error: JournalError, batch: list[Item]) -> None:
        self._outage.failure = error
        self._closed = True
        self._series.set_aside()
        self._refuse(batch, error)
        while (item := self._queue.get()) is not None:
            self._refuse([item], error)

    def _refuse_stragglers(self, error: JournalError) -> None:
        """Whoever passed the check for `_closed` just before it was set has submitted by now."""
        with suppress(Empty):
            while True:
                item = self._queue.get(timeout=_STRAGGLER_SECONDS)
                if item is not None:
                    self._refuse([item], error)

    # -- the writer thread: the disk --------------------------------------------------------------------------------

    def _write(self, entries: list[Entry]) -> JournalError | None:
        """Make these records durable; without any, see whether the journal can be written again."""
        if not entries and self.failure is None:
            return None
        why = self._series.write(entries)
        if why is not None:
            return self._outage.begin(why)
        self._outage.end()
        return None

    def _write_pending(self) -> None:
        """Write what should have been written while the journal could not be."""
        if not self._outage.is_pending:
            return
        pending = self._outage.take()
        if self._write(pending.entries(self._clock())) is None:
            for entry in pending.terminal.values():
                self._series.flight.take(entry.record)
        else:
            self._outage.give_back(pending)

    def _finish(self) -> None:
        """The journal is closed."""
        self._refuse_stragglers(JournalError(f"{self._path}: the journal is closed"))
        if self._outage.is_pending:
            self._carry_out([])
            self._write_pending()
        self._series.finish()


def _records(batch: list[Item]) -> list[Entry]:
    records: list[Entry] = []
    for written, _, spool_error in batch:
        if spool_error is not None:
            continue
        if isinstance(written, Entry):
            records.append(written)
        else:
            records += written
    return records


def _tell(done: Done | None, error: JournalError | None) -> None:
    if done is not None:
        try:
            done(error)
        except Exception:  # noqa: BLE001 - the others still have to be told
            _log.exception("a waiting reply could not be sent")


def _answered(item: Item) -> Item:
    written, done, error = item
    _tell(done, error)
    return written, None, error
