"""A collector that takes spans and forgets them: `otlp_sink.py` prints its port. For the targets that export spans."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Sink(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Answers every export with success."""

    def service(self, handler_call_details: Any) -> Any:
        """The one method."""
        return grpc.unary_unary_rpc_method_handler(self._export)

    def _export(self, request: bytes, _context: Any) -> bytes:
        return b""


def main() -> None:
    """Serve until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Sink()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready {port}", flush=True)
    ended.wait()
    server.stop(0)


if __name__ == "__main__":
    main()
