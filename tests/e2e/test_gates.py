"""Nothing passes before its record is on disk, and what cannot be recorded does not reach the backend."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.raw import Closed, Connection, Head, Message, RawBackend
from support.small_disk import fill, make_room, small_disk
from support.stack import RunningStack, eventually

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PROMPT = b'{"model":"m","messages":[{"role":"user","content":"the last words"}]}'


def recorded(stack: RunningStack, path: str) -> list[str]:
    """The types of the records of this path that are on disk at this moment."""
    return [record["type"] for record in stack.records() if record.get("path") == path]


def post(path: str, body: bytes = PROMPT) -> bytes:
    """A request that is held back until its record is durable."""
    return b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def test_a_held_request_is_on_disk_before_the_backend_sees_its_first_byte(
    raw_stack: RunningStack, raw_backend: RawBackend
) -> None:
    """The backend looks into the journal when the head of the request arrives."""
    found: list[list[str]] = []

    def script(connection: Connection, head: Head) -> None:
        found.append(recorded(raw_stack, head.path))
        connection.finish(head)
        connection.send(ANSWER)

    with Connection.to(raw_stack.port) as client:
        client.send(post(raw_backend.on(script)))
        assert client.read_message().head.status == 200
    assert found == [["request"]]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_streamed_request_is_on_disk_before_the_backend_sees_its_last_byte(
    raw_stack: RunningStack, raw_backend: RawBackend, chunked: bool
) -> None:
    """Too large to be held, or of unknown length: its end waits for the record and the body."""
    body = bytes(range(256)) * 4000
    found: list[list[str]] = []

    def script(connection: Connection, head: Head) -> None:
        assert connection.finish(head).body == body
        found.append(recorded(raw_stack, head.path))
        connection.send(ANSWER)

    path = raw_backend.on(script)
    with Connection.to(raw_stack.port) as client:
        if chunked:
            head = b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode()
            client.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        else:
            client.send(post(path, body))
        assert client.read_message().head.status == 200
    assert [types[-1] for types in found] == ["request"]


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_is_on_disk_before_the_client_sees_its_end(
    raw_stack: RunningStack, raw_backend: RawBackend, chunked: bool
) -> None:
    """When the client has the last byte, the terminal record is there."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        if chunked:
            connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        else:
            connection.send(ANSWER)

    path = raw_backend.on(script)
    with Connection.to(raw_stack.port) as client:
        client.send(post(path))
        assert client.read_message().body == b"ok"
        on_disk = [record for record in raw_stack.records() if record.get("path") == path]
    ours = [record for record in on_disk if record["type"] != "access"]  # Envoy's word comes when it comes
    assert [record["type"] for record in ours] == ["request", "response"]
    assert ours[1]["response"]["sha256"] == hashlib.sha256(b"ok").hexdigest()


# When the journal cannot be written -----------------------------------------------------------------------


