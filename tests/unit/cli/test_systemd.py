"""The unit for systemd: read by systemd's own tools, and its service as systemd starts it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from support.commands import PROGRAM, invoke

from extproc.cli import systemd


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Written by `extproc init --systemd`."""
    done = invoke("init", "--systemd", tmp_path / "etc")
    assert done.exit_code == 0
    written = tmp_path / "etc" / "extproc.service"
    assert str(written) in done.stdout.splitlines()
    return written


def test_systemd_reads_the_unit(unit: Path) -> None:
    """No setting of it is unknown, and its program is there."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=150, check=False
    )
    assert [line for line in done.stderr.splitlines() if "extproc" in line] == []


def test_systemd_calls_the_service_well_restricted(unit: Path) -> None:
    """Its exposure is at most 2.0 of 10."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_service_needs_no_system_call_that_the_unit_forbids(unit: Path, tmp_path: Path) -> None:
    """Of its start and its end, as strace sees them, its children's included."""
    log = tmp_path / "calls"
    process = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", str(log), *PROGRAM, "serve", "--admin-port", "0", "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"ready ")
    served = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(served, signal.SIGTERM)
    process.communicate(timeout=150)
    called = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE))
    assert "execve" in called
    allowed = _allowed(re.findall(r"^SystemCallFilter=(.*)$", unit.read_text(), re.MULTILINE))
    assert called - allowed == set()


def _allowed(groups: list[str]) -> set[str]:
    """The calls of some groups, and of the groups in them; and those that systemd allows in every filter."""
    found: set[str] = set()
    pending = ["@default", *groups]
    while pending:
        done = subprocess.run(
            ["systemd-analyze", "syscall-filter", pending.pop()],
            capture_output=True,
            text=True,
            check=True,
            timeout=150,
        )
        names = re.findall(r"^ +(@?[\w-]+)$", done.stdout, re.MULTILINE)
        found.update(name for name in names if not name.startswith("@"))
        pending += [name for name in names if name.startswith("@")]
    return found


def test_ready_and_the_end_are_told(tmp_path: Path) -> None:
    """READY=1 once Envoy can connect, a sign of life, STOPPING=1 before exchanges are drained."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(150)
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--admin-port", "0", "--data-dir", str(tmp_path / "data")],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert listener.recv(1000) == b"READY=1"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "data" / "run" / "extproc.sock"))
            assert listener.recv(1000) == b"WATCHDOG=1"
            process.send_signal(signal.SIGTERM)
            told = listener.recv(1000)
            while told == b"WATCHDOG=1":
                told = listener.recv(1000)
            assert told == b"STOPPING=1"
            assert process.wait(150) == 0
        finally:
            process.kill()
            process.wait()


def test_words_of_the_command_line_are_quoted() -> None:
    """A path keeps its spaces, quotes, percent and dollar signs."""
    text = systemd.unit(Path('/etc/a b%c$d"e'), 10)
    assert 'serve --config "/etc/a b%%c$$d\\"e/extproc.yaml"\n' in text
    assert "TimeoutStopSec=30\n" in text


def test_what_is_there_stays(unit: Path) -> None:
    """A unit that somebody has edited is not overwritten; exit 2, and nothing else is written."""
    for name in ("envoy", "extproc.yaml"):
        (unit.parent / name).rename(unit.parent.parent / name)
    unit.write_text("mine")
    done = invoke("init", "--systemd", unit.parent)
    assert (done.exit_code, unit.read_text()) == (2, "mine")
    assert [each.name for each in unit.parent.iterdir()] == ["extproc.service"]
