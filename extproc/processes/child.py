"""Child processes that never outlive their parent, whatever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from typing import IO, Final

_PR_SET_PDEATHSIG: Final = 1

# Looked up here: between fork and exec nothing may be loaded.
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl


async def start(
    *command: str | os.PathLike[str], stdout: int | IO[bytes], stderr: int | IO[bytes] | None = None
) -> asyncio.subprocess.Process:
    """Start a process that is killed when this one dies, and that a Ctrl-C at the terminal does not reach."""
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        process_group=0,
        preexec_fn=_dying_with(os.getpid()),
    )


def _dying_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be said
            os._exit(1)

    return prepare


async def stop(process: asyncio.subprocess.Process, seconds: float) -> None:
    """SIGTERM, and SIGKILL when that takes longer."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def how_it_ended(code: int) -> str:
    """The end of a process in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
