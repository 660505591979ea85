"""The demo backend as a server that dies of what a rule says, and comes back by itself, or by a command.

with Mortal("response_format.type=text", "kill") as server:
    ...                               # server.url, server.deaths
"""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from support.commands import PROGRAM
from support.stack import end, eventually

QUICK = ("--ttft-ms", "5", "--tokens-per-second", "0")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mortal:
    """`extproc mock-llm --die-on RULE --die-how HOW --restart-after S` on a port of its own."""

    def __init__(
        self, *rules: str, how: str = "kill", restart_after: float | None = 0.1, pace: Sequence[str] = QUICK
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        again = () if restart_after is None else ("--restart-after", str(restart_after))
        die = [word for rule in rules for word in ("--die-on", rule)]
        self._command = [*PROGRAM, "mock-llm", "--port", str(self.port), *die, "--die-how", how, *again, *pace]

    def kill(self) -> None:
        """End it at once, as nobody who is well ends."""
        end(self._process, signal.SIGKILL)

    @property
    def command(self) -> str:
        """What starts it, for a shell."""
        return shlex.join(self._command)

    def __enter__(self) -> Self:
        self._log = tempfile.NamedTemporaryFile(suffix=".log")
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=subprocess.STDOUT)
        eventually(lambda: "ready" in self.log, "the server's ready line")
        return self

    def __exit__(self, *exception: object) -> None:
        end(self._process, signal.SIGTERM)
        self._log.close()

    @property
    def log(self) -> str:
        """What it has said."""
        return Path(self._log.name).read_text()

    @property
    def deaths(self) -> int:
        """How often it has died."""
        return len(re.findall("dies ", self.log))
