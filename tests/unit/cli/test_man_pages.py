"""The manual pages say what the commands say, and man can show them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import man_pages

from extproc.cli.main import COMMANDS


def test_the_pages_are_those_of_the_commands(checkout: Path) -> None:
    """`make docs` makes them; each command has one."""
    made = dict(man_pages.pages())
    assert {path.name: path.read_text() for path in (checkout / "docs" / "man").iterdir()} == made
    assert {f"extproc-{name}.1" for name in COMMANDS} | {"extproc.1"} <= set(made)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_man_can_show_them(checkout: Path) -> None:
    """mandoc finds no error in any of them; lines may be as long as they are, and no page has a date."""
    pages = sorted((checkout / "docs" / "man").iterdir())
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def test_text_is_no_markup() -> None:
    """A backslash, a minus and a line that begins as a request does."""
    assert man_pages.escaped(r"'[time] \n' --since .5") == r"\&'[time] \en' \-\-since .5"
    assert man_pages.escaped(".TH") == r"\&.TH"
