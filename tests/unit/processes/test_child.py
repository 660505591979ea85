"""Child processes: they end with their parent, and when told to."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.stack import eventually, is_running

from extproc.processes import child

PARENT = """
import asyncio, os, sys
from extproc.processes import child

async def main():
    process = await child.start(sys.executable, "-c", "import time; time.sleep(600)", stdout=asyncio.subprocess.DEVNULL)
    print(process.pid, flush=True)
    await process.wait()

asyncio.run(main())
"""


def test_a_child_goes_with_its_parent(tmp_path: Path) -> None:
    """Also when the parent is killed and can do nothing about it."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
        eventually(lambda: not is_running(child), "the child's end")


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import time; print(flush=True); time.sleep(600)", -signal.SIGTERM),
        (
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)",
            -signal.SIGKILL,
        ),
    ],
)
def test_stop(program: str, code: int) -> None:
    """SIGTERM first, SIGKILL for those that do not listen."""

    async def main() -> int:
        process = await child.start(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        await child.stop(process, 0.2 if code == -signal.SIGKILL else 30)
        assert process.returncode is not None
        process._transport.close()  # type: ignore[attr-defined]
        return process.returncode

    assert asyncio.run(main()) == code


def test_stop_of_what_has_ended() -> None:
    """Nothing to do."""

    async def main() -> None:
        process = await child.start("true", stdout=asyncio.subprocess.DEVNULL)
        await process.wait()
        await child.stop(process, 1)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-250, "exit code -250")]
)
def test_how_it_ended(code: int, text: str) -> None:
    """In words."""
    assert child.how_it_ended(code) == text
