"""Headers of records."""

from __future__ import annotations

from extproc.history.headers import header_bytes, header_text


def test_header_values_that_are_no_text() -> None:
    """Kept as base64 in the record, shown with escapes, sent as they were."""
    assert header_bytes({"base64": "/2E="}) == b"\xffa"
    assert header_text({"base64": "/2E="}) == r"\xffa"
    assert header_bytes("ä") == "ä".encode()
