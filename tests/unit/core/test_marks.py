"""Whose credential a record's mark stands for."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.core.marks import credential


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("authorization", "redacted:3f9c0a7be1d2")], "redacted:3f9c0a7be1d2"),
        ([("accept", "*/*"), ("x-api-key", "redacted:1"), ("authorization", "redacted:2")], "redacted:1"),
        ([("authorization", "Basic"), ("api-key", "redacted:3")], "redacted:3"),
        ([("authorization", {"base64": "/w=="})], None),
        ([("cookie", "redacted:4")], None),
    ],
)
def test_the_mark_of_the_caller(headers: list[tuple[str, Any]], expected: str | None) -> None:
    """The first header that carries one; no other secret of the request, and nothing that is no mark."""
    assert credential(headers) == expected
