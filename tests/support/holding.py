"""A backend that keeps every answer back until it is told to go on, and clients that wait for it.

with HoldingBackend() as backend:
    ...                                       # requests by other threads
    backend.wait_for(2)                       # two requests run
    backend.release()                         # all answers go out, later ones at once
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future

from support.raw import Connection, Head, RawBackend
from support.recipes import Answer, Recipe
from support.stack import eventually


class HoldingBackend(RawBackend):
    """`running` requests have come and not been answered; `most` is the most that there ever were at once. Of what it
    does not hold it answers each request at once."""

    def __init__(self, holds: Callable[[Head], bool] = lambda _: True) -> None:
        super().__init__()
        self._holds = holds
        self.running = 0
        self.most = 0
        self.requests: list[Head] = []
        self._go_on = threading.Event()
        self._lock = threading.Lock()
        self.otherwise = self._hold

    def wait_for(self, number: int) -> None:
        """Wait until so many requests run at once."""
        eventually(lambda: self.running == number, f"{number} requests at a backend that has {self.running}")

    def release(self) -> None:
        """Answer all that wait, and from now on everything at once."""
        self._go_on.set()

    def stop(self) -> None:
        self.release()
        super().stop()

    def _hold(self, connection: Connection, head: Head) -> None:
        connection.finish(head)
        with self._lock:
            self.requests.append(head)
            self.running += 1
            self.most = max(self.most, self.running)
        if self._holds(head):
            self._go_on.wait()
        with self._lock:
            self.running -= 1
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


class Crowd:
    """Clients that ask at the same time, each on its own connection."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._pool = concurrent.futures.ThreadPoolExecutor(64)
        self._numbers = itertools.count()

    def ask(self, **headers: str) -> Future[Answer]:
        """One more request; its number is in the header x-number."""
        return self._pool.submit(self._recipe.client().chat, x_number=str(next(self._numbers)), **headers)

    def close(self) -> None:
        """Wait for all answers."""
        self._pool.shutdown()
