"""Both transports, each running on a port of loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.transports import Channel, Fake, MakeServer, Running, connected, running

from extproc.service import aio, http2
from extproc.service.transport import Endpoint


@pytest.fixture(params=[http2.Http2Server, aio.AioServer], ids=["http2", "aio"])
def make(request: pytest.FixtureRequest) -> MakeServer:
    """Each of the two transports in turn."""
    server: MakeServer = request.param
    return server


@pytest.fixture
def fake() -> Fake:
    """What stands above the transport."""
    return Fake()


@pytest.fixture
def server(make: MakeServer, fake: Fake) -> Iterator[Running]:
    """A running transport."""
    with running(make, fake, Endpoint("127.0.0.1:0")) as started:
        yield started


@pytest.fixture
def channel(server: Running) -> Iterator[Channel]:
    """A client's connection to it."""
    with connected(server.address) as opened:
        yield opened
