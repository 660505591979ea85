"""The Makefile, with programs in the place of Python that only say what they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FAKE = """#!/bin/sh
case "$*" in
*"import sys; print"*) echo NAME ;;
*"-m venv"*) rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"-m pip"*) PIP ;;
esac
"""
NO_NETWORK = (
    'for i in 1 2 3; do echo "WARNING: Retrying (Retry(total=$i)) after connection broken by '
    "'NewConnectionError'\" >&2; done; echo 'ERROR: No matching distribution found for click==1' >&2; exit 1"
)
OTHERWISE = "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES' >&2; exit 1"


@pytest.fixture
def directory(tmp_path: Path, checkout: Path) -> Path:
    """A checkout with no more than make looks at."""
    shutil.copy(checkout / "Makefile", tmp_path)
    for name in ("extproc", "protos"):
        (tmp_path / name).mkdir()
    for name in ("requirements.lock", "requirements-run.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    return tmp_path


def python(directory: Path, name: str, pip: str = "true") -> Path:
    """A Python of this name."""
    path = directory / name
    path.write_text(FAKE.replace("NAME", name).replace("PIP", pip))
    path.chmod(0o700)
    return path


def make(directory: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run make."""
    env = {"PATH": f"{path}:{os.environ['PATH']}"}
    command = ["make", "-s", ".venv/.run", *arguments]
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=150)


def made_with(directory: Path) -> str:
    """Which Python .venv was made with."""
    return subprocess.run(
        [directory / ".venv/bin/python", "-c", "import sys; print"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_python_that_is_named_is_used(directory: Path) -> None:
    """Also where .venv was made with another one; one that nobody names changes nothing."""
    for name in ("one", "two", "python3"):
        python(directory, name)
    for argument, wanted, kept in [
        ("PYTHON=./one", "one", False),
        ("PYTHON=./one", "one", True),
        ("PYTHON=./two", "two", False),
        ("", "two", True),
        ("PYTHON=./two", "two", True),
    ]:
        marker = directory / ".venv" / "marker"
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
        assert make(directory, *argument.split(), path=str(directory)).returncode == 0
        assert (made_with(directory), marker.exists()) == (wanted, kept)


def test_a_python_that_is_not_there_is_said(directory: Path) -> None:
    """With .venv in place too."""
    python(directory, "one")
    assert make(directory, "PYTHON=./one").returncode == 0
    failed = make(directory, "PYTHON=./none")
    assert failed.returncode != 0
    assert "there is no ./none here" in failed.stderr


@pytest.mark.parametrize(
    ("pip", "said"),
    [
        (NO_NETWORK, "pip cannot reach the package index: is there a network? What pip said is in .venv/.pip.log."),
        (OTHERWISE, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"),
    ],
)
def test_why_nothing_could_be_installed(directory: Path, pip: str, said: str) -> None:
    """One line where there is no network; otherwise what pip has to say. The next try is a whole one."""
    python(directory, "one", pip)
    failed = make(directory, "PYTHON=./one")
    assert failed.returncode != 0
    first, *rest = failed.stderr.splitlines()
    assert first == said
    assert all(line.startswith("make: ***") for line in rest)
    assert not (directory / ".venv" / ".run").exists()
