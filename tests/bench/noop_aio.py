"""A no-op ext_proc server on grpc.aio and uvloop: `noop_aio.py SOCKET`, target (b) of the bench."""

from __future__ import annotations

import signal
import sys
from typing import Any

import grpc.aio
import uvloop
from bench.replies import HEALTH_CHECK, PROCESS, REPLIES, SERVING


async def process(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """Answer each message of a stream."""
    while isinstance(message := await context.read(), bytes):
        await context.write(REPLIES[message[0]])


async def check(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Say that we serve."""
    return SERVING


class Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Process and the health check, on bytes."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return {
            PROCESS: grpc.stream_stream_rpc_method_handler(process),
            HEALTH_CHECK: grpc.unary_unary_rpc_method_handler(check),
        }.get(handler_call_details.method)


async def serve(path: str) -> None:
    """Serve on a Unix socket, for ever."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Handlers(),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print("ready", path, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    uvloop.run(serve(sys.argv[1]))
