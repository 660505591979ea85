"""The demo backend under a supervisor: started again some seconds after each end, at the same port."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final

from extproc.mock.dying import NOT_READY
from extproc.processes.child import Child

_STOP_SECONDS: Final = 3.0
_PORT: Final = re.compile(r":(\d+)$")


async def keep(command: Sequence[str], after: float, report: Callable[[str], None], warn: Callable[[str], None]) -> int:
    """Run a command, and again `after` seconds after each end by itself, until cancelled; `--port` is added to it.

    `report` gets its lines, `ready` with the address at each start among them; `warn` how it ended. Returns only
    when it did not come up: its exit code.
    """
    port: list[str] = []
    while True:
        child = await Child.start(*command, *port)
        try:
            line = (await child.line()).strip()
            if (found := _PORT.search(line)) is None:
                await child.ended()
                return child.code or 0
            port = ["--port", found[1]]
            report(line)
            why = await child.ended()
        except asyncio.CancelledError:
            await child.stop(_STOP_SECONDS)
            raise
        delay = 0.0 if child.code == NOT_READY else after
        warn(f"{why}; starting it again in {delay:g} s")
        await asyncio.sleep(delay)


def command() -> list[str]:
    """This program as it was called, as the child of a supervisor."""
    return [sys.executable, "-m", "extproc", *sys.argv[1:], "--supervised"]
