"""/healthz, /readyz and /metrics, on loopback: three answers over the smallest HTTP/1 there is.

    GET /healthz   200 as long as this process runs
    GET /readyz    200 when every part of every worker is well, else 503; the JSON body names the parts
    GET /metrics   all workers as one, in Prometheus's text format, or in OpenMetrics' for those who accept it

Nothing else is served: 404 for other paths, 405 for other methods, 400 for what is no HTTP. Requests are
bounded in size, time and number, and no text of a client comes back in an answer. Of more connections than
MAX_CONNECTIONS the one that has been silent longest is closed, so that silent ones keep nobody out. On loopback only
requests for loopback are answered, 421 else: a web page whose name leads to 127.0.0.1 is told nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol

from extproc.errors import StackError

MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 64
SECONDS = 5.0

Readiness = Callable[[], tuple[bool, dict[str, Any]]]
"""Whether all is well, and the parts to show."""


class Metrics(Protocol):
    """Everything there is to scrape, in one of the two formats."""

    def __call__(self, *, open_metrics: bool = False) -> Awaitable[bytes]: ...


TEXT_FORMAT = "text/plain; version=1.0.0; charset=utf-8"
"""Prometheus's exposition format, which is what prometheus_client writes."""

OPEN_METRICS = "application/openmetrics-text"
"""The format that has exemplars, for those who say in `accept` that they read it: Prometheus does."""


class Admin:
    """The listener. `start` gives the port, so that 0 can be asked for."""

    def __init__(self, host: str, port: int, readiness: Readiness, metrics: Metrics) -> None:
        self._host = host
        self._port = port
        self._readiness = readiness
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._connections = 0
        self._silent: dict[asyncio.StreamWriter, None] = {}
        """Those whose request has not come yet, the oldest first."""

    async def start(self) -> int:
        try:
            self._server = await asyncio.start_server(self._connected, self._host, self._port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            why = os.strerror(error.errno or 0)  # asyncio's own text repeats the address
            raise StackError(f"admin_port {self._port}: cannot listen on it: {why}") from error
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        self._silent[writer] = None
        try:
            if self._connections <= MAX_CONNECTIONS or self._close_a_silent_one(writer):
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(SECONDS):
                        writer.write(await self._exchange(reader, writer))
                        await writer.drain()
        finally:
            self._connections -= 1
            self._silent.pop(writer, None)
            writer.close()

    def _close_a_silent_one(self, new: asyncio.StreamWriter) -> bool:
        """Whether there is room for the new one."""
        oldest = next(iter(self._silent))
        del self._silent[oldest]
        oldest.transport.abort()
        return oldest is not new

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except asyncio.IncompleteReadError as error:
            return _response(HTTPStatus.BAD_REQUEST) if error.partial else b""
        self._silent.pop(writer, None)
        return await self._answer(head)

    async def _answer(self, head: bytes) -> bytes:
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        if _is_loopback(self._host) and not all(map(_is_loopback, _hosts(head))):
            return _response(HTTPStatus.MISDIRECTED_REQUEST)
        method, target, _ = words
        path = target.partition(b"?")[0]
        if path not in (b"/healthz", b"/readyz", b"/metrics"):
            return _response(HTTPStatus.NOT_FOUND)
        if method != b"GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, extra="allow: GET\r\n")
        if path == b"/healthz":
            return _response(HTTPStatus.OK, {"ok": True})
        if path == b"/metrics":
            if not _reads_open_metrics(head):
                return _whole(HTTPStatus.OK, TEXT_FORMAT, await self._metrics())
            content_type = f"{OPEN_METRICS}; version=1.0.0; charset=utf-8"
            return _whole(HTTPStatus.OK, content_type, await self._metrics(open_metrics=True))
        ready, parts = self._readiness()
        return _response(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, {"ready": ready} | parts)


def _hosts(head: bytes) -> list[str]:
    """The hosts that a request is for, without their ports."""
    found = re.findall(rb"(?im)^host:[ \t]*([^\r\n]*?)[ \t]*\r?$", head)
    return [re.sub(r":[0-9]*$", "", each.decode("latin-1")).strip("[]") for each in found]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _reads_open_metrics(head: bytes) -> bool:
    """Whether the format stands in `accept`, with a weight that is not 0."""
    lines = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
    accepted = b",".join(value for name, _, value in lines if name == b"accept").split(b",")
    kinds = ([part.strip() for part in each.split(b";")] for each in accepted)
    return any(kind == OPEN_METRICS.encode() and not _NEVER.intersection(rest) for kind, *rest in kinds)


_NEVER = frozenset({b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"})


def _response(status: HTTPStatus, body: dict[str, Any] | None = None, extra: str = "") -> bytes:
    content = json.dumps({"error": status.phrase} if body is None else body).encode() + b"\n"
    return _whole(status, "application/json", content, extra)


def _whole(status: HTTPStatus, content_type: str, content: bytes, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n{extra}\r\n"
    )
    return head.encode() + content
