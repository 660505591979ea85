"""Bytes of one direction: kept, counted, digested once."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.body import SPOOL_BATCH, BodyCapture


@given(st.lists(st.binary(max_size=40)), st.integers(0, 100))
def test_every_byte_leaves_once_and_in_order(pieces: list[bytes], inline_bytes: int) -> None:
    """However the pieces and the limit fall, what leaves is what came, with its length and digest."""
    body, spooled = BodyCapture(inline_bytes), []
    for piece in pieces:
        spooled += body.feed(piece) or []
    whole, rest, sha256 = body.finish()
    everything = b"".join(pieces)
    assert (whole if whole is not None else b"".join([*spooled, *(rest or [])])) == everything
    assert (body.length, sha256) == (len(everything), hashlib.sha256(everything).hexdigest())
    assert body.chunks == sum(1 for piece in pieces if piece)


def test_a_body_of_the_limit_stays_and_one_byte_more_is_spooled() -> None:
    """The inline limit is the size of the largest body in a record."""
    exact, larger = BodyCapture(10), BodyCapture(10)
    exact.feed(b"0123456789")
    assert exact.finish()[0] == b"0123456789"
    assert larger.feed(b"0123456789+") == [b"0123456789+"]
    assert (larger.spooled, larger.finish()[0]) == (True, None)


def test_a_large_body_holds_one_batch_at_most() -> None:
    """Memory does not grow with the body: what is held back between two batches is bounded."""
    body, piece = BodyCapture(64 * 1024), bytes(1000)
    for _ in range(5000):
        body.feed(piece)
        assert len(body.so_far()) <= SPOOL_BATCH + len(piece)


def test_an_empty_body_has_the_digest_of_nothing() -> None:
    """Zero bytes are a body too."""
    whole, rest, sha256 = BodyCapture(10).finish()
    assert (whole, rest, sha256) == (b"", None, hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize(
    ("late", "verdict"), [(b"", "empty"), (b"world", "same"), (b"rld", "same"), (b"other", "different")]
)
def test_late_bytes_are_held_against_the_last_ones(late: bytes, verdict: str) -> None:
    """Bytes after the end are compared with the tail, which tells a repeated chunk from a new one."""
    body = BodyCapture(100)
    body.feed(b"hello ")
    body.feed(b"world")
    body.finish()
    assert body.compare(late) == verdict
