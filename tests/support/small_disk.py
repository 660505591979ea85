"""File systems of their own: one of a known size, for what happens when it is full, and one that is read-only.

Both need the right to mount.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FILLER = "filler"


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size, such as `1m`, mounted there for a while. Skips the test where nobody may mount."""
    path.mkdir(mode=0o700)
    options = ["-o", f"size={size},mode=0700"]
    mounted = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(path)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    """Take every byte that is left."""
    with (path / _FILLER).open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


def make_room(path: Path) -> None:
    """Give back what `fill` took."""
    (path / _FILLER).unlink()


@contextmanager
def read_only(path: Path) -> Iterator[Path]:
    """Nobody can write below a directory for a while, not even root. Skips the test where nobody may mount."""
    mounted = subprocess.run(["mount", "--bind", str(path), str(path)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
