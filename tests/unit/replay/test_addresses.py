"""Whether a URL is the backend that died."""

from __future__ import annotations

import pytest

from extproc.replay.addresses import same


@pytest.mark.parametrize(
    ("url", "upstream", "expected"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://localhost:8000", "127.0.0.1:8000", True),
        ("http://127.0.0.1:8001", "127.0.0.1:8000", False),
        ("http://127.0.0.2:8000", "127.0.0.1:8000", False),
        ("http://10.0.0.7", "10.0.0.7:80", True),
        ("https://10.0.0.7", "10.0.0.7:443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
    ],
)
def test_a_server_by_any_of_its_names(url: str, upstream: str, expected: bool) -> None:
    """Its port included."""
    assert same(url, upstream) is expected
