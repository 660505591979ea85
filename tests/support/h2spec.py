"""h2spec, the conformance test of HTTP/2 servers: built from its Go module once, and run."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from support.jaeger import go

VERSION = "v2.2.1+incompatible"
COMMAND = "github.com/summerwind/h2spec/cmd/h2spec"


class Result(NamedTuple):
    """What h2spec found."""

    passed: int
    skipped: int
    failed: list[str]


def binary() -> Path:
    """The program, built when it was not built before. Several test runs build it one after the other."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extproc-tests"
    directory = cache / f"h2spec-{VERSION}"
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "h2spec"
    with (cache / "h2spec.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            command = go()
            assert command is not None
            environ = {**os.environ, "GOBIN": str(directory), "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "auto"}
            subprocess.run([command, "install", f"{COMMAND}@{VERSION}"], env=environ, check=True, timeout=600)
    return program


def run(port: int) -> Result:
    """All of its tests, the strict ones too."""
    done = subprocess.run(
        [str(binary()), "--strict", "--port", str(port), "--timeout", "5"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    counts = re.search(r"\d+ tests, (\d+) passed, (\d+) skipped, \d+ failed", done.stdout)
    assert counts is not None, done.stdout[-2000:] + done.stderr[-2000:]
    failed = re.findall("\u00d7 (?:\\d+: )?(.*)", done.stdout.partition("Failures:")[2])
    return Result(int(counts[1]), int(counts[2]), failed)
