"""What is in flight, while it is: a table in a memory-mapped file for each worker.

    table = LiveTable.create(directory, worker=0, boot_id="0193c0de")
    slot = table.take()                        # None when the table is full: the exchange is only counted
    slot.describe(exchange.progress(), started_ns, id, method, path, upstream, cluster)
    slot.advance(exchange.progress())          # a few stores, no system call
    slot.free()

    for exchange in read(directory): ...       # in another process, at any time, also after a kill -9

The file is `<data>/live/w<worker>-<boot>.table`: a head, then `SLOTS` slots of `SLOT_BYTES` each. Nothing in it is
synced: it is for who looks while the worker runs, and for recovery after the worker was killed, which takes from it how
far each exchange had come. A power cut may leave anything in it, so that a table from before a start of the machine is
not read.

A slot begins with a sequence number, which is odd while the slot is being written. A reader takes a slot whose number
is even, and the same before and after; it needs no lock, and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from extproc import fs
from extproc.core.records import Progress
from extproc.core.times import timestamp

LIVE: Final = "live"
SLOTS: Final = 4096
SLOT_BYTES: Final = 512
_SUFFIX: Final = ".table"
_NAME: Final = re.compile(r"w(\d{1,6})-([0-9A-Za-z][0-9A-Za-z-]{0,63})\.table")

_MAGIC: Final = b"extproc live 2\0\0"
_HEAD: Final = struct.Struct("<16s36sIIQ")
"""Magic, the kernel's boot id, slots, bytes of a slot, exchanges beyond the slots."""
_HEAD_BYTES: Final = 4096
_BEYOND: Final = struct.Struct("<Q")
_BEYOND_AT: Final = _HEAD.size - _BEYOND.size

_SEQUENCE: Final = struct.Struct("<Q")
HOT: Final = struct.Struct("<qqqqqQQIIHB")
"""Last chunk, first byte, first token, beginning and end of the longest silence, in nanoseconds after the start, -1 for
none; bytes of the request and of the response, chunks likewise; status, 0 for none; flags."""
NOTHING: Final = (-1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0)
"""Nothing of either direction has come."""
_COLD: Final = struct.Struct("<q40s16s128s64s64s")
"""Start in nanoseconds since the epoch, 0 for a free slot; id, method, path, upstream, cluster."""
_BOTH: Final = struct.Struct(HOT.format + _COLD.format.removeprefix("<"))
_HOT_AT: Final = _SEQUENCE.size
_COLD_AT: Final = _HOT_AT + HOT.size
_STARTED: Final = struct.Struct("<q")
_TRIES: Final = 1000

REQUEST_OVER, RESPONSE_BEGAN, RESPONSE_OVER = 1, 2, 4


