"""The golden fixtures: the same events and the same record, however the bytes are cut."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import golden
from support.exchanges import decided, response_llm_of
from support.golden import Golden

from extproc.core.dialects import RequestReading, ResponseReading, api_of, assemble
from extproc.core.encoding import Decoder
from extproc.core.records import Body, fields_of
from extproc.core.sse import Parser, ServerSentEvent
from extproc.telemetry import semconv

SMALL = 20_000
"""Bytes up to which a body is cut at every offset; a longer one is cut at chosen ones."""

ALL = [golden.load(name) for name in (*golden.names(), *golden.field_names())]
every_fixture = pytest.mark.parametrize("fixture", ALL, ids=[fixture.name for fixture in ALL])


def read_request(fixture: Golden, pieces: Iterable[bytes]) -> dict[str, Any] | None:
    """What was read of the request, without the fingerprint."""
    reading = RequestReading(fixture.api, "application/json", None)
    for piece in pieces:
        reading.feed(piece)
    llm = reading.finish(complete=True)
    if llm is None:
        return None
    found: dict[str, Any] = msgspec.to_builtins(llm)
    del found["fingerprint"]
    return found


def read_response(fixture: Golden, pieces: Iterable[bytes]) -> tuple[dict[str, Any] | None, int | None]:
    """What was read, and the piece that brought the first token."""
    reading = ResponseReading(fixture.api, fixture.content_type, fixture.content_encoding, fixture.status)
    for at, piece in enumerate(pieces):
        reading.feed(piece, at)
    llm = reading.finish(complete=fixture.ended_by == "end_of_stream")
    if llm is None:
        return None, reading.first_token_at
    found: dict[str, Any] = msgspec.to_builtins(llm)
    assert found.pop("ttft_ms") is None  # whoever has the exchange's start adds it
    return found, reading.first_token_at


def events(fixture: Golden, pieces: Iterable[bytes]) -> list[ServerSentEvent]:
    """The events of the response."""
    decoder, parser = Decoder(fixture.content_encoding), Parser()
    found = [event for piece in pieces for event in parser.feed(decoder.feed(piece))]
    return found + parser.finish()


def offsets(body: bytes) -> Iterable[int]:
    """Where to cut a body."""
    if len(body) <= SMALL:
        return range(len(body) + 1)
    size = len(body)
    around = [0, 1, 6, 60, 256 * 1024, size // 2, size - 60, size - 3, size]
    return sorted({at for middle in around for at in range(middle - 3, middle + 4) if 0 <= at <= size})


def two_pieces(body: bytes) -> Iterable[tuple[bytes, bytes]]:
    """The body, cut in two everywhere."""
    return ((body[:at], body[at:]) for at in offsets(body))


def single_bytes(body: bytes) -> list[bytes]:
    """The body a byte at a time; a long one in small pieces."""
    step = 1 if len(body) <= SMALL else 4099
    return [body[at : at + step] for at in range(0, len(body), step)]


def same(found: object, expected: object) -> bool:
    """Equal, where a NaN equals a NaN."""
    return json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_there_are_fixtures() -> None:
    """The fixtures are where the tests look for them."""
    assert len(ALL) >= 55


@every_fixture
def test_a_path_names_its_api(fixture: Golden) -> None:
    """The method and the path of the request tell the API."""
    assert api_of(fixture.method, fixture.path) == fixture.api


@every_fixture
def test_request_in_two_pieces(fixture: Golden) -> None:
    """A request cut at any offset gives the expected parameters."""
    for pieces in two_pieces(fixture.request_body):
        found = read_request(fixture, pieces)
        assert same(found, fixture.request), len(pieces[0])


@every_fixture
def test_request_in_single_bytes(fixture: Golden) -> None:
    """A request that comes a byte at a time gives the expected parameters."""
    assert same(read_request(fixture, single_bytes(fixture.request_body)), fixture.request)


@every_fixture
def test_response_in_two_pieces(fixture: Golden) -> None:
    """A response cut at any offset gives the expected record, and its first token comes with the right piece."""
    for pieces in two_pieces(fixture.response_body):
        found, first_token = read_response(fixture, pieces)
        cut = len(pieces[0])
        assert found == fixture.response, cut
        if fixture.first_token is None:
            assert first_token is None, cut
        elif cut <= fixture.first_token[0]:
            assert first_token == 1, cut
        elif cut > fixture.first_token[-1]:
            assert first_token == 0, cut


@every_fixture
def test_response_in_single_bytes(fixture: Golden) -> None:
    """A response that comes a byte at a time gives the expected record, and the first token its own byte."""
    found, first_token = read_response(fixture, single_bytes(fixture.response_body))
    assert found == fixture.response
    if fixture.first_token is None:
        assert first_token is None
    elif len(fixture.response_body) <= SMALL:
        assert first_token in fixture.first_token


@every_fixture
def test_events_at_every_cut(fixture: Golden) -> None:
    """The events of a body do not depend on how it was cut."""
    whole = events(fixture, [fixture.response_body])
    assert all(events(fixture, pieces) == whole for pieces in two_pieces(fixture.response_body))
    assert events(fixture, single_bytes(fixture.response_body)) == whole


def half(fixture: Golden) -> dict[str, Any]:
    """The direction's part of a response record."""
    return {
        "ended_by": fixture.ended_by,
        "content_type": fixture.content_type,
        "truncated": False,
        "headers": fixture.response_headers,
        "first_byte_ms": 1.0,
        "body": fields_of(Body.of(fixture.response_body)),
    }


@pytest.mark.parametrize("name", golden.field_names())
def test_a_case_from_the_field(name: str) -> None:
    """What went wrong on real servers gives the right outcome and the right tokens, read in passing or afterwards."""
    fixture = golden.load(name)
    record = {
        "method": fixture.method,
        "path": fixture.path,
        "status": fixture.status,
        "response_code_details": "via_upstream",
        "response": half(fixture),
    }
    passing, _ = read_response(fixture, golden.chunks(name))
    for found in (passing, response_llm_of({**record, "llm": None})):
        assert decided({**record, "llm": found}, None) == fixture.outcome
        if fixture.input_tokens is not None:
            assert semconv.usage((found or {}).get("usage"))["input"] == fixture.input_tokens


@every_fixture
def test_assembled_answer(fixture: Golden) -> None:
    """A stored body gives the assembled answer."""
    found = assemble(fixture.api, fixture.content_type, fixture.content_encoding, fixture.response_body)
    assert found == fixture.output


@given(st.sampled_from([fixture for fixture in ALL if len(fixture.response_body) <= SMALL]), st.randoms())
def test_response_in_random_pieces(fixture: Golden, rng: random.Random) -> None:
    """Any cutting into pieces gives the expected record."""
    body = fixture.response_body
    cuts = sorted(rng.sample(range(len(body) + 1), min(len(body), rng.randrange(20))))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert read_response(fixture, pieces)[0] == fixture.response
