"""Journals that come about by chance, and the same each time for a seed.

    world = Generated(seed, tmp_path)
    world.play(each)          # writes step by step; `each` is told the time after every step
    world.damage()            # once nothing is written any more: a few bytes here and there

Two data directories, each of two workers with several boots, and all that can stand in a journal: requests, `open`
records, early answers, bodies of models, late messages, gaps, Envoy's entries (in any worker of the directory, late,
missing, alone, of a hung recorder), workers that are killed and recovered, segments that are closed and compressed.
Envoy's entries come within the time in which an exchange waits for them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from support.journals import WAIT_SECONDS, abandon, access, append, id_of, request, response

from extproc.core.record import encode
from extproc.core.times import timestamp
from extproc.journal import recovery, retention
from extproc.journal.writer import Journal

BEGIN_NS: Final = 1_792_000_000_000_000_000
SECOND: Final = 1_000_000_000
WORKERS: Final = 2
_LASTS: Final = 300
"""Seconds."""
_CHAT: Final = b'{"model":"m","messages":[{"role":"user","content":"hello"}],"temperature":0.5}'
_CUT: Final[dict[str, Any]] = {"status": None, "response": None, "closed": "cancelled"}
_NO_ROUTE: Final[dict[str, Any]] = {"upstream": None, "status": 404, "response_code_details": "route_not_found"}
_HUNG: Final[dict[str, Any]] = {
    "upstream": None,
    "status": 504,
    "response_code_details": "ext_proc_error_per-message_timeout_exceeded",
}

Worker = tuple[Path, int]
"""A data directory, and the number of one that writes there."""


class Generated:
    """`exchanges`: how many there will be, beside the entries that stand alone."""

    def __init__(self, seed: int, root: Path, *, exchanges: int = 60) -> None:
        self.directories = [root / "a", root / "b"]
        self._random = random.Random(seed)
        self._now = BEGIN_NS
        self._boots = 0
        self._steps: list[tuple[int, Callable[[], None]]] = []
        self._journals: dict[Worker, Journal] = {}
        for directory in self.directories:
            directory.mkdir(mode=0o700, parents=True)
            for worker in range(WORKERS):
                self._boot((directory, worker))
        for number in range(1, exchanges + 1):
            self._exchange(number)
        for number in range(exchanges // 8):
            self._stands_alone(number)
            self._gap()
        for _ in range(4):
            self._death()
            self._at(self._some_time(), self._compress)

    def play(self, each: Callable[[str], None] = lambda at: None) -> None:
        """Have it all written. `each` is told the time, RFC 3339, after every step."""
        for at, do in sorted(self._steps, key=lambda step: step[0]):
            self._now = at
            do()
            each(timestamp(at))
        for journal in self._journals.values():
            # Some are killed, and nobody comes after them.
            abandon(journal) if self._random.random() < 0.3 else journal.close(WAIT_SECONDS)

    def damage(self, times: int = 4) -> None:
        """Change a byte in segments that are not compressed, or make a line end of it."""
        paths = [path for each in self.directories for path in sorted((each / "segments").glob("*.jsonl*"))]
        paths = [path for path in paths if path.suffix != ".zst"]
        for _ in range(times if paths else 0):
            path = self._random.choice(paths)
            raw = bytearray(path.read_bytes())
            at = self._random.randrange(len(raw))
            raw[at] = ord("\n") if self._random.random() < 0.3 else raw[at] ^ 1
            path.write_bytes(raw)

    # What happens ----------------------------------------------------------------------------------------------------

    def _exchange(self, number: int) -> None:
        """The records of one, as far as there are any, each at its time, and Envoy's entry."""
        chance, worker, start = self._random.random, self._some_worker(), self._some_time()
        end = start + SECOND  # as `response` has it
        body = self._random.choice([b"{}", b"", b"\xff", _CHAT])
        said = {"path": "/v1/chat/completions" if body == _CHAT else "/x", "request_id": f"request-{number}"}
        is_early, is_hung = chance() < 0.15, chance() < 0.1
        records: list[tuple[int, bytes]] = []
        if chance() < 0.3:
            records.append((start, _with(request(number, body, at=start, type="open"), **said)))
        if chance() < 0.95:
            at = end + SECOND // 2 if is_early else start + int(SECOND * 0.9 * chance())
            records.append((at, _with(request(number, body, at=start), **said)))
        if chance() < 0.9:
            records.append((end, response(number, at=start, **(_CUT if is_hung else {}))))
            if chance() < 0.2:
                records.append((end + SECOND // 20, _late(number, start)))
        self._write_all(worker, records)
        if chance() < 0.85:
            at = end + int(SECOND * (0.1 + (0.9 if chance() < 0.7 else 4.4) * chance()))
            if chance() < 0.1:
                at = start + SECOND // 100  # by Envoy's clock it is over, and of us there is nothing yet
            entry = access(None, at=start, request_id=f"request-{number}", **_HUNG)
            if not is_hung:
                entry = access(number, at=start, response_flags=self._random.choice([[], ["DC"], ["UF"]]))
            self._write_all((worker[0], self._random.randrange(WORKERS)), [(at, entry)])

    def _stands_alone(self, number: int) -> None:
        start = self._some_time()
        entry = access(None, at=start, request_id=f"alone-{number}", method="GET", path="/none", **_NO_ROUTE)
        self._write_all(self._some_worker(), [(start + 2 * SECOND, entry)])

    def _gap(self) -> None:
        at = self._some_time()
        told = {"from": timestamp(at - SECOND), "to": timestamp(at), "count": 2, "direction": "request", "why": "full"}
        self._write_all(self._some_worker(), [(at, encode({"type": "gap", "at": timestamp(at)} | told))])

    def _death(self) -> None:
        at, worker = self._some_time(), self._some_worker()
        self._at(at, lambda: abandon(self._journals[worker]))
        self._at(at, lambda: self._boot(worker))

    def _some_time(self) -> int:
        return BEGIN_NS + int(self._random.uniform(2, _LASTS) * SECOND)

    def _some_worker(self) -> Worker:
        return self._random.choice(self.directories), self._random.randrange(WORKERS)

    # How it is written -----------------------------------------------------------------------------------------------

    def _at(self, at: int, do: Callable[[], None]) -> None:
        self._steps.append((at, do))

    def _write_all(self, worker: Worker, records: list[tuple[int, bytes]]) -> None:
        """Have records written at their times, by the worker that writes the first of them, while it lives."""
        writers: list[Journal] = []

        def write(at: int, record: bytes) -> None:
            writers.append(self._journals[worker])
            if writers[0] is writers[-1]:
                append(writers[0], _with(record, at=timestamp(at)))

        for at, record in records:
            self._at(at, lambda at=at, record=record: write(at, record))  # type: ignore[misc]

    def _boot(self, worker: Worker) -> None:
        """Recover what one has left behind, and let the next one begin."""
        directory, number = worker
        recovery.recover(directory, worker=number, clock=lambda: self._now)
        self._boots += 1
        journal = Journal(
            directory,
            worker=number,
            boot_id=f"boot{self._boots}",
            clock=lambda: self._now,
            durability="write",
            segment_bytes=6000,
            free_space_floor_bytes=0,
        )
        journal.start()
        self._journals[worker] = journal

    def _compress(self) -> None:
        retention.compress_closed(self._random.choice(self.directories))


def _with(record: bytes, **more: Any) -> bytes:
    return encode(json.loads(record) | more)


def _late(number: int, start: int) -> bytes:
    protocol = {"late": {"request.body": 1}, "duplicate_end_of_stream": 0}
    trailers = {"response": [["x-late", "1"]]}
    return encode({"type": "late", "id": id_of(number, start), "at": "", "protocol": protocol, "trailers": trailers})
