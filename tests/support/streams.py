"""A backend whose streams do as their requests say, until they are released.

with Backend() as backend:
    ask(stack, "events=2")      # two events, and then nothing
    ask(stack, "events=0")      # not even a head
    ask(stack, "drip")          # an event again and again
    ask(stack, "fail")          # 500 at once
    backend.release.set()       # all of them end
"""

from __future__ import annotations

import threading

from support.raw import SOCKET_SECONDS, Connection, Head, RawBackend
from support.stack import RunningStack

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_DRIP_SECONDS = 0.05


class Backend(RawBackend):
    """`release` ends what it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.otherwise = self._script

    def _script(self, connection: Connection, head: Head) -> None:
        connection.finish(head)
        _, _, query = head.path.partition("?")
        if query == "fail":
            connection.send(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")
            return
        events = int(query.partition("events=")[2] or 0)
        began = query == "drip" or events > 0
        if began:
            connection.send(_HEAD)
        for _ in range(events):
            _send_event(connection)
        while query == "drip" and not self.release.wait(_DRIP_SECONDS):
            _send_event(connection)
        self.release.wait(SOCKET_SECONDS)
        if not began:
            connection.send(_HEAD)
        connection.send(b"0\r\n\r\n")


def _send_event(connection: Connection) -> None:
    connection.send(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))


def ask(stack: RunningStack, query: str) -> Connection:
    """Begin a request."""
    connection = Connection.to(stack.port)
    body = b'{"model":"demo","stream":true,"messages":[]}'
    path = f"/v1/chat/completions?{query}"
    connection.send(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    return connection
