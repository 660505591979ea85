"""`extproc serve`: ready, health, the end. What is served is tested with the service."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import PROGRAM, run


class Sidecar:
    """A running `extproc serve`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", "--admin-port", "0", *arguments],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = self.process.stdout, self.process.stderr

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(150)


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    """Two workers in a directory of their own."""
    sidecar = Sidecar(tmp_path, "--workers", "2")
    yield sidecar
    if sidecar.process.poll() is None:
        sidecar.process.kill()
    sidecar.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ready_for_each_worker_and_exit_0_at_the_end(sidecar: Sidecar, tmp_path: Path, number: signal.Signals) -> None:
    """Two sockets, 0660 in a directory for us and our group; the journal is closed at the end, without a word."""
    addresses = [sidecar.out.readline() for _ in range(2)]
    assert addresses == ["ready unix:data/run/extproc.sock\n", "ready unix:data/run/extproc.sock.1\n"]
    for name in ("extproc.sock", "extproc.sock.1"):
        path = tmp_path / "data" / "run" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert stat.S_IMODE((tmp_path / "data" / "run").stat().st_mode) == 0o750
    assert sidecar.end(number) == 0
    assert sidecar.out.read() == ""
    segments = sorted(path.name for path in (tmp_path / "data" / "segments").iterdir())
    assert [name.endswith(".jsonl") for name in segments] == [True, True]


def test_health_is_served_on_loopback(sidecar: Sidecar) -> None:
    """Its address is on stderr, so that stdout holds the addresses for Envoy only."""
    sidecar.out.readline()
    event = json.loads(sidecar.err.readline())["event"]
    url = event.removeprefix("health and metrics: ").partition(",")[0]
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(url.replace("readyz", "healthz"), timeout=20) as answer:
        assert answer.status == 200
        json.load(answer)


def test_a_second_sidecar_on_the_directory_is_refused(sidecar: Sidecar, tmp_path: Path) -> None:
    """One line that names the directory and the process, whatever ports it would not get either; exit 1."""
    sidecar.out.readline()
    port = json.loads(sidecar.err.readline())["event"].partition("/readyz")[0].rpartition(":")[2]
    result = run("serve", "--admin-port", port, "--listen", "unix:other.sock", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == b""
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("extproc: data: another sidecar (process ")
    assert str(sidecar.process.pid) in line


def test_ports_in_use_are_said_all_at_once(tmp_path: Path) -> None:
    """A line for each, with the flag that names another; exit 1, and nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [taken.getsockname()[1] for taken in (one, two)]
        result = run("serve", "--admin-port", str(ports[0]), "--listen", f"127.0.0.1:{ports[1]}", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.decode().splitlines() == [
        f"extproc: port {port} on 127.0.0.1 cannot be used: Address already in use; name another one with {flag}"
        for port, flag in zip(ports, ("--admin-port", "--listen"), strict=True)
    ]
    assert not (tmp_path / "data" / "segments").exists()


def test_nobody_reads_what_it_says(tmp_path: Path) -> None:
    """Closed output, closed complaints, and the end of the terminal that `nohup` has it ignore: it serves."""
    command = 'trap "" HUP; exec "$@" >&- 2>&-'
    process = subprocess.Popen(["/bin/sh", "-c", command, "sh", *PROGRAM, "serve", "--admin-port", "0"], cwd=tmp_path)
    try:
        while not _answers(tmp_path / "data" / "run" / "extproc.sock"):
            assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(150) == 0
    finally:
        process.kill()
        process.wait()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_flags_override_the_settings(tmp_path: Path) -> None:
    """A file is read with --config; what a flag says counts more."""
    (tmp_path / "my.yaml").write_text("data_dir: elsewhere\nworkers: 3\nlisten: unix:a.sock\n")
    sidecar = Sidecar(tmp_path, "--config", "my.yaml", "--workers", "1", "--listen", "127.0.0.1:0")
    try:
        assert sidecar.out.readline().startswith("ready 127.0.0.1:")
        assert sidecar.end(signal.SIGTERM) == 0
    finally:
        sidecar.process.kill()
        sidecar.process.communicate()
    assert (tmp_path / "elsewhere" / "segments").is_dir()
