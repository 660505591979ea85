"""Health: SERVING is the AND of named parts. What gRPC's health service and /readyz answer from.

A part is a function that says whether it is well now, so that nobody has to report a change. The transports
ask again at each of their ticks and tell the Watch streams what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

SERVICES = ("", "envoy.service.ext_proc.v3.ExternalProcessor")

_Status = health_pb2.HealthCheckResponse
SERVING: bytes = _Status(status=_Status.SERVING).SerializeToString()
NOT_SERVING: bytes = _Status(status=_Status.NOT_SERVING).SerializeToString()
SERVICE_UNKNOWN: bytes = _Status(status=_Status.SERVICE_UNKNOWN).SerializeToString()


class Health:
    """The parts of one worker. `drain` cannot be taken back."""

    def __init__(self, parts: Mapping[str, Callable[[], bool]]) -> None:
        self._parts = dict(parts)
        self._draining = False

    def drain(self) -> None:
        """From now on NOT_SERVING: no new exchanges are wanted."""
        self._draining = True

    def parts(self) -> dict[str, bool]:
        """Each part by name; `accepting` is ours: false while the worker drains."""
        return {"accepting": not self._draining} | {name: well() for name, well in self._parts.items()}

    @property
    def serving(self) -> bool:
        return all(self.parts().values())

    def status(self) -> bytes:
        """The serialised HealthCheckResponse of this moment."""
        return SERVING if self.serving else NOT_SERVING


def service_of(request: bytes) -> str | None:
    """The service that a HealthCheckRequest asks about; None: not one of ours, or no such message."""
    try:
        service: str = health_pb2.HealthCheckRequest.FromString(request).service
    except DecodeError:
        return None
    return service if service in SERVICES else None
