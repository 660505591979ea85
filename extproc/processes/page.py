"""The page (`extproc page`) as a process beside `up` or `serve`, kept going. Traffic never depends on it.

async with page.beside(config, log.warning, output.announce):
    await stack.wait()
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from extproc.config import Config
from extproc.processes.child import Child

PAUSE_SECONDS: Final = 5.0
STOP_SECONDS: Final = 2.0


def command(config: Config) -> list[str]:
    """How it is started: with the settings of whoever starts it, whatever file they came from."""
    given = {
        "--config": os.devnull,
        "--data-dir": str(config.data_dir),
        "--host": config.page_host,
        "--port": str(config.page_port),
        "--jaeger-url": config.jaeger_url,
    }
    if config.page_token_file is not None:
        given["--token-file"] = str(config.page_token_file)
    if config.page_replay_to:
        given["--replay-to"] = ",".join(config.page_replay_to)
    return [sys.executable, "-m", "extproc", "page", *(word for pair in given.items() for word in pair)]


@contextlib.asynccontextmanager
async def beside(
    config: Config, warn: Callable[[str], None], report: Callable[[str], None], pause_seconds: float = PAUSE_SECONDS
) -> AsyncIterator[None]:
    """Keep one going while something else is done. `report` gets its address, `warn` what becomes of it later.

    One that does not start has said why on stderr, and is left at that.
    """
    keeper = asyncio.create_task(_keep(command(config), warn, report, pause_seconds))
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _keep(
    program: Sequence[str], warn: Callable[[str], None], report: Callable[[str], None], pause_seconds: float
) -> None:
    while True:
        child = await Child.start(*program)
        try:
            word, _, url = (await child.line()).partition(" ")
            if word != "ready":
                return
            report(f"page  {url}")
            warn(f"the page {await child.ended()}; starting it again")
        finally:
            await child.stop(STOP_SECONDS)
        await asyncio.sleep(pause_seconds)
