"""What systemd is told of a service of `Type=notify` (sd_notify(3)): that it is ready, still alive, about to end.

    notify.send("READY=1")
    async with notify.watched(): ...     # a sign of life from the event loop, as often as WatchdogSec= asks for it

Where no one listens, none of it does anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator


def send(state: str) -> None:
    """Send lines of `NAME=VALUE` to NOTIFY_SOCKET: a path, or `@` and an abstract name. A listener that is gone, or
    that reads nothing, costs nothing but the message.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(state.encode())


def watchdog_seconds() -> float | None:
    """How long this process may be silent; None where nobody minds."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1e6 or None
    except ValueError:
        return None


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[None]:
    """As long as this lasts, tell that the loop turns, twice in the time that it may be silent."""
    seconds = watchdog_seconds()
    alive = asyncio.create_task(_tell_alive(seconds / 2)) if seconds else None
    try:
        yield
    finally:
        if alive is not None:
            alive.cancel()


async def _tell_alive(seconds: float) -> None:
    while True:
        send("WATCHDOG=1")
        await asyncio.sleep(seconds)
