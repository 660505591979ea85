"""A real Jaeger, built from its Go module once and started on free ports with its storage in memory."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.stack import eventually

MODULE = Path(__file__).parents[1] / "jaeger"
COMMAND = "github.com/jaegertracing/jaeger/cmd/jaeger"
BUILD_SECONDS = 1500

CONFIGURATION = """
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}
extensions:
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 100000}}}}}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{query}"}}
    grpc: {{endpoint: "127.0.0.1:{query_grpc}"}}
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{otlp}"}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"""


def go() -> str | None:
    """The Go command, on the PATH or where Go's own archive puts it."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def binary() -> Path:
    """The program, built when this very module was not built before. Several test runs build it one after the other."""
    sums = hashlib.sha256((MODULE / "go.sum").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extproc-tests"
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"jaeger-{sums}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(program)
    return program


def _build(program: Path) -> None:
    command = go()
    assert command is not None
    unfinished = program.with_suffix(".unfinished")
    build = [command, "build", "-mod=readonly", "-o", str(unfinished), COMMAND]
    environ = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "auto"}
    try:
        subprocess.run(build, cwd=MODULE, env=environ, check=True, timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"Jaeger could not be built within {BUILD_SECONDS} s, as happens on a busy machine. Go keeps what it has "
            f"compiled, so that another run goes on from there; or build it alone: cd {MODULE} && {' '.join(build)}"
        ) from None
    unfinished.rename(program)


class Jaeger:
    """A running one. `otlp` is the URL of its collector, `url` that of its query API."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with contextlib.ExitStack() as probes:
            sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            otlp, query, query_grpc = (each.getsockname()[1] for each in sockets)
        self.otlp = f"http://127.0.0.1:{otlp}"
        self.url = f"http://127.0.0.1:{query}"
        self._configuration = directory / "jaeger.yaml"
        self._configuration.write_text(CONFIGURATION.format(otlp=otlp, query=query, query_grpc=query_grpc))

    def __enter__(self) -> Self:
        with (self._directory / "jaeger.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(binary()), "--config", str(self._configuration)], stdout=log, stderr=log, cwd=self._directory
            )
        eventually(self._answers, f"Jaeger: {(self._directory / 'jaeger.log').read_text()[-500:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()  # it holds nothing that anybody needs, and waits long for open connections
        self._process.wait()

    def _answers(self) -> bool:
        try:
            self._get("/api/services")
        except OSError:
            assert self._process.poll() is None, (self._directory / "jaeger.log").read_text()[-2000:]
            return False
        return True

    def trace(self, trace_id: str, spans: int) -> dict[str, Span]:
        """The spans of a trace by their names, once there are so many."""

        def found() -> dict[str, Span] | None:
            try:
                (trace,) = self._get(f"/api/traces/{trace_id}")["data"]
            except (urllib.error.HTTPError, ValueError, TypeError):
                return None
            read = [Span(each, trace["processes"]) for each in trace["spans"]]
            return {span.name: span for span in read} if len(read) >= spans else None

        return eventually(found, f"{spans} spans of trace {trace_id}")

    def spans(self, service: str) -> list[Span]:
        """Every span of a service that is there now."""
        try:
            traces = self._get(f"/api/traces?service={service}&limit=10000")["data"] or []
        except urllib.error.HTTPError:
            return []
        return [
            span
            for trace in traces
            for span in (Span(each, trace["processes"]) for each in trace["spans"])
            if span.service == service
        ]

    def services(self) -> list[str]:
        """All that have sent a span."""
        return list(self._get("/api/services")["data"] or [])

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)


class Span:
    """One span as Jaeger's API gives it."""

    def __init__(self, fields: dict[str, Any], processes: dict[str, Any]) -> None:
        self.name: str = fields["operationName"]
        self.span_id: str = fields["spanID"]
        self.trace_id: str = fields["traceID"]
        references = [each["spanID"] for each in fields["references"] if each["refType"] == "CHILD_OF"]
        self.parent: str | None = references[0] if references else None
        self.service: str = processes[fields["processID"]]["serviceName"]
        self.tags: dict[str, Any] = {each["key"]: each["value"] for each in fields["tags"]}
        self.start: int = fields["startTime"]
        """Microseconds since 1970, as is every time here."""
        self.duration: int = fields["duration"]
        self.events: list[tuple[str, int]] = [
            (next(field["value"] for field in each["fields"] if field["key"] == "event"), each["timestamp"])
            for each in fields["logs"] or ()
        ]
        self.text = json.dumps(fields)
