"""The whole stack as its users start it: `extproc up` in a process of its own, on free ports, in its own directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from support.commands import PROGRAM

from extproc.history import lookup, reader, verify
from extproc.history.join import Exchange

T = TypeVar("T")

PATIENCE_SECONDS = 90.0
"""Only what hangs ever meets it."""


def eventually(ask: Callable[[], T | None], what: str) -> T:
    """The first answer that is not None or False. Fails, saying what never came."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = 0.01
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(pause)
        pause = min(1.3 * pause, 0.1)  # to ask may cost as much as what is waited for: a journal is read each time


def end(process: subprocess.Popen[Any], number: signal.Signals) -> int:
    """End a process by a signal, if it has not ended yet; its exit code. What does not end in time is killed."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def whole_lines(path: Path) -> str:
    """What a file that others write to has of whole lines: the last one may be in the making."""
    text = path.read_text()
    return text[: text.rfind("\n") + 1]


class RunningStack:
    """`extproc up` from entering to leaving. `arguments` are further flags; `settings` are given in the
    environment, as are variables in capitals."""

    def __init__(self, directory: Path, *arguments: str | Path, **settings: object) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self._arguments = [str(argument) for argument in arguments]
        names = {name: name if name.isupper() else f"EXTPROC_{name.upper()}" for name in settings}
        self._env = {"EXTPROC_PAGE": "off"} | {names[name]: str(value) for name, value in settings.items()}

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        ports = ("--port", "0", "--admin-port", "0", "--envoy-admin-port", "0")
        with (self.directory / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [*PROGRAM, "up", *ports, "--data-dir", str(self.data_dir), *self._arguments],
                cwd=self.directory,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **self._env},
                text=True,
            )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        urls = re.findall(r"https?://127\.0\.0\.1:[0-9]+", self.ready_line)
        if not self.ready_line.startswith("ready ") or len(urls) != 3:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no ready line but {self.ready_line!r}; {self.stderr()}")
        self.url, self.envoy_admin, self.admin = urls
        self.port = urllib.parse.urlsplit(self.url).port or 0
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal, if it has not ended yet; its exit code."""
        try:
            return end(self.process, number)
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()

    def stderr(self) -> str:
        """What it has said to the operator."""
        return whole_lines(self.directory / "stderr")

    # Its processes ---------------------------------------------------------------------------------------------

    def children(self) -> dict[int, str]:
        """The command lines of its child processes by process id."""
        return {pid: line for pid in _children(self.process.pid) if (line := _command_line(pid))}

    def workers(self) -> dict[int, int]:
        """The process ids of the sidecar's workers by index."""
        found = (
            (re.search(r"service\.sidecar\.worker --index (\d+)", line), pid) for pid, line in self.children().items()
        )
        return {int(match[1]): pid for match, pid in found if match}

    def envoy(self) -> int:
        """Envoy's process id."""
        pid = self.process_of("envoy")
        assert pid is not None
        return pid

    def process_of(self, role: str, index: int = 0) -> int | None:
        """The process id of its `supervisor`, `envoy`, `follower`, `shipper`, or of its `worker` of that index; None
        while there is none."""
        match role:
            case "worker":
                return self.workers().get(index)
            case "supervisor":
                return self.process.pid
        return next((pid for pid, line in self.children().items() if _RUNS[role] in line), None)

    # What it has recorded --------------------------------------------------------------------------------------

    def exchanges(self) -> list[Exchange]:
        """All exchanges, those in flight at the end."""
        return list(reader.exchanges([self.data_dir]))

    def exchange(self, id: str) -> Exchange:
        """One exchange, once it has ended."""
        return eventually(lambda: self._ended(id), f"the end of exchange {id}")

    def _ended(self, id: str) -> Exchange | None:
        found = lookup.find([self.data_dir], id)
        return found[0] if found and not found[0].in_flight else None

    def told(self, id: str) -> Exchange:
        """One exchange, once Envoy's access log has had its say of it."""

        def whole() -> Exchange | None:
            found = self.exchange(id)
            return found if found.access_log == "received" else None

        return eventually(whole, f"Envoy's word on {id}")

    def exchange_of(self, path: str) -> Exchange:
        """The one exchange with this path, once it has ended."""
        return eventually(lambda: self._only(path), f"the end of an exchange of {path}")

    def _only(self, path: str) -> Exchange | None:
        found = [exchange for exchange in self.exchanges() if exchange.path == path]
        assert len(found) <= 1, f"{len(found)} exchanges of {path}"
        return found[0] if found and not found[0].in_flight else None

    def records(self, id: str | None = None) -> Iterator[dict[str, Any]]:
        """The records of the journal, or those of one exchange."""
        for line in reader.scan([self.data_dir]):
            assert line.record is not None, line
            if id is None or line.record.get("id") == id:
                yield dict(line.record)

    def findings(self) -> list[str]:
        """What `verify` has to say."""
        return [str(finding) for finding in verify.verify(self.data_dir)]

    def envoy_stat(self, name: str) -> int:
        """One of Envoy's counters or gauges."""
        with urllib.request.urlopen(f"{self.envoy_admin}/stats?format=json&filter=^{name}$") as answer:
            stats = json.load(answer)["stats"]
        return next((int(stat["value"]) for stat in stats if stat.get("name") == name), 0)


_RUNS = {
    "envoy": "--reject-unknown-dynamic-fields",
    "follower": "extproc.follow.process",
    "shipper": "extproc.fleet.process",
}
"""What stands in the command line of each."""


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def resident_bytes(pid: int) -> int:
    """The memory of a process that is in RAM."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def peak_resident_bytes(pid: int) -> int:
    """The most memory that a process has had in RAM since `reset_peak`, or since its start."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def reset_peak(pid: int) -> None:
    """Begin to watch for a new peak, where that is allowed: only root may look into a process that forbids dumps."""
    with contextlib.suppress(PermissionError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def is_running(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")
