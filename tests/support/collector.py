"""A collector that keeps the spans it is sent (OTLP over gRPC)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """A running one; `url` is where it listens. `status`: what it answers, OK unless a test sets another."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.status = grpc.StatusCode.OK
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[self])
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()

    def ids(self) -> list[str]:
        """The exchanges whose spans have come, as often as they came."""
        with self._lock:
            return [
                attribute.value.string_value
                for span in self.spans
                for attribute in span.attributes
                if attribute.key == "extproc.exchange.id"
            ]

    def service(self, handler_call_details: Any) -> Any:
        """The one method."""
        return grpc.unary_unary_rpc_method_handler(self._export)

    def _export(self, request: bytes, context: Any) -> bytes:
        if self.status is not grpc.StatusCode.OK:
            context.abort(self.status, "no")
        message = ExportTraceServiceRequest.FromString(request)
        with self._lock:
            for resource in message.resource_spans:
                self.services.update(
                    each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
                )
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        return b""
