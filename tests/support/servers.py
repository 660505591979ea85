"""Several servers of the test's own behind a recipe, which answer at once, or hold an answer open for a while.

with Servers(3) as servers, Recipe("least-request", tmp_path, backends=servers.ports) as recipe:
    stream = servers.open_stream(recipe.port)     # its answer has begun, and goes on until ...
    servers.end_streams()
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from support.raw import SOCKET_SECONDS, Connection, Head, Message, RawBackend

_BEGINNING = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = b"9\r\ndata: a\n\n\r\n"
_END = b"0\r\n\r\n"


class Stream(NamedTuple):
    """An answer that has begun."""

    connection: Connection
    head: Head

    @property
    def upstream(self) -> str:
        return self.head.get("x-upstream") or "none"

    @property
    def id(self) -> str:
        """The exchange's."""
        return self.head.get("x-audit-id") or "none"

    def rest(self) -> Message:
        """What is still to come, to the end; then the connection is closed."""
        with self.connection:
            return self.connection.finish(self.head)


class Servers:
    """As many as are asked for, in the places of 8001, 8002, ... `failing`: the status that a server answers with
    instead of 200, by its number from 0."""

    def __init__(self, number: int) -> None:
        self.all = [RawBackend() for _ in range(number)]
        self.failing: dict[int, int] = {}
        self._end = threading.Event()
        for index, server in enumerate(self.all):
            server.otherwise = self._script(index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        for server in self.all:
            server.stop()

    @property
    def ports(self) -> dict[int, int]:
        """For `Recipe(backends=...)`."""
        return {8001 + index: server.port for index, server in enumerate(self.all)}

    def address(self, index: int) -> str:
        """As in `x-upstream`."""
        return f"127.0.0.1:{self.all[index].port}"

    def replace(self, index: int) -> None:
        """A new server where one was stopped."""
        self.all[index] = RawBackend(port=self.all[index].port)
        self.all[index].otherwise = self._script(index)

    def open_stream(self, port: int, body: bytes = b"", headers: str = "") -> Stream:
        """A request whose answer has begun, and ends with `end_streams`; of no API that says how its streams end."""
        connection = Connection.to(port)
        head = f"POST /v1/stream HTTP/1.1\r\nhost: a\r\nx-hold: 1\r\ncontent-length: {len(body)}\r\n{headers}"
        connection.send(f"{head}\r\n".encode() + body)
        return Stream(connection, connection.read_head())

    def end_streams(self) -> None:
        """Let all answers come to their end."""
        self._end.set()
        self._end = threading.Event()

    def _script(self, index: int) -> Callable[[Connection, Head], None]:
        def script(connection: Connection, head: Head) -> None:
            end = self._end
            connection.finish(head)
            if head.get("x-hold") is None:
                status = self.failing.get(index, 200)
                connection.send(b"HTTP/1.1 %d Status\r\ncontent-length: 0\r\n\r\n" % status)
                return
            connection.send(_BEGINNING + _EVENT)
            end.wait(SOCKET_SECONDS)
            connection.send(_EVENT + _END)

        return script


def plain(client: Any, number: int = 0) -> Any:
    """A request that is answered at once; each number has a URI of its own."""
    return client.ask("GET", f"/v1/models?number={number}")
