"""What is compared: Envoy alone, the servers that do nothing, and the recorder in its settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench import interpreter
from bench.envoys import Envoy
from bench.interpreter import Interpreter
from bench.processes import Program, children, command_line

GO_SOURCE = Path(__file__).with_name("noop_go")


@dataclasses.dataclass(frozen=True)
class Target:
    """One line of the table."""

    letter: str
    name: str
    kind: str
    workers: int = 1
    durability: str = ""
    access_log: bool = True
    follower: bool = True
    """Off: its process is stopped, so that there are neither metrics nor spans."""
    spans: bool = False


TARGETS = (
    Target("a", "Envoy alone", "none"),
    Target("b", "no-op, grpc.aio and uvloop", "noop_aio"),
    Target("c", "no-op, our HTTP/2", "noop_http2"),
    Target("d", "no-op, Go", "go"),
    Target("e", "extproc, `durability: write`", "extproc", durability="write"),
    Target("f", "extproc, `durability: fsync`", "extproc", durability="fsync"),
    Target("g", "extproc, fsync, two workers", "extproc", workers=2, durability="fsync"),
    Target("h", "(f) without Envoy's access log", "extproc", durability="fsync", access_log=False),
    Target("i", "(f) without the follower", "extproc", durability="fsync", follower=False),
    Target("j", "(f) with spans exported", "extproc", durability="fsync", spans=True),
)


class Stack:
    """A target with its own Envoy in front of it, both started and answering."""

    def __init__(
        self,
        target: Target,
        directory: Path,
        traffic: Program,
        settings: Mapping[str, str] | None = None,
        python: Interpreter | None = None,
    ) -> None:
        """`settings`: environment variables of the recorder's beyond those of the target. `python`: for all servers
        in Python; None: our own."""
        directory.mkdir()
        self._python = python or interpreter.own()
        self._directory = directory
        self._settings = dict(settings or {})
        self.target = target
        self.traffic = traffic
        socket = str(directory / "s")
        self.sockets = [socket, *(f"{socket}.{n}" for n in range(1, target.workers))] if target.kind != "none" else []
        self._sink: Program | None = None
        self.server = self._start_server(directory, socket)
        try:
            takes_entries = target.kind == "extproc" and target.access_log
            self.envoy = Envoy(directory, int(traffic.ready[0]), self.sockets, access_log=takes_entries)
            if not target.follower and self.follower_pid:
                os.kill(self.follower_pid, signal.SIGSTOP)
        except BaseException:
            self._stop_server()
            raise
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    @property
    def worker_pids(self) -> list[int]:
        """The processes that serve ext_proc; of the recorder, the supervisor is not one of them."""
        if not self.server:
            return []
        if self.target.kind != "extproc":
            return [self.server.pid]
        return [pid for pid in children(self.server.pid) if "extproc.service.sidecar.worker" in command_line(pid)]

    @property
    def follower_pid(self) -> int | None:
        """The recorder's process for metrics and spans, which carries no traffic either."""
        if not self.server or self.target.kind != "extproc":
            return None
        return next((pid for pid in children(self.server.pid) if "extproc.follow" in command_line(pid)), None)

    @property
    def supervisor_pid(self) -> int | None:
        """The recorder's parent process, which carries no traffic."""
        return self.server.pid if self.server and self.target.kind == "extproc" else None

    def stop(self) -> None:
        """End Envoy, then the server."""
        self.envoy.stop()
        self._stop_server()

    def _stop_server(self) -> None:
        if self.follower_pid:
            os.kill(self.follower_pid, signal.SIGCONT)
        if self.server:
            self.server.stop()
        if self._sink:
            self._sink.stop()

    def _start_server(self, directory: Path, socket: str) -> Program | None:
        target, log = self.target, directory / "server.log"
        match target.kind:
            case "none":
                return None
            case "go":
                return Program([go_server(), socket], log)
            case "extproc":
                own = {"EXTPROC_DURABILITY": target.durability, "EXTPROC_ADMIN_PORT": "0"}
                environ = {**self._python.environ, **own, **self._settings}
                if target.spans:
                    self._sink = Program([sys.executable, "-m", "bench.otlp_sink"], log)
                    environ["EXTPROC_OTLP"] = f"http://127.0.0.1:{self._sink.ready[0]}"
                listen = ["--listen", f"unix:{socket}", "--workers", str(target.workers)]
                return Program(
                    [self._python.path, "-m", "extproc", "serve", *listen, "--data-dir", directory / "data"],
                    log,
                    lines=target.workers,
                    environ=environ,
                )
        command: list[str | Path] = [self._python.path, "-m", f"bench.{target.kind}", socket]
        return Program(command, log, environ=self._python.environ)

    def _wait_until_it_answers(self, timeout: float = 20) -> None:
        order = json.dumps({"do": "check", "port": self.envoy.port})
        deadline = time.monotonic() + timeout
        while (status := json.loads(self.traffic.ask(order))["status"]) != 200:
            if time.monotonic() > deadline:
                said = "\n".join(path.read_text()[-2000:] for path in self._directory.glob("*.log"))
                raise SystemExit(f"({self.target.letter}) {self.target.name}: a request gets {status}\n{said}")
            time.sleep(0.1)


def go_server() -> Path:
    """The no-op server in Go, built once for its sources and the compiler's version."""
    version = subprocess.run(["go", "version"], capture_output=True, check=True).stdout
    sources = [(GO_SOURCE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum")]
    digest = hashlib.sha256(b"\0".join([version, *sources])).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extproc-bench"
    program = cache / f"noop-go-{digest}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "build", "-buildvcs=false", "-o", program, "."], cwd=GO_SOURCE, check=True)
    return program


def why_not(target: Target) -> str | None:
    """Why a target cannot be measured on this machine."""
    if target.kind == "go":
        if not shutil.which("go"):
            return "Go is not installed"
        try:
            go_server()
        except subprocess.CalledProcessError:
            return "the Go server cannot be built (see above)"
    return None
