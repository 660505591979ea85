"""Output that is closed, broken or full: no traceback, and the exit code of what was asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PROGRAM

COMPLAINTS = {
    ">&-": "extproc: standard output: Bad file descriptor\n",
    ">/dev/full": "extproc: standard output: No space left on device\n",
}


def shell(redirection: str, *arguments: str, cwd: Path) -> tuple[int, str]:
    """Run a command as a shell starts it with this redirection; its exit code, and stderr where that was left alone."""
    command = ["/bin/sh", "-c", 'exec "$@" ' + redirection, "sh", *PROGRAM, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=150, check=False)
    return done.returncode, done.stderr


def broken_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A working directory with an empty journal, and one that is damaged."""
    (tmp_path / "data" / "segments").mkdir(parents=True)
    (tmp_path / "damaged" / "segments").mkdir(parents=True)
    (tmp_path / "damaged" / "segments" / "w0-b-000001.jsonl").write_text("no record\n")
    return tmp_path


COMMANDS = [
    pytest.param(("--help",), 0, True, id="help"),
    pytest.param(("--version",), 0, True, id="version"),
    pytest.param(("log", "--help"), 0, True, id="log-help"),
    pytest.param(("init", "x"), 0, True, id="init"),
    pytest.param(("log",), 0, False, id="log"),
    pytest.param(("verify", "damaged"), 1, True, id="verify"),
    pytest.param(("show", "nobody"), 1, False, id="show"),
    pytest.param(("nonsense",), 2, False, id="usage"),
    pytest.param(("log", "--data-dir", "nowhere"), 2, False, id="wrong"),
]
"""Each with its exit code, and whether it prints something."""


@pytest.mark.parametrize(("arguments", "code", "prints"), COMMANDS)
@pytest.mark.parametrize("where", COMPLAINTS)
def test_output_that_cannot_be_written(
    directory: Path, arguments: tuple[str, ...], code: int, prints: bool, where: str
) -> None:
    """Exit 1 and a line that says why, as of other programs; where nothing was to be printed, nothing is lost."""
    returncode, stderr = shell(where, *arguments, cwd=directory)
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr
    assert returncode == (1 if prints else code)
    assert (COMPLAINTS[where] in stderr) == prints


@pytest.mark.parametrize(("arguments", "code", "prints"), COMMANDS)
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_nobody_hears_the_complaints(
    directory: Path, arguments: tuple[str, ...], code: int, prints: bool, redirection: str
) -> None:
    """The exit code is the same."""
    returncode, _ = shell(redirection, *arguments, cwd=directory)
    assert returncode == (1 if prints and redirection.startswith(">") else code)


@pytest.mark.parametrize(("arguments", "code", "prints"), COMMANDS)
def test_a_reader_that_has_gone(directory: Path, arguments: tuple[str, ...], code: int, prints: bool) -> None:
    """It has had enough, of the output or of the complaints: the exit code is the same."""
    command = [*PROGRAM, *arguments]
    write = broken_pipe()
    done = subprocess.run(command, cwd=directory, stdout=write, stderr=subprocess.PIPE, timeout=150, check=False)
    assert done.returncode == code
    assert (done.stderr == b"") == (prints or code == 0)
    shutil.rmtree(directory / "x", ignore_errors=True)
    done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=write, timeout=150, check=False)
    assert done.returncode == code
    os.close(write)


def test_what_is_opened_later_is_not_taken_for_output(tmp_path: Path) -> None:
    """Started without standard files, a program does not complain into a file that it has opened."""
    code = (
        "import sys\nfrom extproc.processes import stdio\nstdio.prepare()\nfile = open('file', 'wb')\n"
        "sys.stderr.write('a complaint')\nfile.write(b'%d' % file.fileno())\n"
    )
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "file").read_bytes() == b"3"


def test_a_line_is_one_write(tmp_path: Path) -> None:
    """However long: of several processes that write into one file, none tears another's."""
    code = (
        "import logging, sys\nfrom extproc import logs\nfrom extproc.processes import stdio\n"
        "stdio.prepare()\nlogs.setup(sys.argv[1], 'text')\n"
        "for number in range(200):\n    logging.getLogger('x').warning('%s ' + str(number), sys.argv[1] * 20000)\n"
    )
    with (tmp_path / "log").open("ab") as log:
        processes = [subprocess.Popen([sys.executable, "-c", code, name], stderr=log) for name in "ab"]
        assert [process.wait(150) for process in processes] == [0, 0]
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"extproc {name}: {name * 20000} {number}" for name in "ab" for number in range(200))
