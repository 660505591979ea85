"""Health is the AND of named parts."""

from __future__ import annotations

import pytest
from grpc_health.v1 import health_pb2

from extproc.service import health
from extproc.service.health import Health


@pytest.mark.parametrize(
    ("journal", "disk", "serving"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_all_parts_have_to_be_well(journal: bool, disk: bool, serving: bool) -> None:
    """One that is not is enough, and each is named."""
    parts = Health({"journal": lambda: journal, "disk": lambda: disk})
    assert parts.serving is serving
    assert parts.parts() == {"accepting": True, "journal": journal, "disk": disk}


def test_parts_are_asked_each_time() -> None:
    """Nobody reports a change: the parts say how they are now."""
    answers = iter([True, False, True])
    parts = Health({"journal": lambda: next(answers)})
    assert [parts.serving for _ in range(3)] == [True, False, True]


def test_draining_is_for_good() -> None:
    """A worker that drains takes no new exchanges, however well it is."""
    parts = Health({"journal": lambda: True})
    parts.drain()
    assert parts.parts() == {"accepting": False, "journal": True}
    assert parts.status() == health.NOT_SERVING


@pytest.mark.parametrize(
    ("request_", "service"),
    [
        (health_pb2.HealthCheckRequest(service="").SerializeToString(), ""),
        (
            health_pb2.HealthCheckRequest(service=health.SERVICES[1]).SerializeToString(),
            "envoy.service.ext_proc.v3.ExternalProcessor",
        ),
        (health_pb2.HealthCheckRequest(service="other").SerializeToString(), None),
        (b"\x0a\x05abc", None),
        (b"\xff", None),
    ],
)
def test_the_service_of_a_request(request_: bytes, service: str | None) -> None:
    """Two names are ours; unknown names and damaged requests are none."""
    assert health.service_of(request_) == service
