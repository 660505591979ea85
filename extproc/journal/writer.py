"""The journal as the recorder sees it: effects go in, and `done` is called when they are durable.

One thread writes. It takes everything that has been submitted, writes it with one call, syncs once, calls the
`done` of each, and takes what arrived meanwhile: group commit. `done` is called exactly once, in this thread or in
one of the spool's, with None or with the JournalError that says why not.

A record is lost only together with its acknowledgement. A write or sync that fails is never tried again on the same
file: the segment is set aside and the batch is written to a new one. When that fails too, or the file system is
below its floor, everyone who waits gets the error and `failure` is set. From then on submits fail at once, without
touching the disk; once a second the journal tries again, and service resumes when it can. What went unrecorded
meanwhile is then noted: one `gap` record for each direction and reason, and the terminal records of exchanges whose
beginning is on disk, without their bodies. Whoever waits for one of those is told `Postponed`.
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
from extproc.core.llm import at_least, without_body
from extproc.core.record import LONGEST, LONGEST_LINE, seal, timestamp
from extproc.core.records import End, Gap, Open, Response, encode
from extproc.errors import JournalError, Postponed
from extproc.journal import segment as segments
from extproc.journal.directory import DataDirectory, FreeSpace, lacks_room, reason
from extproc.journal.flight import Flight
from extproc.journal.segment import Name, Segment
from extproc.journal.spool import Done, Entry, Item, Spooler
from extproc.journal.timing import Times

Durability = Literal["fsync", "write", "off"]

_log = logging.getLogger(__name__)

_BATCH_ITEMS: Final = 256
_IDLE_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.5
_STRAGGLER_SECONDS: Final = 0.05
_DAY: Final = 86_400_000_000_000
_OWED_RECORDS: Final = 10_000


class Journal:
    """One worker's series of segments. `submit` and `gap` may be called from any thread.

    `boot_id` must be new for each process: it names the series. `durability`: `fsync` survives a power cut, `write`
    a killed process; `off` answers before it writes, for measuring only. `recover` closes what a predecessor left open,
    before the first segment is begun; it raises JournalError where the disk does not let it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        worker: int,
        boot_id: str,
        durability: Durability = "fsync",
        segment_bytes: int = 64 * 1024 * 1024,
        free_space_floor_bytes: int | None = None,
        clock: Callable[[], int] = time.time_ns,
        recover: Callable[[], object] = lambda: None,
    ) -> None:
        if not segments.BOOT_ID.fullmatch(boot_id):
            raise ValueError(f"a boot id is letters, digits and hyphens: {boot_id!r}")
        self.failure: JournalError | None = None
        """Why the journal cannot be written at this moment; None while it can."""
        self.sync_times = Times()
        self._path = directory
        self._worker = worker
        self._boot_id = boot_id
        self._sync = durability == "fsync"
        self._answer_first = durability == "off"
        self._segment_bytes = segment_bytes
        self._floor = free_space_floor_bytes
        self._clock = clock
        self._recover: Callable[[], object] | None = recover
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._flight = Flight()
        self._gaps: dict[tuple[Direction, str], list[int]] = {}
        self._gaps_lock = threading.Lock()
        self._owed: dict[str, Entry] = {}
        self._segment: Segment | None = None
        self._number = 0
        self._seq = 0
        self._day = 0
        self._latest = 0
        """The latest time at which something was written to the segment."""
        self._retry_at = 0.0
        self._look_at = 0.0
        self._closing = False
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)

    # -- for the recorder -----------------------------------------------------------------------------------------

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
        self._space = FreeSpace(self._directory.segments, self._floor)
        try:
            self._segment = self._begin_segment()
        except (OSError, JournalError) as error:
            failure = JournalError(f"{self._path}: cannot open a segment: {_reason(error)}")
            if not patient and not lacks_room(error):
                self._directory.close()
                raise (failure if isinstance(error, OSError) else error) from error
            self._fail(_reason(error))
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
        self._count_gap((direction, why), at_ns, at_ns, 1)
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
            self.failure = JournalError(f"{self._path}: the journal could not be closed within {timeout:g} s")
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
        if error is None and id not in self._flight.had:
            error = self._wait_for(Entry.of(Open(id=id, at=self._now())))
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
            items = [queue.get(timeout=_IDLE_SECONDS if self.failure is None else _RETRY_SECONDS)]
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
        if self.failure is not None and time.monotonic() < self._retry_at:
            self._refuse(batch, self.failure)
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
            self._keep_house()

    def _settle(self, batch: list[Item]) -> None:
        note = self._flight.take
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
            kept = self._owe(records, keep_file=spool_error is None)
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
        self.failure = error
        self._closed = True
        self._set_aside()
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

    # -- the writer thread: files ---------------------------------------------------------------------------------

    def _write(self, records: list[Entry]) -> JournalError | None:
        """Make these records durable, in the open segment or else in a new one."""
        if not records and self.failure is None:
            return None
        shortage = self._space.shortage()
        if shortage is not None:
            return self._fail(shortage)
        why = ""
        for _ in range(1 if self._segment is None else 2):
            try:
                if self._segment is None:
                    self._segment = self._begin_segment()
                self._commit(self._segment, records)
            except (OSError, JournalError) as error:
                why = _reason(error)
                self._set_aside()
            else:
                self._resume()
                return None
        return self._fail(why)

    def _commit(self, segment: Segment, records: list[Entry]) -> None:
        if not records:
            return
        worker, boot_id = self._worker, self._boot_id
        sealed = [seal(entry.line, worker, boot_id, seq) for seq, entry in enumerate(records, self._seq + 1)]
        data = b"".join(sealed)
        if data.count(b"\n") != len(records) or not data.isascii():
            raise ValueError("a record is not one line of ASCII")
        if len(data) > LONGEST_LINE and (longest := max(map(len, sealed))) > LONGEST_LINE:
            raise ValueError(f"a record of {longest} bytes is longer than any may be ({LONGEST_LINE} bytes)")
        segment.append(data)
        if self._sync:
            began = time.perf_counter()
            segment.sync()
            self.sync_times.observe(time.perf_counter() - began)
        segment.acknowledge(len(records))
        self._seq += len(records)

    def _begin_segment(self) -> Segment:
        """The next segment, and before the very first one the end of what a predecessor left open."""
        if self._recover is not None:
            self._recover()
            self._recover = None
        return self._open_segment()

    def _open_segment(self) -> Segment:
        """The next segment of the series; one number before its own is left for the footer of the last."""
        now, first = self._clock(), self._seq + 2 if self._seq else 1
        header = segments.header(timestamp(now), self._flight.snapshot())
        line = seal(encode(header), self._worker, self._boot_id, first)
        name = Name(self._worker, self._boot_id, self._number + 1, segments.OPEN)
        try:
            segment = Segment.create(self._directory.segments, name, line, sync=self._sync)
        except FileExistsError:
            raise
        except OSError:
            if self._directory.has_segment(str(name)):
                self._number = name.number  # it could not even be removed again: its name is used up
            raise
        self._number, self._seq, self._day, self._latest = name.number, first, now // _DAY, now
        return segment

    def _keep_house(self) -> None:
        if self._gaps or self._owed:
            self._report()
        segment = self._segment
        if segment is not None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._look_after(segment)
            segment = self._segment
        if segment is None or segment.lines == 1:
            return  # a segment without records is not worth ending
        now = self._clock()
        self._latest = max(self._latest, now)
        if segment.size >= self._segment_bytes or now // _DAY != self._day:
            self._rotate(segment)

    def _look_after(self, segment: Segment) -> None:
        """What another program has taken out of its place is not written on: the next batch begins a new one."""
        with suppress(OSError):
            if segment.is_in_place():
                return
        _log.error(
            "%s has been renamed, removed or cut by another program; keep logrotate and the like away from %s",
            segment.name,
            self._path / "segments",
        )
        self._set_aside()

    def _rotate(self, old: Segment) -> None:
        """Begin the next segment, then end the old one, which stays `.open` for recovery when that fails."""
        if time.monotonic() < self._retry_at:
            return
        footer, latest = self._seq + 1, self._latest
        try:
            self._segment = self._open_segment()
        except OSError as error:
            _log.warning("the next segment cannot be opened yet: %s", reason(error))
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return
        self._end(old, footer, latest)

    def _end(self, segment: Segment, seq: int, latest: int) -> None:
        end = End(at=self._now(), records=segment.lines, recovered=False)
        try:
            footer = seal(encode(end), self._worker, self._boot_id, seq)
            segment.close(footer, sync=self._sync, latest_ns=latest)
        except OSError as error:
            _log.warning("%s is left to recovery: %s", segment.name, reason(error))
            segment.set_aside()

    def _finish(self) -> None:
        """The journal is closed. With an exchange still in flight the segment stays open: recovery ends both."""
        error = JournalError(f"{self._path}: the journal is closed")
        self._refuse_stragglers(error)
        if self._gaps or self._owed:
            self._carry_out([])
            self._report()
        segment = self._segment
        if segment is None:
            return
        if self._flight.had:
            segment.set_aside()
        else:
            self._end(segment, self._seq + 1, self._latest)

    def _set_aside(self) -> None:
        if self._segment is not None:
            self._segment.set_aside()
            self._segment = None

    # -- the writer thread: when it cannot be written ---------------------------------------------------------------

    def _fail(self, why: str) -> JournalError:
        error = JournalError(f"{self._path / 'segments'}: the journal cannot be written: {why}")
        if self.failure is None:
            _log.error("%s", error)
        self.failure = error
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        return error

    def _resume(self) -> None:
        if self.failure is not None:
            self.failure = None
            _log.warning("%s: the journal can be written again", self._path / "segments")

    def _owe(self, records: Sequence[Entry], *, keep_file: bool) -> bool:
        """Keep what is needed to end an exchange whose beginning is on disk and whose end could not be written.

        Returns whether there was any.
        """
        kept = False
        for record, _ in records:
            if isinstance(record, Response) and record.id in self._flight.had and len(self._owed) < _OWED_RECORDS:
                entry = Entry.of(without_body(record, keep_file=keep_file))
                self._owed[record.id] = entry if len(entry.line) <= LONGEST else Entry.of(at_least(record))
                kept = True
        return kept

    def _report(self) -> None:
        """Write what is owed and what was counted while the journal could not be written."""
        with self._gaps_lock:
            gaps, self._gaps = self._gaps, {}
        # One that its owner has submitted again in the meantime has ended, and is owed no more.
        owed, self._owed = {id: entry for id, entry in self._owed.items() if id in self._flight.had}, {}
        if self._write([*owed.values(), *(self._gap_record(*key, *gap) for key, gap in gaps.items())]) is None:
            for entry in owed.values():
                self._flight.take(entry.record)
            return
        self._owed = owed
        for key, gap in gaps.items():
            self._count_gap(key, *gap)

    def _count_gap(self, key: tuple[Direction, str], first: int, last: int, count: int) -> None:
        with self._gaps_lock:
            gap = self._gaps.setdefault(key, [first, last, 0])
            gap[:] = min(gap[0], first), max(gap[1], last), gap[2] + count

    def _gap_record(self, direction: Direction, why: str, first: int, last: int, count: int) -> Entry:
        begun, ended = timestamp(first), timestamp(last)
        gap = Gap(at=self._now(), from_=begun, to=ended, count=count, direction=direction.value, why=why)
        return Entry.of(gap)

    def _now(self) -> str:
        return timestamp(self._clock())


def _reason(error: OSError | JournalError) -> str:
    return reason(error) if isinstance(error, OSError) else str(error)


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
