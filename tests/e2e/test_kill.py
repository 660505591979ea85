"""`kill -9`, STOP and CONT of every process of the stack, under load: what was acknowledged is on disk, ended once.

EXTPROC_TEST_KILLS says how many kills. A stack lives through a plan: kills of workers (no more than the five deaths
that the supervisor takes in a minute) and of the follower, pauses of every process, and at the end Envoy or the
supervisor itself. The next stack starts on the same data at once. After a few of them the client's list and the
backend's are held against the journal, and a new one is begun.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import Closed, Connection, Head, RawBackend
from support.stack import RunningStack, eventually, is_running

from extproc.core.joined import NO_REQUEST, NO_RESPONSE
from extproc.service.sidecar.workers import MAX_DEATHS

KILLS = int(os.environ.get("EXTPROC_TEST_KILLS", "10"))
STACKS_PER_JOURNAL = 4
CLIENTS = 6
PROGRESS = 15
"""Requests that reach the backend between two blows, at least."""
SETTLE_SECONDS = 0.2
"""The blow falls at a random moment within this time after that."""
PAUSES = (0.02, 0.3, 2.0)
"""Seconds between STOP and CONT: not to be noticed, noticed, and long enough to be called unwell."""

SIZES = (40, 3_000, 90_000, 700_000)
"""Of requests: held and in the record, held and in a file, streamed."""
ANSWERS = (b"stream", b"document", b"large")


class Load:
    """Clients that go on until told to stop, whatever happens to their connections, and what both sides saw."""

    def __init__(self, backend: RawBackend) -> None:
        self.received: dict[int, str] = {}
        """The requests that the backend has received whole, and their digests."""
        self.got: dict[str, str] = {}
        """The answers that a client has got whole, by the id that came with them, and their digests."""
        self.sent = 0
        self.port = 0
        self._path = backend.on(self._script)
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._stop.clear()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def progress(self) -> None:
        """Wait until the load goes on."""
        goal = len(self.received) + PROGRESS
        eventually(lambda: len(self.received) >= goal, "requests at the backend")

    def _script(self, connection: Connection, head: Head) -> None:
        body = connection.finish(head).body
        number = int(head.path.partition("=")[2])
        self.received[number] = hashlib.sha256(body).hexdigest()
        match ANSWERS[number % len(ANSWERS)]:
            case b"stream":
                connection.send(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for token in range(8):
                    event = b'data: {"token":%d}\n\n' % token
                    connection.send(b"%x\r\n%b\r\n" % (len(event), event))
                    self._stop.wait(0.005)
                connection.send(b"0\r\n\r\n")
            case b"document":
                answer = b'{"number":%d}' % number
                connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
            case _:
                answer = b"%d " % number * 20_000
                connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Closed, ConnectionError, TimeoutError), Connection.to(self.port) as client:
                self._use(client)
            self._stop.wait(0.02)  # between two stacks nobody listens

    def _use(self, client: Connection) -> None:
        """One connection, until either side closes it."""
        while not self._stop.is_set():
            client.send(self._request(next(self._numbers)))
            self.sent += 1
            answer = client.read_message()
            id = answer.head.get("x-audit-id")
            if id is not None and answer.head.status == 200:
                self.got[id] = hashlib.sha256(answer.body).hexdigest()
            if answer.head.get("connection") == "close" or answer.ended_by_close:
                return

    def _request(self, number: int) -> bytes:
        body = (b"%d " % number).ljust(SIZES[number % len(SIZES)], b"x")
        head = b"POST %b?n=%d HTTP/1.1\r\nhost: a\r\n" % (self._path.encode(), number)
        if number % 5 == 0:
            return head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


class Cycles:
    """Kills until there were enough, on one journal after another."""

    def __init__(self, root: Path, backend: RawBackend, seed: int) -> None:
        self.blows: collections.Counter[str] = collections.Counter()
        self.found: collections.Counter[str] = collections.Counter()
        self._root = root
        self._backend = backend
        self._chance = random.Random(seed)
        self._last = itertools.cycle(["kill envoy", "kill supervisor"])
        self._began = time.monotonic()

    @property
    def kills(self) -> int:
        return sum(count for what, count in self.blows.items() if what.startswith("kill"))

    def report(self) -> str:
        """The figures so far, on one line."""
        counts = [f"{what} {count}" for what, count in sorted(self.blows.items())]
        found = [f"{what} {count}" for what, count in self.found.items()]
        return f"{self.kills} kills in {time.monotonic() - self._began:.0f} s: {', '.join(counts)}; {', '.join(found)}"

    def journal(self, number: int) -> None:
        """A journal from its first stack to its last, and what is in it."""
        directory = self._root / str(number)
        load = Load(self._backend)
        arguments = ("--backend", self._backend.url, "--workers", "2", "--envoy-concurrency", "2")
        for _ in range(STACKS_PER_JOURNAL):
            with RunningStack(directory, *arguments) as stack:
                load.port = stack.port
                load.start()
                try:
                    self._life(stack, load)
                finally:
                    load.stop()
            if self.kills >= KILLS:
                break
        with RunningStack(directory, *arguments) as stack:  # recovers what the last one left
            assert stack.stop() == 0
        self._check(stack, load)
        shutil.rmtree(stack.data_dir)

    def _life(self, stack: RunningStack, load: Load) -> None:
        """One stack to its end."""
        for blow in self._plan():
            load.progress()
            load._stop.wait(self._chance.random() * SETTLE_SECONDS)
            self._strike(stack, blow)
            self.blows[blow] += 1
            if self.kills >= KILLS:
                return

    def _plan(self) -> Iterator[str]:
        blows = ["kill worker"] * MAX_DEATHS + ["kill follower"] * 3
        blows += ["pause worker", "pause follower", "pause envoy", "pause supervisor"]
        self._chance.shuffle(blows)
        yield from blows
        yield next(self._last)

    def _strike(self, stack: RunningStack, blow: str) -> None:
        what, whom = blow.split()
        index = self._chance.randrange(2)
        pid = eventually(lambda: stack.process_of(whom, index), f"a running {whom}")
        if what == "pause":
            os.kill(pid, signal.SIGSTOP)
            threading.Event().wait(self._chance.choice(PAUSES))
            os.kill(pid, signal.SIGCONT)
            return
        os.kill(pid, signal.SIGKILL)
        if whom == "envoy":
            assert stack.process.wait(40) == 1
        elif whom == "supervisor":
            stack.process.wait(40)
        else:
            eventually(lambda: not is_running(pid), f"the end of the {whom}")
            if whom == "worker":
                eventually(lambda: stack.workers().get(index, pid) != pid, "a new worker")

    def _check(self, stack: RunningStack, load: Load) -> None:
        """The promises, from what is on disk."""
        assert stack.findings() == []
        types: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for record in stack.records():
            if isinstance(record.get("id"), str):
                types[record["id"]][record["type"]] += 1
        begun = [each for each in types.values() if each["request"] or each["open"]]
        endless = sum(1 for each in begun if each["response"] + each["orphan"] == 0)
        doubled = sum(1 for each in types.values() if each["response"] + each["orphan"] > 1 or each["request"] > 1)

        lost_requests, lost_answers = dict(load.received), dict(load.got)
        for exchange in stack.exchanges():
            number = int(str(exchange.path).partition("=")[2] or -1)
            if lost_requests.get(number, "") == (exchange.request or NO_REQUEST).sha256:
                del lost_requests[number]
            if lost_answers.get(exchange.id, "") == (exchange.response or NO_RESPONSE).sha256:
                del lost_answers[exchange.id]
        self.found["requests sent"] += load.sent
        self.found["received whole"] += len(load.received)
        self.found["answers got whole"] += len(load.got)
        self.found["exchanges"] += len(begun)
        self.found["orphans"] += sum(each["orphan"] for each in begun)
        self.found["lost"] += len(lost_requests) + len(lost_answers)
        self.found["doubled"] += doubled
        self.found["endless"] += endless
        assert not lost_requests, f"received whole by the backend and not recorded: {lost_requests}"
        assert not lost_answers, f"got whole by the client and not recorded: {lost_answers}"
        assert not doubled
        assert not endless


@pytest.mark.slow
@pytest.mark.timeout(180 + 6 * KILLS)
def test_kills_and_pauses_of_every_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No acknowledged request or answer is lost, each exchange ends once, digests are the client's, verify is clean."""
    with RawBackend() as backend:
        cycles = Cycles(tmp_path, backend, seed=max(KILLS, 20))
        for number in itertools.count():
            cycles.journal(number)
            with capsys.disabled():
                print(f"\n{cycles.report()}", end="", flush=True)
            if cycles.kills >= KILLS:
                break
        assert backend.errors == []
    assert cycles.found["received whole"] >= KILLS * PROGRESS
