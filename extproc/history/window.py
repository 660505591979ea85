"""Exchanges in the order of their start, as far as that is possible without keeping them all.

They come as they end, and one that takes ten minutes ends after thousands that began later. An exchange is held back
until so many later ones are held as well.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from extproc.history.join import Exchange


class Window:
    """Holds that many exchanges at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: list[tuple[str, int, Exchange]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, exchange: Exchange) -> Iterator[Exchange]:
        """Take one, and give out what must not be held back any longer."""
        self._count += 1  # of those that began together the one that ended first comes first
        heapq.heappush(self._held, (exchange.started_at, self._count, exchange))
        while len(self._held) > self._most:
            yield heapq.heappop(self._held)[2]

    def rest(self) -> Iterator[Exchange]:
        """Everything that is left."""
        while self._held:
            yield heapq.heappop(self._held)[2]
