"""What a text that somebody has copied from somewhere may stand for."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from support.exchanges import made, record

from extproc.core.record import encode
from extproc.core.records import Body, fields_of
from extproc.history.identifier import Identifier

OURS = "019aa465-b400-7000-8000-00000000c0de"
REQUEST_ID = "7398a14e-d072-4fb5-9858-8331ce637b73"
ALL_DIGITS = "73981450-1072-4905-9858-833106371731"


def response_record(body: bytes, **more: Any) -> dict[str, Any]:
    """A record of an answer in one piece, whose `llm` its reader makes."""
    half = {"body": fields_of(Body.of(body)), "headers": [], "content_type": "application/json", "truncated": False}
    fields = {"type": "response", "id": OURS, "path": "/v1/completions", "status": 200, "llm": None}
    return fields | {"response": half | {"first_byte_ms": 1.0} | more}


@pytest.mark.parametrize(
    ("text", "id"),
    [
        (REQUEST_ID, REQUEST_ID),
        (f" {REQUEST_ID}\n", REQUEST_ID),
        (f"chatcmpl-{REQUEST_ID}", REQUEST_ID),
        (f"chatcmpl-{REQUEST_ID}", f"chatcmpl-{REQUEST_ID}"),
        (f"chatcmpl-{REQUEST_ID}-9d3f0c2b", REQUEST_ID),
        (f"chatcmpl-{REQUEST_ID}-12345678", f"chatcmpl-{REQUEST_ID}"),
        (f"2_chatcmpl-{REQUEST_ID}", f"chatcmpl-{REQUEST_ID}"),
        (f"2_chatcmpl-{REQUEST_ID}-9d3f0c2b", REQUEST_ID),
        (f"cmpl-{REQUEST_ID}-0", f"cmpl-{REQUEST_ID}"),
        (f"cmpl-{REQUEST_ID}-17-9d3f0c2b", REQUEST_ID),
        (f"1_cmpl-{REQUEST_ID}-17-9d3f0c2b", f"cmpl-{REQUEST_ID}"),
        (f"embd-{REQUEST_ID}-0", REQUEST_ID),
        (ALL_DIGITS, ALL_DIGITS),
        (f"cmpl-{ALL_DIGITS}-0", ALL_DIGITS),
        (f"cmpl-{ALL_DIGITS}", f"cmpl-{ALL_DIGITS}"),
        ("resp_e9325994fca344b58e1f9388fd12dc67", "resp_e9325994fca344b58e1f9388fd12dc67"),
        ("resp_ac07217758bafe71-9d3f0c2b", "resp_ac07217758bafe71"),
        ("resp_ac07217758bafe71_0", "resp_ac07217758bafe71"),
        ("msg_01XFDUDYJgAACzvnptvVoYEL", "msg_01XFDUDYJgAACzvnptvVoYEL"),
        ("chatcmpl-1", "chatcmpl-1"),
        ("gen-1722-AbC/x:y=z", "gen-1722-AbC/x:y=z"),
    ],
)
def test_an_engines_id(text: str, id: str) -> None:
    """The id of a response or of Envoy is found in what an engine's log makes of it, and a line with it is read."""
    identifier = Identifier.of(text)
    assert identifier.names(made({"id": OURS, "request_id": id, "llm": None}))
    assert identifier.names(made({"id": OURS, "request_id": None, "llm": {"response_id": id}}))
    request = {"type": "request", "id": OURS, "request_id": id}
    assert identifier.may_name(encode(request))
    assert identifier.names_record(record(request))
    response = response_record(b'{"id":"%s","choices":[]}' % id.encode())
    assert identifier.may_name(encode(response))
    assert identifier.names_record(record(response))


@pytest.mark.parametrize(
    ("text", "id"),
    [
        (f"chatcmpl-{REQUEST_ID}", f"cmpl-{REQUEST_ID}"),
        (REQUEST_ID, f"chatcmpl-{REQUEST_ID}"),
        (REQUEST_ID[:-1], REQUEST_ID),
        (REQUEST_ID[1:], REQUEST_ID),
        ("chatcmpl-12", "chatcmpl-1"),
        ("chatcmpl-1", "chatcmpl-12"),
        ("c1", "c1"),
        ('a"b"c"d', 'a"b"c"d'),
    ],
)
def test_what_is_not_that_id(text: str, id: str) -> None:
    """A part of an id, another kind's id, and what is too short or no id name nothing."""
    identifier = Identifier.of(text)
    assert not identifier.names(made({"id": "x" * 36, "request_id": id, "llm": {"response_id": id}}))
    assert not identifier.names_record(record({"type": "request", "id": "x" * 36, "request_id": id}))


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        (OURS, True),
        (OURS.upper(), True),
        (OURS[:1], True),
        (OURS[:20], True),
        (OURS[-6:], True),
        (OURS[-20:], True),
        (OURS[-5:], False),
        (OURS[9:18], False),
        (OURS + "0", False),
    ],
)
def test_our_id(text: str, is_ours: bool) -> None:
    """Its beginning is enough however short, and of its end six characters."""
    identifier = Identifier.of(text)
    assert identifier.names(made({"id": OURS, "request_id": None, "llm": None})) == is_ours
    assert identifier.may_name(encode({"type": "open", "id": OURS})) >= is_ours
    assert identifier.names_record(record({"type": "open", "id": OURS})) == is_ours


def test_an_answer_that_is_not_in_clear_is_read() -> None:
    """A compressed body stands in base64, where no id can be seen; an id in the text of an answer is not its own."""
    body = gzip.compress(b'{"id":"cmpl-hidden","choices":[]}')
    fields = response_record(body, headers=[["content-encoding", "gzip"]])
    identifier = Identifier.of("cmpl-hidden")
    assert identifier.may_name(encode(fields))
    assert identifier.names_record(record(fields))
    assert not Identifier.of("cmpl-other").names_record(record(fields))
    assert not identifier.names_record(record(response_record(b'{"id":"cmpl-1","choices":[{"text":"cmpl-hidden"}]}')))
