"""`kill -9` of a worker under load: what a backend has received is on disk, and every exchange ends once.

EXTPROC_TEST_KILLS says how often; the supervisor gives up on more than five deaths in a minute, so a new stack on the
same data directory takes over after every fifth.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import signal
import threading
from pathlib import Path

import pytest
from support.raw import Closed, Connection, Head, RawBackend
from support.stack import RunningStack, eventually, is_running

from extproc.journal import reader

KILLS = int(os.environ.get("EXTPROC_TEST_KILLS", "20"))
KILLS_PER_STACK = 5
CLIENTS = 8
PROGRESS = 25
"""Requests that reach the backend between two kills, at least."""

SIZES = (40, 3_000, 90_000, 700_000)
"""Held and in the record, held and in a file, streamed."""


class Load:
    """Clients that go on until told to stop, whatever happens to their connections."""

    def __init__(self, backend: RawBackend) -> None:
        self.received: dict[int, int] = {}
        """The requests that the backend has received whole, and their sizes."""
        self._path = backend.on(self._script)
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, port: int) -> None:
        self._stop.clear()
        self._threads = [threading.Thread(target=self._run, args=(port,)) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _script(self, connection: Connection, head: Head) -> None:
        body = connection.finish(head).body
        self.received[int(body.split(b" ", 1)[0])] = len(body)
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            connection.send(b'12\r\ndata: {"token":1}\n\r\n')
        connection.send(b"0\r\n\r\n")

    def _run(self, port: int) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Closed, ConnectionError, TimeoutError), Connection.to(port) as client:
                self._use(client)

    def _use(self, client: Connection) -> None:
        """One connection, until either side closes it."""
        while not self._stop.is_set():
            client.send(self._request(next(self._numbers)))
            if client.read_message().head.get("connection") == "close":
                return

    def _request(self, number: int) -> bytes:
        body = (b"%d " % number).ljust(SIZES[number % len(SIZES)], b"x")
        head = b"POST %b HTTP/1.1\r\nhost: a\r\n" % self._path.encode()
        if number % 3 == 0:
            return head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.slow
@pytest.mark.timeout(60 + 12 * KILLS)
def test_kill_9_of_a_worker_under_load(tmp_path: Path) -> None:
    """Every request that the backend received whole is on disk; one terminal record each; verify finds nothing."""
    with RawBackend() as backend:
        load = Load(backend)
        left = KILLS
        stack = RunningStack(tmp_path, "--backend", backend.url, "--workers", "2", "--envoy-concurrency", "2")
        while left:
            with stack:
                load.start(stack.port)
                try:
                    for _ in range(min(left, KILLS_PER_STACK)):
                        kill_one_worker(stack, load, left)
                        left -= 1
                    progress(load)
                finally:
                    load.stop()
                assert stack.stop() == 0
        assert backend.errors == []
    check(stack, load)


def kill_one_worker(stack: RunningStack, load: Load, number: int) -> None:
    """Kill it in the middle of the load, and wait until it is back."""
    progress(load)
    index = number % 2
    pid = stack.workers()[index]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid), "the end of the worker")
    eventually(lambda: stack.workers().get(index, pid) != pid, "a new worker")


def progress(load: Load) -> None:
    """Wait until the load goes on."""
    goal = len(load.received) + PROGRESS
    eventually(lambda: len(load.received) >= goal, "requests at the backend")


def check(stack: RunningStack, load: Load) -> None:
    """The promises, from what is on disk."""
    assert stack.findings() == []
    terminal: collections.Counter[str] = collections.Counter()
    begun: set[str] = set()
    for record in stack.records():
        if record["type"] in ("request", "open"):
            begun.add(record["id"])
        elif record["type"] in ("response", "orphan"):
            terminal[record["id"]] += 1
    assert begun <= terminal.keys()
    assert set(terminal.values()) == {1}

    missing = dict(load.received)
    for exchange in stack.exchanges():
        body = reader.body(exchange, "request")
        if body and exchange["request"]["sha256"]:
            number = int(body.split(b" ", 1)[0])
            if missing.get(number) == len(body):
                del missing[number]
    assert missing == {}
    assert len(load.received) >= KILLS * PROGRESS
