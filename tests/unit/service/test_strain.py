"""A transport under strain, looked at from outside: memory, and file descriptors.

Streams that come and go leave no memory behind (grpc#43360 is how one loses it).

The allocators keep a few megabytes more or less between two looks. grpc.aio itself loses some 200 bytes for each
stream that is reset, also with the smallest handler there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from support import echo_server
from support.transports import SECONDS, Talk, connected

from extproc.service.transport import PROCESS

AT_ONCE = 50
CHUNK = b"x" * 65536


class EchoServer:
    """A transport in another process."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.process = subprocess.Popen(
            [sys.executable, echo_server.__file__, transport, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().removeprefix("ready ").strip()

    def memory(self) -> int:
        """Its resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(params=["http2", "aio"])
def echo(request: pytest.FixtureRequest) -> Iterator[EchoServer]:
    """Each transport in turn."""
    server = EchoServer(request.param)
    yield server
    server.process.terminate()
    assert server.process.wait(150) == 0
    server.process.communicate()


IDLE = 1100


@pytest.mark.parametrize("words", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"], ids=["silent", "http2"])
def test_idle_connections_keep_nobody_out(echo: EchoServer, words: bytes) -> None:
    """Eleven hundred of them, silent or not, and the next one is served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * IDLE:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, _, port = echo.address.rpartition(":")
    try:
        with contextlib.ExitStack() as idle:
            for _ in range(IDLE):
                client = idle.enter_context(socket.create_connection((host, int(port)), SECONDS))
                client.sendall(words)
            with connected(echo.address) as channel:
                talk = Talk(channel)
                assert talk.ask(b"hello") == b"hello"
                talk.half_close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _cancel_in_mid_upload(channel: Any, number: int) -> None:
    for _ in range(number):
        call = channel.stream_stream(PROCESS)()
        await call.write(b"headers")
        assert await call.read() == b"headers"
        await call.write(CHUNK)
        call.cancel()


async def _churn(address: str, streams: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.gather(*(_cancel_in_mid_upload(channel, streams // AT_ONCE) for _ in range(AT_ONCE)))


@pytest.mark.parametrize("streams", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_cancelled_streams_leave_nothing(echo: EchoServer, streams: int) -> None:
    """As many streams again, cancelled in the middle of an upload, and the memory is what it was."""
    asyncio.run(_churn(echo.address, streams))
    before = echo.memory()
    asyncio.run(_churn(echo.address, streams))
    lost_by_grpc = 400 * streams if echo.transport == "aio" else 0
    assert echo.memory() - before < 8_000_000 + lost_by_grpc


def test_file_descriptors_run_out(echo: EchoServer) -> None:
    """It stops accepting, keeps what it has, and accepts again when there is room."""
    host, _, port = echo.address.rpartition(":")
    with connected(echo.address) as channel:
        before = Talk(channel)
        assert before.ask(b"hello") == b"hello"
        resource.prlimit(echo.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        many = [socket.create_connection((host, int(port)), SECONDS) for _ in range(200)]
        assert before.ask(b"hello") == b"hello"
        for each in many:
            each.close()
        with connected(echo.address) as another:
            after = Talk(another)
            assert after.ask(b"hello") == b"hello"
            after.half_close()
        before.half_close()
