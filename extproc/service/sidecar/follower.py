"""The follower's process, or the shipper's, kept going by the supervisor. Traffic never depends on them.

    follower = FollowerProcess(config)
    await follower.start()       # returns at once; it is started again whenever it ends
    text = await follower.metrics()
    await follower.stop()        # after the workers, so that it sees their last records

`extproc/follow/process.py` has the protocol; `extproc/fleet/process.py` speaks it but for the metrics.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any, Final

from extproc.config import Config
from extproc.processes.child import Child

log = logging.getLogger("extproc.service")

PROGRAM: Final = (sys.executable, "-m", "extproc.follow.process")
SHIPPER: Final = (sys.executable, "-m", "extproc.fleet.process")
STOP_SECONDS: Final = 7.0
METRICS_SECONDS: Final = 3.0
BACK_OFF_SECONDS: Final = (0.5, 1.0, 5.0, 15.0)
SILENT_SECONDS: Final = 5.0
"""It tells its state once a second; one that has been silent for so long is stopped or stuck."""


class FollowerProcess:
    """One process after another."""

    def __init__(self, config: Config, program: tuple[str, ...] = PROGRAM, *, name: str = "follower") -> None:
        self.restarts = 0
        self.state: dict[str, Any] = {}
        """What it has said of itself last."""
        self._ready = False
        self._heard_at = 0.0
        self._name = name
        self._config = config
        self._program = program
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._asking = asyncio.Lock()
        self._stopping = False

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child is not None and child.runs else None

    @property
    def up(self) -> bool:
        """Whether it runs and has been heard lately."""
        return self._ready and self._silent_seconds < SILENT_SECONDS

    @property
    def lag_seconds(self) -> float | None:
        """How far it is behind, by its last word and the time since; None while it has said nothing."""
        lag: float | None = self.state.get("lag_seconds")
        if lag is None or self._silent_seconds < SILENT_SECONDS:
            return lag
        return round(lag + self._silent_seconds, 3)

    @property
    def _silent_seconds(self) -> float:
        return time.monotonic() - self._heard_at

    def readiness(self) -> dict[str, Any]:
        """Its part of /readyz, which informs and does not decide."""
        return {self._name: {"up": self.up, "lag_seconds": self.lag_seconds}}

    async def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Let it read and export what is there, within its limit."""
        self._stopping = True
        if self._child is not None:
            await self._child.stop(STOP_SECONDS)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def metrics(self, *, open_metrics: bool = False) -> bytes:
        """Its metrics in Prometheus's format or OpenMetrics'; empty while it is down or does not answer in time."""
        child = self._child
        if not self.up or child is None:
            return b""
        async with self._asking:
            self._answer = asyncio.get_running_loop().create_future()
            try:
                child.send("openmetrics" if open_metrics else "metrics")
                async with asyncio.timeout(METRICS_SECONDS):
                    return await self._answer
            except (TimeoutError, OSError):
                return b""
            finally:
                self._answer = None

    async def _keep(self) -> None:
        failures = 0
        while True:
            why = await self._run()
            self._ready = False
            if self._stopping:
                return
            failures = 0 if self.state else failures + 1
            pause = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)]
            log.warning("the %s %s; starting it again in %g s", self._name, why, pause)
            self.restarts += 1
            self.state = {}
            await asyncio.sleep(pause)

    async def _run(self) -> str:
        """One process from its start to its end; how it ended."""
        child = self._child = await Child.start(*self._program, first_line=self._config.to_json())
        said = await self._read(child)
        how = await child.ended()
        return said or how

    async def _read(self, child: Child) -> str:
        """What it says, until its end; why it could not start, if it says so."""
        async for line in child.lines():
            self._heard_at = time.monotonic()
            word, _, rest = line.partition(" ")
            match word:
                case "ready":
                    self._ready = True
                case "state":
                    self.state = json.loads(rest)
                case "metrics":
                    text = await child.read(int(rest))
                    if self._answer is not None and not self._answer.done():
                        self._answer.set_result(text)
                case "failed":
                    return f"could not start: {rest.partition(' ')[2]}"
        return ""