class LiveExchange(msgspec.Struct, frozen=True):
    """An exchange as a slot has it. Times are nanoseconds since the epoch; None for what has not come."""

    worker: int
    boot_id: str
    id: str
    started_ns: int
    method: str | None
    path: str | None
    """Its first 128 bytes."""
    upstream: str | None
    cluster: str | None
    status: int | None
    request_bytes: int
    request_chunks: int
    request_over: bool
    response_bytes: int
    response_chunks: int
    response_began: bool
    response_over: bool
    last_chunk_ns: int | None
    """When the last bytes came, of either direction."""
    first_byte_ns: int | None
    first_token_ns: int | None
    silence_ns: tuple[int, int] | None
    """From when to when it was silent for longest, between two pieces of its answer."""

    def fields(self) -> dict[str, Any]:
        """What an `orphan` record, and an exchange in flight, say of it."""
        return {
            "upstream": self.upstream,
            "cluster": self.cluster,
            "status": self.status,
            "progress": msgspec.to_builtins(self.progress()),
        }

    def progress(self) -> Progress:
        """How far it has come."""
        began, over = self.silence_ns or (None, 0)
        return Progress(
            request_bytes=self.request_bytes,
            request_chunks=self.request_chunks,
            response_bytes=self.response_bytes,
            response_chunks=self.response_chunks,
            first_byte_ms=self._after(self.first_byte_ns),
            first_token_ms=self._after(self.first_token_ns),
            last_chunk_at=None if self.last_chunk_ns is None else self._moment(self.last_chunk_ns),
            max_silence_ms=None if began is None else (over - began) // 1000 / 1000,
            silence_at_ms=self._after(began),
        )

    def _moment(self, ns: int) -> str:
        """To the microsecond as a record of its end would have it: a sum of two that are cut off."""
        return timestamp(self.started_ns // 1000 * 1000 + (ns - self.started_ns) // 1000 * 1000)

    def _after(self, ns: int | None) -> float | None:
        return None if ns is None else (ns - self.started_ns) // 1000 / 1000


class Slot:
    """The place of one exchange. For one thread at a time."""

    __slots__ = ("_at", "_map", "_sequence", "_table", "_word", "_words")

    def __init__(self, table: LiveTable, at: int) -> None:
        self._table = table
        self._map = table.map
        self._words = table.words
        self._at = at + _HOT_AT
        self._word = at // _SEQUENCE.size
        self._sequence = 0

    def describe(self, hot: tuple[int, ...], started_ns: int, id: str, *texts: str | None) -> None:
        """All of it: how far it has come, and what headers say: method, path, upstream and cluster."""
        method, path, upstream, cluster = [b"" if text is None else text.encode("utf-8", "replace") for text in texts]
        words, word, sequence = self._words, self._word, self._sequence
        words[word] = sequence + 1
        _BOTH.pack_into(self._map, self._at, *hot, started_ns, id.encode(), method, path, upstream, cluster)
        words[word] = self._sequence = sequence + 2

    def advance(self, hot: tuple[int, ...]) -> None:
        """How far it has come, in the order of `HOT`. For every chunk, so a few stores and nothing else."""
        words, word, sequence = self._words, self._word, self._sequence
        words[word] = sequence + 1
        HOT.pack_into(self._map, self._at, *hot)
        words[word] = self._sequence = sequence + 2

    def free(self) -> None:
        """The exchange is over."""
        words, word, sequence = self._words, self._word, self._sequence
        words[word] = sequence + 1
        _STARTED.pack_into(self._map, self._at + HOT.size, 0)
        words[word] = self._sequence = sequence + 2
        self._table.give_back(self)


class LiveTable:
    """The table of one worker. `close` takes the file away: what is left behind was left by a death."""

    def __init__(self, path: Path, slots: int = SLOTS) -> None:
        """Raises OSError when the file cannot be made."""
        self.beyond = 0
        """Exchanges for which there was no slot."""
        self._path = path
        path.parent.mkdir(0o700, exist_ok=True)
        fd = os.open(path, fs.LOCK | os.O_EXCL, 0o600)
        try:
            size = _HEAD_BYTES + slots * SLOT_BYTES
            os.posix_fallocate(fd, 0, size)  # a hole that a full disk cannot fill would be a SIGBUS
            self.map = mmap.mmap(fd, size)
        except OSError:
            path.unlink()  # what a full disk has no room for is to take none
            raise
        finally:
            os.close(fd)
        self.words = memoryview(self.map).cast("Q")
        """The map once more, for the sequence numbers."""
        _HEAD.pack_into(self.map, 0, _MAGIC, _kernel_boot(), slots, SLOT_BYTES, 0)
        self._free = [Slot(self, _HEAD_BYTES + index * SLOT_BYTES) for index in reversed(range(slots))]

    @classmethod
    def create(cls, directory: Path, worker: int, boot_id: str) -> Self:
        """In a data directory."""
        return cls(directory / LIVE / f"w{worker}-{boot_id}{_SUFFIX}")

    def take(self) -> Slot | None:
        """A slot for an exchange that begins, which nobody sees before it is described; None where all are taken."""
        if not self._free:
            self.beyond += 1
            _BEYOND.pack_into(self.map, _BEYOND_AT, self.beyond)
            return None
        return self._free.pop()

    def give_back(self, slot: Slot) -> None:
        """For `Slot.free`."""
        self._free.append(slot)

    def close(self) -> None:
        """The worker ends well."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


# Reading -----------------------------------------------------------------------------------------------------


def read(directory: Path, worker: int | None = None, boot_id: str | None = None) -> Iterator[LiveExchange]:
    """The exchanges in the tables of a data directory, or of one worker's boot, each as it is at some moment now.

    Tables of workers that were killed are read as well, for they say how far each exchange had come; not those from
    before the machine was started, which a power cut may have left with anything in them.
    """
    for path in sorted((directory / LIVE).glob(f"*{_SUFFIX}")):
        match = _NAME.fullmatch(path.name)
        if match is not None and worker in {None, int(match[1])} and boot_id in {None, match[2]}:
            yield from _exchanges(path, int(match[1]), match[2])


def remove(directory: Path, worker: int, boot_id: str) -> None:
    """Recovery is done with the table of a worker that was killed."""
    with contextlib.suppress(FileNotFoundError):
        (directory / LIVE / f"w{worker}-{boot_id}{_SUFFIX}").unlink()


def _exchanges(path: Path, worker: int, boot_id: str) -> Iterator[LiveExchange]:
    try:
        fd = os.open(path, fs.READ)
    except OSError:
        return  # it has ended since
    try:
        slots = _slots(os.pread(fd, _HEAD.size, 0))
        if not slots or os.fstat(fd).st_size < _HEAD_BYTES + slots * SLOT_BYTES:
            return
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as table:
            for index in range(slots):
                data = _whole(table, _HEAD_BYTES + index * SLOT_BYTES)
                if data is not None and (found := _exchange(data, worker, boot_id)) is not None:
                    yield found
    finally:
        os.close(fd)


def _slots(head: bytes) -> int:
    """How many slots a table has; none where it is not ours, or from before the machine was started."""
    if len(head) < _HEAD.size:
        return 0
    magic, boot, slots, size, _ = _HEAD.unpack(head)
    return slots if (magic, boot, size) == (_MAGIC, _kernel_boot(), SLOT_BYTES) else 0


def _whole(table: mmap.mmap, at: int) -> bytes | None:
    """A slot's bytes at some moment. None for one whose writer was killed in the middle, or is at it all the time."""
    for _ in range(_TRIES):
        data = table[at : at + SLOT_BYTES]
        before, after = data[: _SEQUENCE.size], table[at : at + _SEQUENCE.size]
        if before == after and not before[0] & 1:
            return data
    return None


def _exchange(data: bytes, worker: int, boot_id: str) -> LiveExchange | None:
    started_ns, *texts = _COLD.unpack_from(data, _COLD_AT)
    if not started_ns:
        return None
    id, method, path, upstream, cluster = (text.rstrip(b"\0").decode("utf-8", "replace") or None for text in texts)
    hot = HOT.unpack_from(data, _HOT_AT)
    last, first_byte, first_token, silent, heard, sent, got, sent_chunks, got_chunks, status, flags = hot
    return LiveExchange(
        worker=worker,
        boot_id=boot_id,
        id=id or "",
        started_ns=started_ns,
        method=method,
        path=path,
        upstream=upstream,
        cluster=cluster,
        status=status or None,
        request_bytes=sent,
        request_chunks=sent_chunks,
        request_over=bool(flags & REQUEST_OVER),
        response_bytes=got,
        response_chunks=got_chunks,
        response_began=bool(flags & RESPONSE_BEGAN),
        response_over=bool(flags & RESPONSE_OVER),
        last_chunk_ns=_moment(started_ns, last),
        first_byte_ns=_moment(started_ns, first_byte),
        first_token_ns=_moment(started_ns, first_token),
        silence_ns=None if silent < 0 else (started_ns + silent, started_ns + heard),
    )


def _moment(started_ns: int, after: int) -> int | None:
    return None if after < 0 else started_ns + after


@functools.cache
def _kernel_boot() -> bytes:
    """The id of this run of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
