"""What a record says of a model's API, whoever read the body and when."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest
from msgspec import structs
from support.exchanges import decided

from extproc.core import llm
from extproc.core.outcome import Outcome
from extproc.core.record import LONGEST
from extproc.core.records import (
    Body,
    Request,
    RequestDirection,
    RequestLlm,
    Response,
    ResponseDirection,
    ResponseLlm,
    encode,
)

ASK = '{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":1}'
ANSWER = (
    '{"id":"r","model":"m-1","choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":"stop"}],'
    '"usage":{"n":1}}'
)


def request(body: Body | None, path: str = "/v1/chat/completions", **more: Any) -> Request:
    """A record with this body."""
    direction = RequestDirection(content_type="application/json", headers=[], ended_by="end_of_stream", body=body)
    return Request(id="x", path=path, request=structs.replace(direction, **more))


def response(body: Body | None, path: str = "/v1/chat/completions", **more: Any) -> Response:
    """A record with this body."""
    direction = ResponseDirection(content_type="application/json", headers=[], truncated=False, first_byte_ms=7.0)
    direction = structs.replace(direction, **{"ended_by": "end_of_stream", "body": body} | more)
    return Response(id="x", path=path, status=200, response=direction)


def test_a_body_in_the_record_is_read_by_the_reader() -> None:
    """Parameters of the request; model, usage, finish reasons and the first byte's time of the answer."""
    asked, answered = llm.request_llm(request(Body(text=ASK))), llm.response_llm(response(Body(text=ANSWER)))
    assert asked is not None
    assert answered is not None
    assert (asked.model, (asked.params or {})["temperature"]) == ("m", 1)
    assert (answered.response_model, answered.finish_reasons, answered.usage) == ("m-1", ["stop"], {"n": 1})
    assert (answered.ttft_ms, answered.output_chars) == (7.0, 5)


def test_a_body_in_base64_and_coded_is_read_too() -> None:
    """The record holds the bytes of the wire."""
    coded = base64.b64encode(gzip.compress(ASK.encode())).decode()
    found = llm.request_llm(request(Body(base64=coded), headers=[("content-encoding", "gzip")]))
    assert found is not None
    assert found.model == "m"


def test_what_was_read_in_passing_is_taken_as_written() -> None:
    """A stream's token times are in the record only; nothing is read twice."""
    asked, answered = RequestLlm(api="messages"), ResponseLlm(api="messages", ttft_ms=3.0)
    assert llm.request_llm(structs.replace(request(Body(text=ASK)), llm=asked)) is asked
    assert llm.response_llm(structs.replace(response(Body(text=ANSWER)), llm=answered)) is answered


@pytest.mark.parametrize(
    "given",
    [
        Response(id="x"),
        response(Body(file="bodies/x.response")),
        response(Body(text=ANSWER), path="/health"),
        response(Body(text="")),
        response(None),
    ],
    ids=["no answer", "a body elsewhere", "another path", "an empty body", "a body that was lost"],
)
def test_where_nothing_can_be_read_there_is_no_llm_part(given: Response) -> None:
    """Then it is null."""
    assert llm.response_llm(given) is None


FRAMES = 'data: {"error":{"message":"out of memory"}}\n\n'


@pytest.mark.parametrize(
    ("text", "half", "outcome"),
    [
        (ANSWER, {}, Outcome.OK),
        (ANSWER, {"truncated": True}, Outcome.UPSTREAM_TRUNCATED),
        (FRAMES, {"content_type": "text/event-stream"}, Outcome.UPSTREAM_ERROR_FRAME),
    ],
)
def test_an_answer_without_its_body_ended_as_it_ended(text: str, half: dict[str, Any], outcome: Outcome) -> None:
    """A record that had to leave its body out says so; what the answer was is another thing, and stays."""
    reduced = llm.without_body(response(Body(text=text), **half), keep_file=True)
    assert reduced.response is not None
    assert (reduced.response.body, reduced.response.body_lost) == (None, True)
    assert decided(reduced, None) is outcome


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_that_holds_the_body_is_not_left_out(keep: bool) -> None:
    """Unless it is the file that failed."""
    file = Body(file="bodies/x.response")
    reduced = llm.without_body(response(file), keep_file=keep)
    assert reduced.response is not None
    assert reduced.response.body == (file if keep else None)


def test_without_its_body_a_terminal_record_can_always_be_written() -> None:
    """What makes it too long all the same is left out, too."""
    long = response(Body(text="a"), headers=[("x", "y" * LONGEST)])
    assert len(encode(llm.at_least(long))) < 1000


def test_a_request_that_was_cut_off_says_so() -> None:
    """An `open` record holds what came; the reader does not take it for the whole."""
    found = llm.request_llm(request(Body(text=ASK[:40]), ended_by=None))
    assert found is not None
    assert found.parse_error


def test_an_event_stream_that_nobody_timed_has_no_time_of_its_first_token() -> None:
    """Sent under another content type, it was not read in passing; everything else is known."""
    frame = 'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n'
    found = llm.response_llm(response(Body(text=frame)))
    assert found is not None
    assert (found.ttft_ms, found.output_chars, found.done) == (None, 2, True)
