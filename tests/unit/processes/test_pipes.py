"""What child processes say to the one that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter

from extproc.processes.pipes import Lines

THREADS, EACH = 4, 500


def test_lines_of_many_threads_are_whole() -> None:
    """Each line arrives as it was written, with the bytes that belong to it."""
    reader, writer = os.pipe()
    lines = Lines(writer)

    def write(number: int) -> None:
        for _ in range(EACH):
            lines.write(f"line {number} " + "x" * 200, b"more\n")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(THREADS)]
    with os.fdopen(reader, "rb") as pipe:
        for thread in threads:
            thread.start()
        got = [(pipe.readline(), pipe.readline()) for _ in range(THREADS * EACH)]
        for thread in threads:
            thread.join()
        os.close(writer)
        assert pipe.read() == b""
    wanted = {(b"line %d " % number + b"x" * 200 + b"\n", b"more\n"): EACH for number in range(THREADS)}
    assert Counter(got) == wanted


def test_a_line_is_one_line() -> None:
    """Line feeds become spaces, and what is no UTF-8, as in a file's name, is escaped."""
    reader, writer = os.pipe()
    Lines(writer).write("failed ConfigError /tmp/\udcff:\nno such file")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"failed ConfigError /tmp/\\udcff: no such file\n"


def test_what_else_is_printed_goes_elsewhere() -> None:
    """Neither Python's print nor a library's write to file 1 gets into the pipe."""
    code = """
import os
from extproc.processes import pipes
print("before")
lines = pipes.claim_stdout()
print("stray", flush=True)
os.write(1, b"stray too\\n")
lines.write("ready")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("before\nready\n", "stray\nstray too\n")
