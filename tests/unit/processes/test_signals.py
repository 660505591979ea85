"""The signals that end a program in order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from extproc.processes import signals

CODE = "from extproc.processes import signals; print(*(number.name for number in signals.ending()))"


@pytest.mark.parametrize(("trap", "names"), [("", "SIGTERM SIGINT SIGHUP"), ("trap '' HUP; ", "SIGTERM SIGINT")])
def test_the_end_of_the_terminal_is_one_unless_it_is_ignored(trap: str, names: str) -> None:
    """As `nohup` wants it."""
    command = ["/bin/sh", "-c", f'{trap}exec "$@"', "sh", sys.executable, "-c", CODE]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == names + "\n"


ENDING = """
import asyncio, sys
from extproc.processes import signals

async def work():
    print("works", flush=True)
    await asyncio.sleep(600)

async def main():
    hurried = asyncio.Event()

    async def hurry():
        hurried.set()

    ending = signals.Ending(hurry)
    print("finished" if await ending.unless(work()) else "cut off", flush=True)
    await hurried.wait()
    print("hurried", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_ends_the_work_and_the_second_one_hurries(number: signal.Signals) -> None:
    """Whichever of them it is."""
    with subprocess.Popen([sys.executable, "-c", ENDING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        process.send_signal(number)
        assert process.stdout.readline() == "cut off\n"
        process.send_signal(number)
        assert process.stdout.readline() == "hurried\n"
        assert process.wait(150) == 0


def test_work_that_fails_is_heard() -> None:
    """What it raises is raised; work that ends is no signal."""

    async def hurry() -> None:
        """Never called."""

    async def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        ending = signals.Ending(hurry)
        assert await ending.unless(asyncio.sleep(0))
        with pytest.raises(ValueError, match="no"):
            await ending.unless(fail())

    asyncio.run(main())
