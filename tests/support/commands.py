"""The program as its users run it: in a process of its own, in this one where many runs are needed, on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner, Result

from extproc.cli.main import group

PROGRAM = (sys.executable, "-m", "extproc")


_NO_INDEX = re.compile(rb"extproc: [^\r\n]*: the journal is read instead of its index: there is none\r?\n")
"""What a reading command says first of a journal that no follower has seen, as those of most tests: it is taken out,
but for the tests of the index."""


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process, its output going into pipes."""
    result = CliRunner().invoke(group, [str(argument) for argument in arguments], prog_name="extproc")
    result.stderr_bytes = _NO_INDEX.sub(b"", result.stderr_bytes)
    return result


def run(
    *arguments: str | Path, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=150,
        check=False,
        env={**os.environ, **(env or {})},
    )
    done.stderr = _NO_INDEX.sub(b"", done.stderr)
    return done


def on_terminal(*arguments: str | Path, cwd: Path, columns: int = 200) -> bytes:
    """Run a command on a terminal of its own and return every byte that the terminal got."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        cwd=cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**env, "TERM": "xterm", "PAGER": "cat"},
    )
    os.close(slave)
    seen = bytearray()
    try:
        while data := os.read(master, 65536):
            seen += data
    except OSError:  # Linux's way to say that the last process has closed the terminal
        pass
    finally:
        os.close(master)
        process.wait(150)
    return _NO_INDEX.sub(b"", bytes(seen))
