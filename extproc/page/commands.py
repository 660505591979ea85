"""What other commands of ours say, in processes of their own: long work and much memory end with them.

incidents = Said(("incidents", "--json"), directories, keep_seconds=10)
await incidents.objects()       # a JSON object for each line; CommandFailed with what the command said
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from extproc.errors import ExtprocError


class CommandFailed(ExtprocError):
    """A command did not answer. The text is its own."""


class Said:
    """The last answer of a command, for a while. However many ask at once, one process runs."""

    def __init__(self, command: Sequence[str], directories: Sequence[Path], keep_seconds: float) -> None:
        self._command = command
        self._directories = directories
        self._keep_seconds = keep_seconds
        self._asking = asyncio.Lock()
        self._objects: list[Any] = []
        self._until = 0.0

    async def objects(self) -> list[Any]:
        """What it says, an object a line."""
        async with self._asking:
            if time.monotonic() >= self._until:
                lines = (await printed(self._command, self._directories)).splitlines()
                self._objects = [msgspec.json.decode(line) for line in lines if line]
                self._until = time.monotonic() + self._keep_seconds
            return self._objects


async def printed(command: Sequence[str], directories: Sequence[Path]) -> bytes:
    """What a command prints. Raises CommandFailed where it prints nothing and fails."""
    named = [word for directory in directories for word in ("--data-dir", str(directory))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "extproc", *command, *named, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        out, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode and not out:  # `status` ends with 1 where nothing is recorded, and says so
        raise CommandFailed(said.decode(errors="replace").strip() or "it failed without a word")
    return out