@contextmanager
def unwritable_journal(stack: RunningStack) -> Iterator[None]:
    """No file of the sidecar can grow, as on a full disk."""
    workers = stack.workers().values()
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in workers]
    for pid, (_, hard) in zip(workers, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid, limits in zip(workers, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def ask(stack: RunningStack, request: bytes) -> Message:
    """The answer to one request on a connection of its own."""
    with Connection.to(stack.port) as client:
        client.send(request)
        return client.read_message()


@pytest.fixture
def backend() -> Iterator[RawBackend]:
    """A backend for a stack of the test's own."""
    with RawBackend() as backend:
        yield backend
    assert backend.errors == []


def test_deny(tmp_path: Path, backend: RawBackend) -> None:
    """503 with a JSON error and retry-after, the backend sees nothing, and service resumes with a gap noted."""
    reached: list[str] = []

    def script(connection: Connection, head: Head) -> None:
        reached.append(head.path)
        connection.finish(head)
        connection.send(ANSWER)

    held, chunked, after = backend.on(script), backend.on(script), backend.on(script)
    with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
        with unwritable_journal(stack):
            refused = ask(stack, post(held))
            assert refused.head.status == 503
            assert refused.head.get("retry-after") == "1"
            assert refused.head.get("content-type") == "application/json"
            assert json.loads(refused.body)["error"]["code"] == "audit_unavailable"
            head = b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % chunked.encode()
            with Connection.to(stack.port) as client:
                client.send(head + b"2\r\n{}\r\n0\r\n\r\n")
                assert client.read_head().status == 503
        assert held not in reached
        eventually(lambda: ask(stack, post(after)).head.status == 200, "a request that passes again")
        gaps = eventually(lambda: [each for each in stack.records() if each["type"] == "gap"], "the gap")
        assert {gap["direction"] for gap in gaps} >= {"request"}
        assert all("last words" not in str(gap) for gap in gaps)
        assert stack.stop() == 0
        assert stack.findings() == []
    assert after in reached


def test_allow(tmp_path: Path, backend: RawBackend) -> None:
    """Traffic passes unrecorded, and how much it was is noted when writing works again."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(ANSWER)

    arguments = ("--backend", backend.url, "--envoy-concurrency", "1")
    with RunningStack(tmp_path, *arguments, on_audit_failure="allow") as stack:
        with unwritable_journal(stack):
            for _ in range(3):
                assert ask(stack, post(backend.on(script))).body == b"ok"

        def gap() -> bool:
            ask(stack, post(backend.on(script)))
            return any(each["type"] == "gap" and each["direction"] == "request" for each in stack.records())

        eventually(gap, "the gap")
        gaps = [each for each in stack.records() if each["type"] == "gap" and each["direction"] == "request"]
        assert sum(each["count"] for each in gaps) >= 3
        assert stack.stop() == 0
        assert stack.findings() == []


@pytest.mark.parametrize("policy", ["deny", "allow"])
def test_a_worker_that_dies_on_a_full_disk(tmp_path: Path, backend: RawBackend, policy: str) -> None:
    """Its successor follows the policy like any other, for as long as the disk is full, and then goes on by itself."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(ANSWER)

    def asked() -> int | None:
        with contextlib.suppress(Closed):  # there is no worker at this moment
            return ask(stack, post(backend.on(script))).head.status
        return None

    def cannot_write() -> bool:
        fill(disk)  # also what recovery gave back
        asked()
        (worker,) = readiness(stack)["workers"]
        return worker["up"] and worker.get("journal") is False

    arguments = ("--backend", backend.url, "--envoy-concurrency", "1")
    stack = RunningStack(tmp_path, *arguments, on_audit_failure=policy, free_space_floor_bytes=0)
    with small_disk(stack.data_dir, "8m") as disk, stack:
        assert asked() == 200
        fill(disk)
        dead = stack.workers()[0]
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: stack.workers().get(0, dead) != dead, "a successor")
        expected = 503 if policy == "deny" else 200
        eventually(cannot_write, "a successor that says so")
        assert [asked() for _ in range(10)] == [expected] * 10
        assert stack.process.poll() is None
        make_room(disk)
        eventually(lambda: readiness(stack)["ready"], "room")
        eventually(lambda: asked() == 200, "a request that passes again")
        path = backend.on(script)
        assert ask(stack, post(path)).head.status == 200
        assert recorded(stack, path) == ["request", "response"]
        gaps = eventually(lambda: [each for each in stack.records() if each["type"] == "gap"], "the gap")
        assert {gap["direction"] for gap in gaps} >= {"request"}
        assert stack.stop() == 0
        assert stack.findings() == []


def readiness(stack: RunningStack) -> Any:
    """What /readyz says."""
    try:
        with urllib.request.urlopen(f"{stack.admin}/readyz") as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return json.load(refused)


def test_an_answer_is_delivered_although_it_cannot_be_recorded(tmp_path: Path, backend: RawBackend) -> None:
    """Its request is on disk; cutting a good answer helps nobody."""
    seen, go_on = threading.Event(), threading.Event()

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        seen.set()
        assert go_on.wait(150)
        connection.send(ANSWER)

    path = backend.on(script)
    with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
        with Connection.to(stack.port) as client:
            client.send(post(path))
            assert seen.wait(150)
            with unwritable_journal(stack):
                go_on.set()
                answer = client.read_message()
        assert (answer.head.status, answer.body) == (200, b"ok")
        assert "request" in recorded(stack, path)
        assert stack.stop() == 0
        assert stack.findings() == []
