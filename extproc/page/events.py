"""What happens now, for everybody who watches: looked for once, given to all, and not at all while nobody does.

    async with feed.watching() as events:
        async for event in events: ...     # ("inflight", [...]), ("ended", [...])

Somebody who is slow loses what is old: the newest state is what counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from extproc.errors import ExtprocError
from extproc.page.types import Row

TICK_SECONDS: Final = 1.0
NEWEST: Final = 200
"""Of what ended last so many are looked at; with more in a tick the rest is left out, and is in the list of all."""
_QUEUED: Final = 32
_PAUSE_SECONDS: Final = 5.0

log = logging.getLogger("extproc.page")

Event = tuple[str, Any]
Seen = tuple[list[dict[str, Any]], list[Row]]
"""What is in flight, and what ended last, in that order."""
Look = Callable[[], Awaitable[Seen]]


class Feed:
    """Looks once a tick while somebody watches."""

    def __init__(self, look: Look, tick_seconds: float = TICK_SECONDS) -> None:
        self._look = look
        self._tick_seconds = tick_seconds
        self._watchers: set[asyncio.Queue[Event]] = set()
        self._task: asyncio.Task[None] | None = None
        self._seen: set[str] = set()
        self._last: Seen | None = None

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[AsyncIterator[Event]]:
        """Events from now on; what ended before comes first."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._watchers.add(queue)
        if self._task is None:
            self._last, self._seen = None, set()
            self._task = asyncio.create_task(self._run())
        elif self._last is not None:
            running, ended = self._last
            _put(queue, ("ended", ended))
            _put(queue, ("inflight", running))
        try:
            yield _from(queue)
        finally:
            self._watchers.discard(queue)
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        while True:
            try:
                running, ended = self._last = await self._look()
            except (ExtprocError, OSError) as error:
                log.warning("what happens now cannot be read: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            new = [each for each in ended if each.id not in self._seen]
            self._seen = {each.id for each in ended}
            for queue in self._watchers:
                if new:
                    _put(queue, ("ended", new))
                _put(queue, ("inflight", running))
            await asyncio.sleep(self._tick_seconds)


def _put(queue: asyncio.Queue[Event], event: Event) -> None:
    if queue.qsize() >= _QUEUED:
        queue.get_nowait()
    queue.put_nowait(event)


async def _from(queue: asyncio.Queue[Event]) -> AsyncIterator[Event]:
    while True:
        yield await queue.get()
