"""/healthz, /readyz and /metrics, and nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from extproc.errors import StackError
from extproc.service.sidecar import admin
from extproc.service.sidecar.admin import MAX_CONNECTIONS, MAX_HEAD_BYTES, Admin

WELL = (True, {"workers": [{"worker": 0, "journal": True}]})
ILL = (False, {"workers": [{"worker": 0, "journal": False}]})


async def _metrics(*, open_metrics: bool = False) -> bytes:
    return b"# HELP x X.\nx 1.0\n# EOF\n" if open_metrics else b"# HELP x X.\nx 1.0\n"


async def _ask(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


def with_admin(story: Any, readiness: Any = WELL) -> Any:
    """Run a story against an admin server."""

    async def run() -> Any:
        server = Admin("127.0.0.1", 0, lambda: readiness, _metrics)
        port = await server.start()
        try:
            return await story(port)
        finally:
            await server.stop()

    return asyncio.run(run())


def ask(request: bytes, readiness: Any = WELL) -> tuple[int, dict[str, str], bytes]:
    """One request and its answer."""
    answer: tuple[int, dict[str, str], bytes] = with_admin(lambda port: _ask(port, request), readiness)
    return answer


def test_healthz() -> None:
    """The process runs."""
    status, headers, body = ask(b"GET /healthz HTTP/1.1\r\nhost: localhost:9464\r\n\r\n", ILL)
    assert (status, json.loads(body)) == (200, {"ok": True})
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)


@pytest.mark.parametrize(("readiness", "status"), [(WELL, 200), (ILL, 503)], ids=["well", "ill"])
def test_readyz_names_the_parts(readiness: Any, status: int) -> None:
    """200 only when all is well, and the parts in any case."""
    got, _, body = ask(b"GET /readyz?x=1 HTTP/1.0\r\n\r\n", readiness)
    assert got == status
    assert json.loads(body) == {"ready": readiness[0], **readiness[1]}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metric HTTP/1.1\r\n\r\n", 404),
        (b"GET /../healthz HTTP/1.1\r\n\r\n", 404),
        (b"GET //healthz HTTP/1.1\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", 405),
        (b"HEAD /readyz HTTP/1.1\r\n\r\n", 405),
        (b"DELETE /readyz HTTP/1.1\r\n\r\n", 405),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /healthz HTTP/2\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\xff\xfe", 400),
        (b"GET /healthz HTTP/1.1\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    ],
    ids=lambda value: str(value)[:40],
)
def test_everything_else_is_refused(request_: bytes, status: int) -> None:
    """Other paths, other methods, what is no HTTP, what is too long; nothing of it comes back."""
    got, headers, body = ask(request_)
    assert got == status
    assert set(json.loads(body)) == {"error"}
    assert ("allow" in headers) == (status == 405)


@pytest.mark.parametrize("silent", [b"", b"GET /readyz HTTP/1.1\r\nx: y"], ids=["nothing", "half a head"])
def test_silent_connections_keep_nobody_out(silent: bytes) -> None:
    """Beyond the limit the oldest of them is closed, and the new one is answered."""

    async def story(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS + 10)]
        for _, writer in idle:
            writer.write(silent)
        assert await _until_closed(idle[0][0]) == b""
        for _ in range(3):
            status, _, _ = await _ask(port, b"GET /readyz HTTP/1.1\r\n\r\n")
            assert status == 200
        idle[-1][1].write(b"GET /healthz HTTP/1.1\r\n\r\n" if not silent else b"\r\n\r\n")
        assert (await idle[-1][0].read()).startswith(b"HTTP/1.1 200 OK\r\n")
        for _, writer in idle:
            writer.close()

    with_admin(story)


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.8.9.1:9464", 200),
        ("[::1]:9464", 200),
        ("localhost", 200),
        ("x.localhost:1", 200),
        ("evil.example", 421),
        ("evil.example:9464", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("localhost\r\nHOST: evil.example", 421),
    ],
)
def test_only_requests_for_loopback_are_answered_there(host: str, status: int) -> None:
    """A web page can give its own name the address 127.0.0.1, and would read what it likes."""
    assert ask(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[0] == status


def test_elsewhere_every_host_is_answered() -> None:
    """Others reach it by whatever name they have for it."""

    async def run() -> int:
        server = Admin("0.0.0.0", 0, lambda: WELL, _metrics)
        port = await server.start()
        try:
            return (await _ask(port, b"GET /readyz HTTP/1.1\r\nhost: extproc:9464\r\n\r\n"))[0]
        finally:
            await server.stop()

    assert asyncio.run(run()) == 200


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may not stay for ever."""
    monkeypatch.setattr(admin, "SECONDS", 0.05)

    async def story(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /hea")
        answer = await reader.read()
        writer.close()
        return answer

    assert with_admin(story) == b""


def test_it_listens_on_loopback_alone() -> None:
    """Whatever the machine's addresses are."""

    async def run() -> list[str]:
        server = Admin("127.0.0.1", 0, lambda: WELL, _metrics)
        await server.start()
        assert server._server is not None
        hosts = [socket.getsockname()[0] for socket in server._server.sockets]
        await server.stop()
        return hosts

    assert asyncio.run(run()) == ["127.0.0.1"]


def test_a_port_in_use() -> None:
    """The error names the setting."""

    async def story(port: int) -> None:
        with pytest.raises(StackError, match=f"admin_port {port}: cannot listen on it: Address already in use"):
            await Admin("127.0.0.1", port, lambda: WELL, _metrics).start()

    with_admin(story)


def test_metrics() -> None:
    """As they are, in Prometheus's format."""
    status, headers, body = ask(b"GET /metrics HTTP/1.1\r\nhost: [::1]\r\n\r\n")
    assert (status, body) == (200, b"# HELP x X.\nx 1.0\n")
    assert headers["content-type"].startswith("text/plain; version=")
    assert ask(b"POST /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")[0] == 405


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", True),
        ("text/plain, Application/OpenMetrics-Text", True),
        ("application/openmetrics-text;q=0,text/plain", False),
        ("text/plain;version=0.0.4", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_the_format_of_metrics_is_what_is_asked_for(accept: str, expected: bool) -> None:
    """OpenMetrics for those who say that they read it, as Prometheus does; the plain text for everybody else."""
    status, headers, body = ask(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nAccept: %b\r\n\r\n" % accept.encode())
    assert status == 200
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0") is expected
    assert body.endswith(b"# EOF\n") is expected
