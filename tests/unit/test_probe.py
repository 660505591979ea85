"""A container's health check: it asks where the sidecar answers."""

from __future__ import annotations

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


class _Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = self.server.status  # type: ignore[attr-defined]
        self.send_response(status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"ready": true}\n')

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Server(http.server.HTTPServer):
    status = 200

    def __init__(self, host: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), _Ready)


@contextlib.contextmanager
def answering(host: str, status: int = 200) -> Iterator[int]:
    """A server that is ready, or not; its port."""
    with _Server(host) as server:
        server.status = status
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def probe(directory: Path, *arguments: str, **environ: object) -> subprocess.CompletedProcess[str]:
    """Run it."""
    command = [sys.executable, "-m", "extproc.probe", *arguments]
    env = {name: str(value) for name, value in environ.items()}
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=150)


@pytest.mark.parametrize(
    ("listening", "host"),
    [("127.0.0.1", None), ("127.0.0.1", "0.0.0.0"), ("127.0.0.2", "127.0.0.2"), ("::1", "::1"), ("::1", "::")],
)
def test_it_asks_where_the_sidecar_answers(tmp_path: Path, listening: str, host: str | None) -> None:
    """By the variables, and by the settings' file."""
    with answering(listening) as port:
        hosts = {} if host is None else {"EXTPROC_ADMIN_HOST": host}
        done = probe(tmp_path, EXTPROC_ADMIN_PORT=port, **hosts)
        assert (done.returncode, done.stdout, done.stderr) == (0, '{"ready": true}\n', "")
        line = "" if host is None else f'admin_host: "{host}"\n'
        (tmp_path / "extproc.yaml").write_text(f"admin_port: {port}\n{line}")
        assert probe(tmp_path).returncode == 0
        (tmp_path / "extproc.yaml").rename(tmp_path / "other.yaml")
        assert probe(tmp_path, "--config", "other.yaml").returncode == 0


def test_not_ready_is_1(tmp_path: Path) -> None:
    """With what it was told, for whoever looks at the check's output."""
    with answering("127.0.0.1", 503) as port:
        done = probe(tmp_path, EXTPROC_ADMIN_PORT=port)
    assert (done.returncode, done.stdout) == (1, '{"ready": true}\n')


def test_nobody_there_is_1(tmp_path: Path) -> None:
    """And a line that says where it asked."""
    with answering("127.0.0.1") as port:
        pass
    done = probe(tmp_path, EXTPROC_ADMIN_PORT=port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"/readyz on 127.0.0.1, port {port}: ")


def test_a_wrong_setting_is_1(tmp_path: Path) -> None:
    """A line, and no traceback."""
    done = probe(tmp_path, EXTPROC_ADMIN_PORT="x")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "EXTPROC_ADMIN_PORT" in line
