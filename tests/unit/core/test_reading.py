"""A dialect at arm's length: in batches, and unable to do harm."""

from __future__ import annotations

import pytest

from extproc.core.dialects import RequestReading, ResponseReading
from extproc.core.reading import READ_BATCH, RequestReader, ResponseReader
from extproc.core.records import RequestLlm, ResponseLlm


class Fragile(ResponseReading):
    """A dialect with a fault. Notes what it is fed; raises on the word `feed`, and at the end if told so."""

    def __init__(self, *, fails_at_the_end: bool = False) -> None:
        super().__init__("chat.completions", "text/event-stream", None, 200)
        self.fed: list[tuple[bytes, int]] = []
        self.fails_at_the_end = fails_at_the_end

    def feed(self, data: bytes, at: int) -> None:
        self.fed.append((data, at))
        if data == b"feed":
            raise KeyError("the text of a prompt")

    def finish(self, complete: bool) -> ResponseLlm | None:
        if self.fails_at_the_end:
            raise RecursionError
        return ResponseLlm(done=complete)


def test_chunks_are_passed_on_singly_until_the_first_token_and_in_batches_after_it() -> None:
    """While times matter each chunk comes with its own; afterwards only the bytes matter."""
    dialect = Fragile()
    reader = ResponseReader(dialect)
    reader.feed(b"a", 1)
    reader.feed(b"b", 2)
    dialect.wants_chunks = False
    reader.feed(b"c", 3)
    reader.feed(b"d" * READ_BATCH, 4)
    reader.feed(b"e", 5)
    assert reader.finish(6, complete=True) == ResponseLlm(done=True)
    assert dialect.fed == [(b"a", 1), (b"b", 2), (b"c" + b"d" * READ_BATCH, 4), (b"e", 6)]


@pytest.mark.parametrize("fails_at_the_end", [True, False])
def test_a_fault_becomes_a_parse_error_without_its_text(fails_at_the_end: bool) -> None:
    """Whatever a dialect raises stays there, and what it says could quote a body."""
    reader = ResponseReader(Fragile(fails_at_the_end=fails_at_the_end))
    reader.feed(b"fine" if fails_at_the_end else b"feed", 1)
    reader.feed(b"more", 2)
    found = reader.finish(3, complete=True)
    assert found == ResponseLlm(
        parse_error=f"the reader failed: {'RecursionError' if fails_at_the_end else 'KeyError'}"
    )


def test_the_same_holds_for_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault while a request is read."""

    def fail(self: RequestReading, data: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(RequestReading, "feed", fail)
    reader = RequestReader(RequestReading("chat.completions", None, None))
    reader.feed(b"{}")
    assert reader.finish(complete=True) == RequestLlm(parse_error="the reader failed: ZeroDivisionError")
