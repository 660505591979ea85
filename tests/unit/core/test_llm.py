"""What a record says of a model's API, whoever read the body and when."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from extproc.core import llm
from extproc.core.outcome import Outcome, decide
from extproc.core.record import LONGEST, encode

ASK = '{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":1}'
ANSWER = (
    '{"id":"r","model":"m-1","choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":"stop"}],'
    '"usage":{"n":1}}'
)


def record(
    direction: str, body: dict[str, str] | None, path: str = "/v1/chat/completions", **half: Any
) -> dict[str, Any]:
    """A record with this body."""
    fields = {"content_type": "application/json", "headers": [], "truncated": False, "ended_by": "end_of_stream"}
    fields |= {"first_byte_ms": 7.0, "body": body} | half
    return {"type": direction, "path": path, "status": 200, "llm": None, direction: fields}


def test_a_body_in_the_record_is_read_by_the_reader() -> None:
    """Parameters of the request; model, usage, finish reasons and the first byte's time of the answer."""
    request, response = (
        llm.of_request(record("request", {"text": ASK})),
        llm.of_response(record("response", {"text": ANSWER})),
    )
    assert request is not None
    assert response is not None
    assert (request["model"], request["params"]["temperature"]) == ("m", 1)
    assert (response["response_model"], response["finish_reasons"], response["usage"]) == ("m-1", ["stop"], {"n": 1})
    assert (response["ttft_ms"], response["output_chars"]) == (7.0, 5)


def test_a_body_in_base64_and_coded_is_read_too() -> None:
    """The record holds the bytes of the wire."""
    coded = base64.b64encode(gzip.compress(ASK.encode())).decode()
    found = llm.of_request(record("request", {"base64": coded}, headers=[["content-encoding", "gzip"]]))
    assert found is not None
    assert found["model"] == "m"


@pytest.mark.parametrize("read", [llm.of_request, llm.of_response])
def test_what_was_read_in_passing_is_taken_as_written(read: Any) -> None:
    """A stream's token times are in the record only; nothing is read twice."""
    written = {"api": "chat.completions", "ttft_ms": 3.0}
    direction = "request" if read is llm.of_request else "response"
    assert read(record(direction, {"text": ASK}) | {"llm": written}) is written


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"type": "response", "response": None, "llm": None},
        record("response", {"file": "bodies/x.response"}),
        record("response", {"text": ANSWER}, path="/health"),
        record("response", {"text": ""}),
        record("response", None),
    ],
)
def test_where_nothing_can_be_read_there_is_no_llm_part(given: dict[str, Any] | None) -> None:
    """No answer, a body elsewhere, another path, an empty body, a body that was lost."""
    assert llm.of_response(given) is None


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
    fields = json.loads(llm.without_body(encode(record("response", {"text": text}, **half)), keep_file=True))
    assert (fields["response"]["body"], fields["response"]["body_lost"]) == (None, True)
    assert decide(fields | {"llm": llm.of_response(fields)}, None) is outcome


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_that_holds_the_body_is_not_left_out(keep: bool) -> None:
    """Unless it is the file that failed."""
    file = {"file": "bodies/x.response"}
    fields = json.loads(llm.without_body(encode(record("response", file)), keep_file=keep))
    assert fields["response"]["body"] == (file if keep else None)


def test_without_its_body_a_terminal_record_can_always_be_written() -> None:
    """What makes it too long all the same is left out, too."""
    long = record("response", {"text": "a"}, headers=[["x", "y" * LONGEST]])
    assert len(llm.without_body(encode(long), keep_file=True)) < 1000


def test_a_request_that_was_cut_off_says_so() -> None:
    """An `open` record holds what came; the reader does not take it for the whole."""
    found = llm.of_request(
        record("open", None) | {"request": record("request", {"text": ASK[:40]}, ended_by=None)["request"]}
    )
    assert found is not None
    assert found["parse_error"]


def test_an_event_stream_that_nobody_timed_has_no_time_of_its_first_token() -> None:
    """Sent under another content type, it was not read in passing; everything else is known."""
    frame = 'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n'
    found = llm.of_response(record("response", {"text": frame}))
    assert found is not None
    assert (found["ttft_ms"], found["output_chars"], found["done"]) == (None, 2, True)
