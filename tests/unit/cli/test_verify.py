"""`extproc verify`: exit codes and what is printed; what is found is tested with the journal."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.commands import PROGRAM, invoke, on_terminal
from support.recorded import Recording


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A journal with one changed byte in its third line."""
    data = tmp_path / "data"
    with Recording(data) as recording:
        recording.add()
        recording.add()
    (segment,) = (data / "segments").glob("*.jsonl")
    lines = segment.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"status":200', b'"status":201')
    segment.write_bytes(b"\n".join(lines))
    return data


def test_an_intact_journal_is_exit_0(tmp_path: Path) -> None:
    """While it is being written as well as after; silent in a pipe."""
    data = tmp_path / "data"
    with Recording(data) as recording:
        recording.add()
        recording.add(b"x" * 3000)
        assert (invoke("verify", data).exit_code, invoke("verify", data).output) == (0, "")
    assert (invoke("verify", "--data-dir", data).exit_code, invoke("verify", data).output) == (0, "")
    assert on_terminal("verify", data, cwd=tmp_path) == b"everything is as it was written\r\n"


def test_a_finding_names_file_line_and_what(damaged: Path) -> None:
    """On stdout, one a line; exit 1."""
    (segment,) = (damaged / "segments").glob("*.jsonl")
    result = invoke("verify", damaged)
    assert result.exit_code == 1
    first = result.stdout.splitlines()[0]
    assert first.startswith(f"{segment}:3: the checksum is ")
    assert result.stderr.endswith("wrong\n")


def test_several_directories(damaged: Path, tmp_path: Path) -> None:
    """All are checked; one that is not there is exit 2."""
    good = tmp_path / "good"
    with Recording(good) as recording:
        recording.add()
    assert invoke("verify", good, damaged).exit_code == 1
    assert invoke("verify", good, good).exit_code == 0
    assert invoke("verify", good, tmp_path / "none").exit_code == 2


def test_a_closed_pipe_does_not_turn_damage_into_success(damaged: Path) -> None:
    """`extproc verify | true` still is exit 1, without a word."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen([*PROGRAM, "verify", damaged], cwd=damaged, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, stderr = process.communicate(timeout=150)
    assert (process.returncode, stderr) == (1, b"")


def test_file_names_are_escaped(tmp_path: Path) -> None:
    """A directory's name may hold anything."""
    data = tmp_path / "da\x1b[2Jta"
    data.mkdir()
    result = invoke("verify", data)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
