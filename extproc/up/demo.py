"""The demo LLM servers of a stack for which no others are named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from extproc.errors import StackError
from extproc.processes.child import Child

_STOP_SECONDS: Final = 3.0


class DemoBackend:
    """One demo LLM server. A new process gets the port of the one before."""

    def __init__(self) -> None:
        self.port = 0
        self._child: Child | None = None

    async def start(self) -> None:
        child = self._child = await Child.start(sys.executable, "-m", "extproc", "mock-llm", "--port", str(self.port))
        word, _, url = (await child.line()).strip().partition(" ")
        if word != "ready":
            raise StackError(f"a demo backend did not start: it {await child.ended()}")
        self.port = int(url.rpartition(":")[2])

    async def keep(self, warn: Callable[[str], None]) -> None:
        """Start it again whenever it ends."""
        while True:
            assert self._child is not None
            warn(f"demo backend 127.0.0.1:{self.port} {await self._child.ended()}; starting it again")
            await self.start()

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(_STOP_SECONDS)
