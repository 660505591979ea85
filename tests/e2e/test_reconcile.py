"""What the real Envoy passes without the recorder is found afterwards: from its entries, and from its access log."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.raw import Closed, Connection, Head, RawBackend
from support.stack import RunningStack, eventually

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
UPGRADE = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-key: a\r\nsec-websocket-version: 13\r\n"


@pytest.fixture
def backend() -> Iterator[RawBackend]:
    """A backend for a stack of the test's own."""
    with RawBackend() as backend:
        yield backend
    assert backend.errors == []


@pytest.fixture
def envoy_dir(checkout: Path, tmp_path: Path) -> Path:
    """The shipped envoy.yaml with its JSON access log uncommented. The recorder is waited for less long."""
    text = (checkout / "envoy" / "envoy.yaml").read_text()
    text = re.sub(r"(?m)^( +)# (- name: envoy\.access_loggers\.stdout)$", r"\1\2", text)
    head, found, rest = text.partition("access_loggers.stdout\n")
    assert found
    logger, rest = rest.split("\n\n", 1)
    text = (
        head + found + logger.replace("# ", "") + "\n\n" + rest.replace("message_timeout: 10s", "message_timeout: 2s")
    )
    directory = tmp_path / "envoy"
    directory.mkdir()
    (directory / "envoy.yaml").write_text(text)
    return directory


def allow_failure(envoy_dir: Path) -> None:
    """Let the request pass when the recorder fails."""
    path = envoy_dir / "envoy.yaml"
    text = path.read_text()
    assert "failure_mode_allow: false" in text
    path.write_text(text.replace("failure_mode_allow: false", "failure_mode_allow: true"))


def running(directory: Path, backend: RawBackend, envoy_dir: Path, **settings: object) -> RunningStack:
    """A stack on this configuration, with one worker and one thread of Envoy's."""
    arguments = ("--backend", backend.url, "--envoy-dir", envoy_dir, "--envoy-concurrency", "1")
    return RunningStack(directory / "stack", *arguments, gate_timeout_seconds=1, **settings)


def answers(connection: Connection, head: Head) -> None:
    """The backend's script: read all of it, then say ok."""
    connection.finish(head)
    connection.send(OK)


def status(stack: RunningStack, path: str) -> int:
    """Send a request on a connection of its own."""
    with Connection.to(stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}" % path.encode())
        return client.read_message().head.status


