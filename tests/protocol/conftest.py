"""A whole sidecar in this process: a transport, the recorder, the journal, each of them real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sidecar import Sidecar
from support.transports import MakeServer

from extproc.service import aio, http2


@pytest.fixture(params=[http2.Http2Server, aio.AioServer], ids=["http2", "aio"])
def make(request: pytest.FixtureRequest) -> MakeServer:
    """Each of the two transports in turn."""
    server: MakeServer = request.param
    return server


@pytest.fixture
def sidecar(make: MakeServer, tmp_path: Path) -> Iterator[Sidecar]:
    """A running sidecar with an empty journal."""
    with Sidecar(make, tmp_path) as running:
        yield running
