"""Each recipe of envoy/examples, with the real Envoy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import Servers


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Three servers, for a module that wants no others."""
    with Servers(3) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory needs the real Envoy."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.e2e)
