"""What Envoy says of itself, read. The end-to-end tests run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extproc.envoy.process import proxy


@pytest.mark.parametrize(
    ("status", "healthy"),
    [
        ({}, True),
        ({"eds_health_status": "HEALTHY"}, True),
        ({"eds_health_status": "HEALTHY", "failed_active_health_check": True}, False),
        ({"eds_health_status": "HEALTHY", "failed_outlier_check": True}, False),
        ({"eds_health_status": "HEALTHY", "pending_active_hc": True}, False),
        ({"eds_health_status": "DRAINING"}, False),
    ],
)
def test_a_hosts_health(status: dict[str, Any], healthy: bool) -> None:
    """Every flag against it counts."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 8001}}
    cluster = {"name": "llm", "host_statuses": [{"address": address, "health_status": status}]}
    assert proxy._hosts(cluster) == {"127.0.0.1:8001": healthy}


def test_a_sockets_path() -> None:
    """Hosts on sockets are called by their path."""
    assert proxy._hosts({"host_statuses": [{"address": {"pipe": {"path": "/a"}}}]}) == {"/a": True}


def test_the_listeners_port() -> None:
    """That of the listener `ingress`, else of the first one."""

    def listener(name: str, port: int) -> dict[str, Any]:
        return {"name": name, "local_address": {"socket_address": {"port_value": port}}}

    assert proxy._port({"listener_statuses": [listener("other", 1), listener("ingress", 2)]}) == 2
    assert proxy._port({"listener_statuses": [listener("other", 1)]}) == 1
    assert proxy._port({}) == 0


def test_complaints(tmp_path: Path) -> None:
    """The last lines that are not Envoy's usual ones, and none when there is no log."""
    log = tmp_path / "log"
    envoy = proxy.Envoy(tmp_path, log)
    assert envoy.complaints() == []
    log.write_text("[1][info][main] a\n" + "".join(f"[1][critical][main] {n}\n" for n in range(40)) + "[1][debug] c\n")
    assert envoy.complaints() == [f"[1][critical][main] {number}" for number in range(28, 40)]
