"""Ports are looked at before anything is started."""

from __future__ import annotations

import socket

import pytest

from extproc.service.sidecar import ports
from extproc.service.sidecar.ports import Port, PortsInUse


def test_free_ports_are_fine() -> None:
    """Port 0 as often as one likes, on either family; nothing is held afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    for _ in range(2):
        ports.check([Port("127.0.0.1", free, "--port"), Port("127.0.0.1", 0, "--admin-port"), Port("::1", 0, "listen")])


def test_all_that_are_taken_are_said() -> None:
    """A line for each: in use, wanted twice, or of an address that is not ours."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as other:
            twice = other.getsockname()[1]
        with pytest.raises(PortsInUse) as raised:
            ports.check(
                [
                    Port("127.0.0.1", taken, "--port"),
                    Port("127.0.0.1", twice, "--admin-port"),
                    Port("127.0.0.1", twice, "--envoy-admin-port"),
                    Port("192.0.2.1", 80, "--listen"),
                ]
            )
    assert raised.value.lines == [
        f"port {taken} on 127.0.0.1 cannot be used: Address already in use; name another one with --port",
        f"port {twice} on 127.0.0.1 cannot be used: Address already in use; name another one with --envoy-admin-port",
        "port 80 on 192.0.2.1 cannot be used: Cannot assign requested address; name another one with --listen",
    ]
