"""Child processes: they end with their parent, and when told to."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.stack import eventually, is_running

from extproc.processes.child import Child, how_it_ended

PARENT = """
import asyncio, os, sys
from extproc.processes.child import Child

async def main():
    child = await Child.start(sys.executable, "-c", "import time; time.sleep(600)", stdout=asyncio.subprocess.DEVNULL)
    print(child.pid, flush=True)
    await child.ended()

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

    async def main() -> int | None:
        child = await Child.start(sys.executable, "-c", program)
        await child.line()
        await child.stop(0.2 if code == -signal.SIGKILL else 30)
        return child.code

    assert asyncio.run(main()) == code


def test_stop_of_what_has_ended() -> None:
    """Nothing to do."""

    async def main() -> None:
        child = await Child.start("true")
        assert await child.ended() == "ended with exit code 0"
        assert not child.runs
        await child.stop(1)

    asyncio.run(main())


def test_what_is_said_and_told() -> None:
    """Lines both ways, and bytes that a line announces; one that is told something ends when its input does."""
    program = (
        "import sys; [print(len(each), each, sep=chr(10), end='', flush=True) for each in sys.stdin]; print('end')"
    )

    async def main() -> list[str]:
        child = await Child.start(sys.executable, "-c", program, first_line="first")
        said = [await child.line(), (await child.read(6)).decode()]
        child.send("second")
        said += [await child.line(), (await child.read(7)).decode()]
        await child.gone(0.0)
        return said

    assert asyncio.run(main()) == ["6", "first\n", "7", "second\n"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was killed by SIGKILL"),
        (-250, "ended with exit code -250"),
    ],
)
def test_how_it_ended(code: int, text: str) -> None:
    """In words."""
    assert how_it_ended(code) == text
