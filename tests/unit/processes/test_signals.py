"""The signals that end a program in order."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = "from extproc.processes import signals; print(*(number.name for number in signals.ending()))"


@pytest.mark.parametrize(("trap", "names"), [("", "SIGTERM SIGINT SIGHUP"), ("trap '' HUP; ", "SIGTERM SIGINT")])
def test_the_end_of_the_terminal_is_one_unless_it_is_ignored(trap: str, names: str) -> None:
    """As `nohup` wants it."""
    command = ["/bin/sh", "-c", f'{trap}exec "$@"', "sh", sys.executable, "-c", CODE]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == names + "\n"