def findings(stack: RunningStack, *arguments: str | Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and what is listed by path."""
    result = invoke("reconcile", *arguments, "--data-dir", stack.data_dir, "--json")
    listed = [json.loads(line) for line in result.stdout.splitlines()]
    return result.exit_code, {each["path"]: each for each in listed}


def reasons(found: dict[str, dict[str, Any]]) -> dict[str, tuple[str, bool]]:
    """Why each passed, and whether a backend had it."""
    return {path: (each["reason"], each["reached_backend"]) for path, each in found.items()}


def entries(stack: RunningStack) -> int:
    """How many of Envoy's entries have come."""
    return sum(record["type"] == "access" for record in stack.records())


@contextmanager
def nobody_at_work(stack: RunningStack, number: signal.Signals) -> Iterator[None]:
    """The one worker is stopped, or is dead and not started again, until the end of this."""
    worker = stack.workers()[0]
    held = worker if number == signal.SIGSTOP else stack.process.pid
    os.kill(held, signal.SIGSTOP)
    if number == signal.SIGKILL:
        os.kill(worker, number)
    try:
        yield
    finally:
        os.kill(held, signal.SIGCONT)
    if number == signal.SIGKILL:
        eventually(lambda: stack.workers().get(0, worker) != worker, "a new worker")


def test_rules_and_recorded_traffic(tmp_path: Path, backend: RawBackend, envoy_dir: Path) -> None:
    """A websocket has passed by rule, and what is no request was refused: no problem, and nothing is missing."""

    def websocket(connection: Connection, head: Head) -> None:
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        connection.read_to_end()

    with running(tmp_path, backend, envoy_dir) as stack:
        assert [status(stack, backend.on(answers)) for _ in range(5)] == [200] * 5
        upgraded = backend.on(websocket)
        with Connection.to(stack.port) as client:
            client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n%b\r\n" % (upgraded.encode(), UPGRADE))
            assert client.read_head().status == 101
        with Connection.to(stack.port) as client:
            client.send(b"POST /nameless HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
            assert client.read_head().status == 400
        eventually(lambda: entries(stack) == 7, "Envoy's entries")
        code, found = findings(stack)
        assert code == 0
        assert reasons(found) == {upgraded: ("bypassed", True), "/nameless": ("ended_before_recorder", False)}
        assert found[upgraded]["bypass"] == "upgrade"
        assert stack.stop() == 0
        log = stack.data_dir / "run" / "envoy.log"
        assert reasons(findings(stack, log)[1]) == reasons(found)
        assert findings(stack, log)[0] == 0
        result = invoke("reconcile", log, "--data-dir", stack.data_dir)
        assert result.stderr.startswith("7 requests in Envoy's log: 5 recorded, 2 without us: ")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("allow", [True, False])
def test_nobody_answers(
    tmp_path: Path, backend: RawBackend, envoy_dir: Path, number: signal.Signals, allow: bool
) -> None:
    """With failure_mode_allow requests pass unrecorded, which is a problem; without it they do not reach a backend."""
    if allow:
        allow_failure(envoy_dir)
    with running(tmp_path, backend, envoy_dir) as stack:
        assert status(stack, backend.on(answers)) == 200
        path = backend.on(answers)
        with nobody_at_work(stack, number):
            assert (status(stack, path) == 200) == allow
        expected = {path: ("failure_mode_allow", True) if allow else ("sidecar_away", False)}
        eventually(lambda: path in findings(stack)[1], "Envoy's entry, to the sidecar that is back")
        code, found = findings(stack)
        assert (code, reasons(found)) == (allow, expected)
        assert stack.stop() == 0
        code, found = findings(stack, stack.data_dir / "run" / "envoy.log")
        assert (code, reasons(found)) == (allow, expected)


def test_a_worker_dies_before_a_record_is_due(tmp_path: Path, backend: RawBackend, envoy_dir: Path) -> None:
    """The backend had a part of a request with an id of which the journal has nothing."""
    begun: list[str] = []

    def script(connection: Connection, head: Head) -> None:
        begun.append(head.path)
        with pytest.raises(Closed):
            connection.finish(head)

    path = backend.on(script)
    with running(tmp_path, backend, envoy_dir, open_record_ms=60_000) as stack:
        with Connection.to(stack.port) as client:
            client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n" % path.encode())
            eventually(lambda: path in begun, "the request at the backend")
            with nobody_at_work(stack, signal.SIGKILL):
                assert client.read_head().status == 503
        assert stack.stop() == 0
        code, found = findings(stack, stack.data_dir / "run" / "envoy.log")
        assert (code, reasons(found)) == (1, {path: ("sidecar_away", True)})
        assert found[path]["id"]


def test_a_journal_that_could_not_be_written(tmp_path: Path, backend: RawBackend, envoy_dir: Path) -> None:
    """What `on_audit_failure: allow` let pass is told from what is lost, by the gap that the journal notes."""
    with running(tmp_path, backend, envoy_dir, on_audit_failure="allow") as stack:
        (worker,) = stack.workers().values()
        before = resource.prlimit(worker, resource.RLIMIT_FSIZE)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, before[1]))
        path = backend.on(answers)
        assert status(stack, path) == 200
        resource.prlimit(worker, resource.RLIMIT_FSIZE, before)

        def gap() -> bool:
            assert status(stack, backend.on(answers)) == 200
            return any(record["type"] == "gap" and record["direction"] == "request" for record in stack.records())

        eventually(gap, "the gap")
        assert stack.stop() == 0
        code, found = findings(stack, stack.data_dir / "run" / "envoy.log")
        assert code == 1
        assert reasons(found)[path] == ("gap", True)
        assert {each["reason"] for each in found.values()} == {"gap"}
