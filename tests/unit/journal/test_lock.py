"""One sidecar for each data directory."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from extproc.errors import JournalError
from extproc.journal.lock import is_in_use, lock_directory

HOLD = """
import sys
from pathlib import Path
from extproc.journal.lock import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    tmp_path.chmod(0o700)
    return tmp_path


def test_a_second_sidecar_is_refused_by_name(data: Path) -> None:
    """The message names the directory and the process that holds it; the first is not disturbed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data)], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        assert is_in_use(data)
        named = f"{re.escape(str(data))}: another sidecar .process {first.pid}. writes"
        with pytest.raises(JournalError, match=named), lock_directory(data):
            pass
        assert first.poll() is None
        first.kill()
    assert not is_in_use(data)
    with lock_directory(data):
        assert (data / "lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_file_left_behind_stops_nobody(data: Path) -> None:
    """What a crash leaves is a file without a holder."""
    (data / "lock").write_text("4711\n")
    with lock_directory(data):
        assert is_in_use(data)
    assert not is_in_use(data)


def test_the_lock_file_is_private_and_no_link(data: Path) -> None:
    """0600, and a link of that name is not followed."""
    with lock_directory(data):
        assert stat.S_IMODE((data / "lock").stat().st_mode) == 0o600
    (data / "lock").unlink()
    (data / "lock").symlink_to(data / "elsewhere")
    with pytest.raises(JournalError, match="lock"), lock_directory(data):
        pass
    assert not (data / "elsewhere").exists()
