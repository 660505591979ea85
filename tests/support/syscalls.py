"""A program's system calls on files, as strace saw them: in order, with everything that was written.

A call has a beginning and an end, for threads overlap: what a sync covers had ended when the sync began, and it is on
disk only when the sync has ended.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

CALLS: Final = (
    "write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,copy_file_range,sendfile,splice,mmap,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,"
    "fsync,fdatasync,open,openat,close,dup,dup2,dup3,fcntl,lseek"
)
"""Those that change files, their names or their handles, or bring changes to disk."""

_BEGUN: Final = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_RESULT: Final = re.compile(r"(.*)\) += (-?\d+|0x[0-9a-f]+|\?)(?: .*)?$", re.DOTALL)
_ARGUMENT: Final = re.compile(r'"(?:\\x[0-9a-f]{2})*"|\{[^}]*\}|\[[^\]]*\]|[^,"{\[]+')


@dataclass(slots=True)
class Call:
    """One call. `result` is None until it has ended, and stays so when the process died in it."""

    name: str
    arguments: list[str] = field(default_factory=list)
    result: int | None = None

    def number(self, position: int) -> int:
        """An argument that is a number; AT_FDCWD is -100, as in the kernel."""
        text = self.arguments[position]
        return -100 if text == "AT_FDCWD" else int(text, 0)

    def data(self, position: int) -> bytes:
        """An argument that is a string or a buffer."""
        text = self.arguments[position]
        assert text.startswith('"'), f"{self.name} {position}: no string but {text[:40]}"
        return bytes.fromhex(text[1:-1].replace("\\x", ""))


Event = tuple[str, Call]
"""`begun` or `ended`, and the call."""


def strace(*arguments: str, cwd: str | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run strace to its end. Skips the test where it is missing or may not trace."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    run = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, check=False)
    if b"PTRACE" in run.stderr or b"ptrace" in run.stderr:
        pytest.skip("strace may not trace here")
    return run


def trace(command: Sequence[str], file: Path) -> list[Event]:
    """Run a program to its end and return what it did."""
    options = ("-f", "--seccomp-bpf", "-qq", "-xx", "-s", "100000000", "-o", str(file), f"--trace={CALLS}")
    run = strace(*options, "--signal=none", *command, cwd="/")
    assert run.returncode == 0, run.stderr.decode()
    with file.open() as lines:
        return list(_events(lines))


def _events(lines: Iterator[str]) -> Iterator[Event]:
    running: dict[str, Call] = {}
    for line in lines:
        text = line.rstrip("\n")
        if (resumed := _RESUMED.match(text)) is not None:
            call = running.pop(resumed[1])
            _end(call, resumed[3])
            yield "ended", call
        elif (begun := _BEGUN.match(text)) is not None:
            thread, name, rest = begun.groups()
            call = Call(name)
            if rest.endswith(" <unfinished ...>"):
                call.arguments = _arguments(rest.removesuffix(" <unfinished ...>"))
                running[thread] = call
                yield "begun", call
            else:
                call.arguments = _end(call, rest)
                yield "begun", call
                yield "ended", call


def _end(call: Call, rest: str) -> list[str]:
    result = _RESULT.match(rest)
    assert result is not None, rest[:200]
    call.result = None if result[2] == "?" else int(result[2], 0)
    return _arguments(result[1])


def _arguments(text: str) -> list[str]:
    return [each.strip() for each in _ARGUMENT.findall(text) if each.strip()]
