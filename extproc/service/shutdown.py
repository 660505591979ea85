"""The end of a server, the same for both transports: one ordered list, a step a tick.

for _ in shutdown.steps():      # until a stop is complete
    ...                         # handle events for RESOLUTION seconds, then `timers.tick()`
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Protocol

from extproc.service.health import Health
from extproc.service.transport import Timers

log = logging.getLogger("extproc.service")


class Shell(Protocol):
    """A transport, as far as its end goes."""

    @property
    def open(self) -> int:
        """Calls that have not ended, and streams whose gate is shut after their end."""
        ...

    @property
    def running(self) -> int:
        """The ext_proc streams among them."""
        ...

    def refuse(self) -> None:
        """No new connections, no new streams; those that run are left alone."""

    def cancel(self) -> None:
        """End the ext_proc streams, so that Envoy fails them closed."""

    def end(self) -> None:
        """End everything else."""


class Shutdown:
    """`stop` may be called by any thread or signal handler; all else is the loop's."""

    def __init__(
        self,
        shell: Shell,
        timers: Timers,
        health: Health,
        *,
        last_words: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.cancelling = False
        """What ends from now on ends because the server does."""
        self._shell = shell
        self._timers = timers
        self._health = health
        self._last_words = last_words
        self._clock = clock
        self._stop_at: float | None = None
        self._hurry = False
        self._was_quiet = False

    def stop(self, grace: float) -> None:
        """Give the exchanges in flight so many seconds. A second call waits for nothing more, and never longer."""
        at = self._clock() + grace
        self._hurry = self._stop_at is not None
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)

    def steps(self) -> Iterator[None]:
        """One step for each tick, until all is over."""
        shell, access_log = self._shell, self._timers.access_log
        while self._stop_at is None:
            yield
        self._health.drain()
        yield  # two ticks, in which the Watch streams hear of it before the connection goes away
        yield
        shell.refuse()
        while not self._quiet() and self._clock() < self._stop_at:
            yield
        self._timers.drain()
        self.cancelling = True
        shell.cancel()
        yield from self._last(lambda: self._hurry or not shell.running)
        while not self._hurry and access_log.outstanding():
            yield
        shell.end()
        yield
        yield from self._last(lambda: not shell.open)
        if shell.open:
            log.error("%d streams were still waiting for their gate at the end", shell.open)

    def _last(self, done: Callable[[], bool]) -> Iterator[None]:
        give_up = self._clock() + self._last_words
        while not done() and self._clock() < give_up:
            yield

    def _quiet(self) -> bool:
        """Nothing was in flight for a whole tick, so the last replies have left. Idle streams may be open."""
        quiet, self._was_quiet = self._was_quiet, self._timers.in_flight == 0
        return quiet and self._was_quiet
