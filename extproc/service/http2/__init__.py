"""gRPC over HTTP/2 for one kind of peer: Envoy, on a Unix socket or on loopback, over a few long connections.

One thread and epoll, no asyncio and no grpcio. From the wire upwards:

    frames       what is on the wire: numbers, and the frames that a server writes
    fields       header blocks: HPACK, and what a request's fields mean
    states       the life of a stream, as a table
    stream       one stream: messages out of DATA, replies into it, both with flow control
    connection   one connection: frames to streams. Bytes in, bytes out, no sockets: this is what is fuzzed
    calls        the gRPC methods as streams
    server       sockets, the loop, timers, what comes from other threads

What a peer does wrong ends in the RST_STREAM or GOAWAY that RFC 9113 asks for. TLS is `aio.py`'s. Why this is our own
is in docs/decisions.
"""

from __future__ import annotations

from extproc.service.http2.server import Http2Server

__all__ = ["Http2Server"]
