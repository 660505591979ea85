"""A transport in a process of its own, to look at from outside: `python echo_server.py NAME ADDRESS [MAX_STREAMS]`.

Echoes, prints `ready ADDRESS`, ends on SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable

from extproc.core.events import CloseReason
from extproc.service import aio, http2
from extproc.service.health import Health
from extproc.service.transport import Endpoint, Transport


class _Echo:
    def __init__(self, _metadata: Iterable[tuple[str, str | bytes]], _send: Callable[[bytes], None]) -> None:
        pass

    def receive(self, message: bytes) -> bytes:
        """The message itself."""
        return message

    def closed(self, reason: CloseReason) -> None:
        """Nothing to do."""


class _NoAccessLog:
    streams = 0

    def receive(self, message: bytes) -> None:
        """Nothing to do."""

    def outstanding(self) -> bool:
        """Nothing is waited for."""
        return False


class _NoTimers:
    in_flight = 0
    access_log = _NoAccessLog()

    def tick(self) -> None:
        """Nothing to do."""

    def drain(self) -> None:
        """Nothing to do."""


class _WithTable(http2.Http2Server):
    """For clients that use HPACK's table whatever the server says."""

    table_bytes = 4096


def main(transport: str, address: str, max_streams: str = "100000") -> None:
    """Serve until SIGTERM."""
    servers: dict[str, Callable[..., Transport]] = {
        "http2": http2.Http2Server,
        "http2_with_table": _WithTable,
        "aio": aio.AioServer,
    }
    server: Transport = servers[transport](
        Endpoint(address, max_streams=int(max_streams)), _Echo, _NoTimers(), Health({})
    )
    signal.signal(signal.SIGTERM, lambda *_: server.stop(0.0))
    print(f"ready {server.start()}", flush=True)
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
