"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

import extproc


def pytest_report_header() -> str:
    """Say which copy of the package is under test: `make test` tests the installed wheel."""
    return f"extproc: {Path(extproc.__file__).parent}"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of this repository, for tests of what it holds beside the package."""
    return Path(__file__).parents[1]
