"""Start and end the bench's processes, and read what they cost: CPU time and resident memory, by process id."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1]


class Program:
    """A program of the bench that prints `ready ...` on stdout, once or `lines` times; its stderr goes to `log`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        lines: int = 1,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(map(str, command))
        self.log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                self.command,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(TESTS), **(environ or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                bufsize=1,
            )
        self.ready = [self._ready_line() for _ in range(lines)]

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def ask(self, line: str) -> str:
        """Write a line to its stdin and return the line it answers with."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        if not (answer := self.process.stdout.readline()):
            raise SystemExit(f"{self.command} has ended\n{self.log.read_text()[-2000:]}")
        return answer

    def stop(self) -> None:
        """End it, the hard way after 15 seconds."""
        self.process.terminate()
        try:
            self.process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def _ready_line(self, timeout: float = 30) -> str:
        assert self.process.stdout
        late = threading.Timer(timeout, self.process.kill)
        late.start()
        line = self.process.stdout.readline()
        late.cancel()
        if not line.startswith("ready "):
            self.stop()
            raise SystemExit(f"{self.command} did not become ready: {line!r}\n{self.log.read_text()[-2000:]}")
        return line.removeprefix("ready ").strip()


def start(
    command: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that says nothing when it is ready. `environ`: what it has beyond our own variables."""
    environment = {**os.environ, **(environ or {})}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=log.parent, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it, the hard way after 5 seconds."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, ended ones too, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """Resident set size of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    """The living descendants of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found + [below for child in found for below in children(child)]


def command_line(pid: int) -> str:
    """What a process was started with; empty once it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
