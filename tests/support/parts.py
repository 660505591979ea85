"""The parts of the stack, each started by the test itself: `extproc serve`, `extproc publish`, and Envoy.

with Part(tmp_path, "serve", *PROGRAM, "serve", ...) as sidecar:
    sidecar.wait_for("ready ")
with EnvoyPart(tmp_path, config, "--base-id", "7", ...) as envoy:
    envoy.ask("/ready")
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Self

from support.stack import PATIENCE_SECONDS, end, eventually, whole_lines

from extproc.envoy.process import binary


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return int(reserved.getsockname()[1])


class Part:
    """One process, from entering to leaving; what it prints is in files."""

    def __init__(self, directory: Path, name: str, *command: str | Path, **env: object) -> None:
        self.directory = directory
        self._name = name
        self._command = [str(each) for each in command]
        self._env = {name: str(value) for name, value in env.items()}

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self.process = subprocess.Popen(
                self._command, cwd=self.directory, stdout=out, stderr=err, env={**os.environ, **self._env}
            )
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _file(self, end: str) -> Path:
        return self.directory / f"{self._name}.{end}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def stdout(self) -> str:
        return self._file("out").read_text()

    def stderr(self) -> str:
        return whole_lines(self._file("err"))

    def wait_for(self, text: str) -> None:
        """Until it has printed this, on stdout or stderr."""

        def printed() -> bool:
            assert self.process.poll() is None, f"{self._name} has ended: {self.stderr()[-2000:]}"
            return text in self.stdout() or text in self.stderr()

        eventually(printed, f"{text!r} of {self._name}")

    def ended(self) -> int:
        """Wait for its own end; the exit code."""
        return self.process.wait(PATIENCE_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal, if it has not ended yet; its exit code."""
        return end(self.process, number)


class EnvoyPart(Part):
    """An Envoy on a bootstrap file; entered when it serves."""

    def __init__(self, directory: Path, config: Path, *arguments: str, name: str = "envoy") -> None:
        self._address = directory / f"{name}.admin"
        super().__init__(
            directory,
            name,
            str(binary.find()),
            *("-c", str(config), "--reject-unknown-dynamic-fields", "--concurrency", "2"),
            *("--admin-address-path", str(self._address), *arguments),
        )

    def __enter__(self) -> Self:
        super().__enter__()
        eventually(self._ready, f"an Envoy that serves: {self.stderr()[-2000:]}")
        return self

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"Envoy has ended: {self.stderr()[-2000:]}"
        if not self._address.exists() or not self._address.read_text().strip():
            return False
        try:
            return self.ask("/ready").strip() == "LIVE"
        except OSError:
            return False

    def ask(self, path: str, method: str = "GET") -> str:
        """Its admin interface."""
        request = urllib.request.Request(f"http://{self._address.read_text().strip()}{path}", method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())
