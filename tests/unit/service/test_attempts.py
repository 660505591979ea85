"""Failed attempts wait for the end of their request, and for no other's."""

from __future__ import annotations

import pytest

from extproc.core.records import Attempt
from extproc.service.attempts import MOST, Attempts

ORIGIN = ("10.0.0.1:40000", "r-1")


def failed(*upstreams: str) -> list[Attempt]:
    """Attempts at these."""
    return [Attempt(upstream=upstream) for upstream in upstreams]


@pytest.mark.parametrize(
    ("told", "attempts", "expected"),
    [
        ("", 0, ""),
        ("", 1, ""),
        ("a", 1, ""),  # it was the last
        ("a", 2, "a"),
        ("ab", 2, "a"),
        ("ab", 3, "ab"),
        ("abc", 3, "ab"),
        ("", 2, None),
        ("a", 3, None),
        ("abcd", 3, None),
        ("a", 0, ""),
    ],
)
def test_those_before_the_last(told: str, attempts: int, expected: str | None) -> None:
    """In their order; the last one is the request's own affair; what does not add up is not known."""
    kept = Attempts()
    for upstream in told:
        kept.add(ORIGIN, Attempt(upstream=upstream))
    assert kept.before_last(ORIGIN, attempts) == (None if expected is None else failed(*expected))


def test_each_request_has_its_own() -> None:
    """By the connection, whatever id a client claims; and what was taken is gone."""
    kept = Attempts()
    other = ("10.0.0.2:40000", "r-1")
    kept.add(ORIGIN, Attempt(upstream="a"))
    kept.add(other, Attempt(upstream="b"))
    assert kept.before_last(other, 2) == failed("b")
    assert kept.before_last(ORIGIN, 2) == failed("a")
    assert kept.before_last(ORIGIN, 2) is None


def test_requests_whose_end_never_comes() -> None:
    """The oldest are forgotten."""
    kept = Attempts()
    for number in range(MOST + 1):
        kept.add((f"10.0.0.1:{number}", "r"), Attempt(upstream="a"))
    assert kept.before_last(("10.0.0.1:0", "r"), 2) is None
    assert kept.before_last(("10.0.0.1:1", "r"), 2) == failed("a")
    assert kept.before_last((f"10.0.0.1:{MOST}", "r"), 2) == failed("a")
