"""Finding the Envoy program."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from extproc.envoy.process import binary
from extproc.errors import StackError


def missing(name: str) -> NoReturn:
    """No such distribution."""
    raise importlib.metadata.PackageNotFoundError(name)


def test_the_wheels_program() -> None:
    """It is the program itself, not the script around it."""
    found = binary.find()
    assert found.read_bytes()[:4] == b"\x7fELF"
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    assert "/1.40." in version.stdout


def test_one_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel, the one beside this Python, then the first on the PATH."""
    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "envoy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert binary.find() == program


def test_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to get one."""
    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"pip install 'extproc\[stack\]'"):
        binary.find()
