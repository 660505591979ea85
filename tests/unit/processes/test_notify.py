"""What systemd is told, over a socket that the test listens on."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.processes import notify


@pytest.fixture(params=["path", "abstract"])
def listener(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The service manager's end, by a path or an abstract name."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name.replace("@", "\0", 1))
        server.settimeout(150)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield server


def test_what_is_told_arrives(listener: socket.socket) -> None:
    """As one datagram, word for word."""
    notify.send("READY=1\nSTATUS=recording")
    assert listener.recv(1000) == b"READY=1\nSTATUS=recording"


def test_a_sign_of_life_as_long_as_it_lasts(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one."""
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

    async def work() -> None:
        async with notify.watched():
            for _ in range(3):
                assert await asyncio.to_thread(listener.recv, 1000) == b"WATCHDOG=1"

    asyncio.run(work())
    notify.send("after")
    while (told := listener.recv(1000)) != b"after":
        assert told == b"WATCHDOG=1"  # sent before the end


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        (None, None, None),
        ("30000000", None, 30.0),
        ("30000000", "own", 30.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
    ],
)
def test_who_minds_silence(
    usec: str | None, pid: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time for another process is none for this one; neither is one that is no number."""
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_seconds() == seconds


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/at/all", "@nobody"])
def test_without_a_listener_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does not depend on being heard."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.send("READY=1")


def test_a_listener_that_reads_nothing_holds_nobody_up(listener: socket.socket) -> None:
    """Once its queue is full, messages are dropped."""
    for _ in range(2000):
        notify.send("WATCHDOG=1")
    assert listener.recv(1000) == b"WATCHDOG=1"
