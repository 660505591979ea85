"""Names of credentials, and names that only look like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.core.secret_names import is_secret

NAMES = Path(__file__).parents[2] / "fixtures" / "names"


def names(file: str) -> list[str]:
    """Those in a file, one a line."""
    lines = (NAMES / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_there_are_many_of_each() -> None:
    """A file that was not read would be no test."""
    assert min(len(names("credentials.txt")), len(names("harmless.txt"))) > 120


@pytest.mark.parametrize("name", names("credentials.txt"))
def test_the_name_of_a_credential(name: str) -> None:
    """However it is written."""
    assert is_secret(name)
    assert is_secret(name.upper())


@pytest.mark.parametrize("name", names("harmless.txt"))
def test_a_name_that_only_looks_like_one(name: str) -> None:
    """What it holds is of use to whoever reads the record."""
    assert not is_secret(name)
