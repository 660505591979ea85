"""A no-op ext_proc server on the recorder's own transport: `noop_http2.py SOCKET`, target (c) of the bench.

The floor of what the recorder can cost: its HTTP/2, its loop, and no journal.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable

from bench.replies import REPLIES

from extproc.core.events import CloseReason
from extproc.service import http2
from extproc.service.health import Health
from extproc.service.transport import Endpoint


class Processor:
    """Answers each message with the empty reply of its kind."""

    def __init__(self, _metadata: Iterable[tuple[str, str | bytes]], _send: Callable[[bytes], None]) -> None:
        pass

    def receive(self, message: bytes) -> bytes:
        return REPLIES[message[0]]

    def closed(self, reason: CloseReason) -> None:
        pass


class NoAccessLog:
    """Entries are dropped."""

    streams = 0

    def receive(self, message: bytes) -> None:
        pass

    def outstanding(self) -> bool:
        return False


class NoTimers:
    """Nothing is due."""

    in_flight = 0
    access_log = NoAccessLog()

    def tick(self) -> None:
        pass

    def drain(self) -> None:
        pass


def serve(path: str) -> None:
    """Serve on a Unix socket, for ever."""
    server = http2.Http2Server(Endpoint(f"unix:{path}"), Processor, NoTimers(), Health({}))
    server.start()
    print("ready", path, flush=True)
    server.run()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve(sys.argv[1])
