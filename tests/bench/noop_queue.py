"""A no-op ext_proc server on grpcio's completion queue: `noop_queue.py SOCKET`, target (c) of the bench.

The floor of what the recorder can cost: the calls of its own transport, one thread, one batch a message, no journal.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from bench.replies import HEALTH_CHECK, REPLIES, SERVING
from grpc._cython import cygrpc  # type: ignore[attr-defined]

EMPTY = 0


class Stream:
    """One call. Its batches come one after the other; the close notice beside them keeps the call's state alive."""

    __slots__ = ("call", "closed", "health")

    def __init__(self, event: Any) -> None:
        self.call = event.call
        self.closed = False
        self.health = event.call_details.method == HEALTH_CHECK.encode()
        self.call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(EMPTY),), self.on_close)
        self.call.start_server_batch(
            (cygrpc.SendInitialMetadataOperation(None, EMPTY), cygrpc.ReceiveMessageOperation(EMPTY)), self.on_message
        )

    def on_close(self, event: Any) -> None:
        self.closed = True

    def on_message(self, event: Any) -> None:
        message = event.batch_operations[-1].message()
        if self.health and message is not None:
            self.call.start_server_batch(
                (cygrpc.SendMessageOperation(SERVING, EMPTY), self.status()), lambda event: None
            )
        elif message is not None:
            self.call.start_server_batch(
                (cygrpc.SendMessageOperation(REPLIES[message[0]], EMPTY), cygrpc.ReceiveMessageOperation(EMPTY)),
                self.on_message,
            )
        elif not self.closed:
            self.call.start_server_batch((self.status(),), lambda event: None)

    def status(self) -> Any:
        return cygrpc.SendStatusFromServerOperation(None, cygrpc.StatusCode.ok, b"", EMPTY)


def serve(path: str) -> None:
    """Serve on a Unix socket, for ever."""
    queue = cygrpc.CompletionQueue()
    server = cygrpc.Server((("grpc.max_receive_message_length", -1),), False)
    server.register_completion_queue(queue)
    if not server.add_http2_port(f"unix:{path}".encode()):
        raise SystemExit(f"cannot listen on {path}")
    server.start()
    print("ready", path, flush=True)
    call_tag = object()
    server.request_call(queue, queue, call_tag)
    while True:
        event = queue.poll(time.time() + 3600)
        if event.tag is call_tag:
            Stream(event)
            server.request_call(queue, queue, call_tag)
        elif event.tag is not None:
            event.tag(event)
        event = None  # an event that lives over the next poll holds its call


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve(sys.argv[1])
