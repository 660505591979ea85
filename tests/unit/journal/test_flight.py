"""Which exchanges are in flight, told from the records alone."""

from __future__ import annotations

import pytest
from support.journals import id_of, request, response

from extproc.journal.flight import Flight, type_and_id


@pytest.mark.parametrize(
    ("records", "had"),
    [
        (["request"], {"x": "request"}),
        (["open"], {"x": "open"}),
        (["open", "request"], {"x": "request"}),
        (["request", "response"], {}),
        (["open", "orphan"], {}),
        (["response"], {}),
        (["response", "request"], {}),
        (["open", "response", "request"], {}),
        (["request", "late", "gap"], {"x": "request"}),
    ],
)
def test_what_is_in_flight(records: list[str], had: dict[str, str]) -> None:
    """An exchange is in flight from its first record to its terminal one, and not again after that."""
    flight = Flight()
    for type in records:
        flight.note(type, "x")
    assert flight.open_exchanges == had


@pytest.mark.parametrize("rest", [["request"], ["response"], ["open", "response"], []])
@pytest.mark.parametrize("begun", [["request"], ["open"], ["response"], ["open", "response"]])
def test_a_snapshot_goes_on_where_it_was_taken(begun: list[str], rest: list[str]) -> None:
    """Restored from the head of a segment, the rest of the records has the same result."""
    whole, first = Flight(), Flight()
    for type in begun:
        whole.note(type, "x")
        first.note(type, "x")
    second = Flight.restore(first.snapshot())
    for type in rest:
        whole.note(type, "x")
        second.note(type, "x")
    assert second.open_exchanges == whole.open_exchanges


def test_answers_without_requests_are_forgotten() -> None:
    """A flood of them does not grow what is kept."""
    flight = Flight()
    for number in range(100_000):
        flight.note("response", str(number))
    assert len(flight.snapshot()) <= 1024


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (request(1), ("request", id_of(1))),
        (response(2, b"x" * 100_000), ("response", id_of(2))),
        (b'{"type":"gap","at":"2026"}', ("", "")),
        (b"{}", ("", "")),
        (b"", ("", "")),
        (b'{"text":"x","id":"forged","type":"request"}', ("", "")),
        (b'{"type":"access","id":null,"at":"2026","path":"/x"}', ("access", "")),
        (b'{"type":"reques\xff","id":"a\xffb","at":""}', ("reques\ufffd", "a\ufffdb")),
    ],
)
def test_type_and_id_from_the_first_bytes(record: bytes, expected: tuple[str, str]) -> None:
    """They stand first in a record; what looks otherwise has none."""
    assert type_and_id(record) == expected
