"""One child process: started, heard, told to end, and how it ended. It never outlives its parent.

    child = await Child.start("envoy", "-c", path, stdout=log)           # killed when we die
    child = await Child.start(*program, first_line=config)               # ends by itself when we die: its input ends
    async for line in child.lines(): ...
    why = await child.ended()                                            # "was killed by SIGKILL"
    await child.stop(5.0)                                                # SIGTERM, then SIGKILL

A Ctrl-C at the terminal reaches none of them: it is for the parent, which ends them in its own order.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from typing import IO, Final, Self

KILL_SECONDS: Final = 5.0
"""Even SIGKILL has to wait for a disk that hangs; nobody waits longer for it."""
_LINE_BYTES: Final = 1024 * 1024
_PR_SET_PDEATHSIG: Final = 1

# Looked up here: between fork and exec nothing may be loaded.
_PRCTL = ctypes.CDLL(None, use_errno=True).prctl


class Child:
    """A process that was started here. Whatever is done to one that has ended already does nothing."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    @classmethod
    async def start(
        cls,
        *command: str | os.PathLike[str],
        first_line: str | None = None,
        stdout: int | IO[bytes] = PIPE,
        stderr: int | IO[bytes] | None = None,
    ) -> Self:
        """Start a program. Raises OSError.

        `first_line` is that of its standard input, which then stays open: such a program ends by itself when
        its input does. Any other is killed when this process dies.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL if first_line is None else PIPE,
            stdout=stdout,
            stderr=stderr,
            limit=_LINE_BYTES,
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()) if first_line is None else None,
        )
        child = cls(process)
        if first_line is not None:
            child.send(first_line)
        return child

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    @property
    def code(self) -> int | None:
        """The exit code, or the signal as a negative number; None while it runs."""
        return self._process.returncode

    def send(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def line(self) -> str:
        """The next line of its standard output, without its end; empty once that has ended."""
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().rstrip("\n")

    async def lines(self) -> AsyncIterator[str]:
        """The lines of its standard output until that ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield line.decode().rstrip("\n")

    async def read(self, size: int) -> bytes:
        """So many bytes of its standard output, which a line has announced."""
        assert self._process.stdout is not None
        return await self._process.stdout.readexactly(size)

    async def ended(self) -> str:
        """Wait for its end; how it ended, in words."""
        return how_it_ended(await self._process.wait())

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.runs:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL when that takes longer."""
        self.signal(signal.SIGTERM)
        await self.gone(seconds)

    async def gone(self, seconds: float) -> None:
        """Wait for its end, and make it end when that takes longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        if self.runs:
            await self.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def kill(self) -> None:
        """SIGKILL, and wait for the end, though not for ever."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await self._process.wait()


def how_it_ended(code: int) -> str:
    """The end of a process in words that follow its name."""
    why = cause(code)
    return f"was {why}" if why.startswith("killed") else f"ended with {why}"


def cause(code: int) -> str:
    """The end of a process in words that follow a colon."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _dying_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be said
            os._exit(1)

    return prepare
