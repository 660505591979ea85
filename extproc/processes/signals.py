"""The signals that end a program in order: SIGTERM, SIGINT, and SIGHUP, the end of the terminal.

signals.call(stopping.set)               # at each signal, in the main thread
signals.call_in_loop(task.cancel)        # at each signal, in the running loop

ending = signals.Ending(sidecar.hurry)   # the first signal ends the work, each further one hurries the end
if not await ending.unless(work()): ...  # a signal came first
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any


def ending() -> list[signal.Signals]:
    """Those signals; without SIGHUP where `nohup` has it ignored."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def call(handler: Callable[[], object]) -> None:
    """Call a function at each of them, between any two instructions of the main thread."""
    for number in ending():
        signal.signal(number, lambda *_: handler())


def call_in_loop(handler: Callable[[], object]) -> None:
    """Call a function at each of them, in the running loop."""
    for number in ending():
        asyncio.get_running_loop().add_signal_handler(number, handler)


class Ending:
    """From its making on, the first signal ends what `unless` waits for; each further one calls `hurry`."""

    def __init__(self, hurry: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._hurry = hurry
        self._first = asyncio.Event()
        self._hurries: set[asyncio.Task[None]] = set()
        call_in_loop(self._received)

    def _received(self) -> None:
        if self._first.is_set():
            self._hurries.add(asyncio.ensure_future(self._hurry()))
        self._first.set()

    async def unless(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work and raise what it raises; False when a signal came first, and the work was cancelled."""
        task = asyncio.ensure_future(work)
        signalled = asyncio.ensure_future(self._first.wait())
        await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if task.done():
            await task
            return True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
