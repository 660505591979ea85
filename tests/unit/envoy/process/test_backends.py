"""What the operator is told of backends while Envoy serves."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.envoy.config.names import Name
from extproc.envoy.process.backends import Host, Watch

A = Name("llm", "a.example", "a.example")


def host(why: str | None = "", name: str = "a.example", cluster: str = "llm", address: str = "10.0.0.1:80") -> Host:
    """A host as Envoy has it."""
    return Host(cluster, address, name, why)


UNHEALTHY = "! backend 10.0.0.1:80 (a.example) of llm is unhealthy: its health check fails"
HEALTHY = "backend 10.0.0.1:80 (a.example) of llm is healthy again"
LOST = "! backend a.example of llm: the name does not resolve, so that it gets no requests"
FOUND = "backend a.example of llm: the name resolves now"
FAILS = "its health check fails"


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        pytest.param([[host()], [host()]], [], id="all is well"),
        pytest.param([[host(FAILS)], [host(FAILS)]], [UNHEALTHY], id="unwell from the beginning"),
        pytest.param([[host()], [host(FAILS)], [host()], [host(FAILS)]], [UNHEALTHY, HEALTHY, UNHEALTHY], id="again"),
        pytest.param([[host(None)], [host()]], [], id="new, not checked yet"),
        pytest.param([[host(FAILS)], [host("ejected")]], [UNHEALTHY], id="for another reason"),
        pytest.param(
            [[host(FAILS)], [host(name="x", address="10.0.0.2:80")], [host()]], [UNHEALTHY, LOST, FOUND], id="gone"
        ),
        pytest.param([[host(FAILS, cluster="extproc"), host()]], [], id="a worker of ours"),
        pytest.param([[], [host()]], [LOST, FOUND], id="a name"),
        pytest.param([[], []], [LOST], id="a name that never resolves"),
    ],
)
def test_each_change_is_told_once(looks: list[list[Host]], told: list[str]) -> None:
    """What is wrong at the first look, and then what changes; `!` is bad news."""
    watch = Watch()
    changes = [change for hosts in looks for change in watch.look(hosts, {A})]
    assert [("! " if change.bad else "") + change.text for change in changes] == told


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"eds_health_status": "HEALTHY"}, ""),
        ({}, ""),
        ({"failed_active_health_check": True, "eds_health_status": "HEALTHY"}, "its health check fails"),
        (
            {"failed_active_health_check": True, "active_hc_timeout": True},
            "its health check gets no answer in time",
        ),
        ({"failed_active_health_check": True, "pending_active_hc": True}, None),
        ({"failed_outlier_check": True}, "ejected, as requests to it failed"),
        ({"eds_health_status": "DRAINING"}, "its discovery says DRAINING"),
    ],
)
def test_why_a_host_is_unhealthy(status: dict[str, Any], why: str | None) -> None:
    """Envoy's flags in words."""
    socket = {"socket_address": {"address": "10.0.0.1", "port_value": 80}}
    entry = {"address": socket, "health_status": status, "hostname": "a.example"}
    assert Host.of("llm", entry) == Host("llm", "10.0.0.1:80", "a.example", why)
