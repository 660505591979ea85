"""How an answer ended, in every dialect and both forms: whole, cut off, or with an error, wherever that was told."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import brotli  # type: ignore[import-untyped]  # it comes without types
import pytest
import zstandard
from support.exchanges import decided

from extproc.core.dialects import ResponseReading
from extproc.core.outcome import Outcome
from extproc.core.records import fields_of

SSE, JSON = "text/event-stream", "application/json"
DONE = b"data: [DONE]\n\n"


def frame(body: Any, event: str | None = None) -> bytes:
    """One event."""
    return (f"event: {event}\n" if event else "").encode() + b"data: " + json.dumps(body).encode() + b"\n\n"


def typed(kind: str, **members: Any) -> bytes:
    """An event named by its type, as the Responses API and Anthropic send them."""
    return frame({"type": kind, **members}, kind)


def choice(**members: Any) -> bytes:
    """A chunk with one choice."""
    return frame({"id": "c", "model": "m", "choices": [{"index": 0, **members}]})


CHAT = choice(delta={"role": "assistant", "content": "Tide"}, finish_reason=None)
TEXT = choice(text="Tide", finish_reason=None)
RESPONSES = typed(
    "response.created", response={"id": "r", "model": "m", "status": "in_progress", "error": None}
) + typed("response.output_text.delta", output_index=0, content_index=0, delta="Tide")
MESSAGES = typed("message_start", message={"id": "m", "model": "m", "usage": {"input_tokens": 1}}) + typed(
    "content_block_delta", index=0, delta={"type": "text_delta", "text": "Tide"}
)
COMPLETED = {"id": "r", "model": "m", "status": "completed", "output": [], "usage": {"input_tokens": 1}}

STREAMS: dict[str, tuple[bytes, list[bytes]]] = {
    # What begins an answer, and the events that end it; with the last of them it is whole.
    "chat.completions": (CHAT, [choice(delta={}, finish_reason="stop"), DONE]),
    "completions": (TEXT, [choice(text="", finish_reason="length"), DONE]),
    "responses": (RESPONSES, [typed("response.completed", response=COMPLETED)]),
    "messages": (MESSAGES, [typed("message_delta", delta={"stop_reason": "end_turn"}), typed("message_stop")]),
}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "chat.completions": {"choices": [{"index": 0, "message": {"content": "Tide \u00e9 ]"}, "finish_reason": "stop"}]},
    "completions": {"choices": [{"index": 0, "text": 'Tide "}', "finish_reason": "stop"}], "usage": {"n": 1.5}},
    "embeddings": {"object": "list", "data": [{"index": 0, "embedding": [0.5, -1e-3, 0]}], "model": "m"},
    "responses": {
        "object": "response",
        "status": "completed",
        "output": [{"content": [{"text": "\\"}]}],
        "error": None,
    },
    "messages": {"type": "message", "content": [{"type": "text", "text": "Tide"}], "stop_reason": "end_turn"},
}
every_stream = pytest.mark.parametrize("api", STREAMS)
every_document = pytest.mark.parametrize("api", DOCUMENTS)


def read(
    api: str, pieces: Iterable[bytes], content_type: str | None = SSE, encoding: str | None = None, status: int = 200
) -> tuple[Outcome, dict[str, Any]]:
    """The outcome of an answer that ended cleanly, and what was read of it."""
    reading = ResponseReading(api, content_type, encoding, status)
    for at, piece in enumerate(pieces):
        reading.feed(piece, at)
    llm = reading.finish(complete=True)
    assert llm is not None
    found = fields_of(llm)
    half: dict[str, Any] = {
        "ended_by": "end_of_stream",
        "content_type": content_type,
        "truncated": False,
        "headers": [],
    }
    record = {"status": status, "response_code_details": "via_upstream", "response": half, "llm": found}
    return decided(record, None), found


def at_every_cut(body: bytes) -> Iterable[list[bytes]]:
    """The body in two pieces, cut at forty places, and in single bytes."""
    yield from ([body[:at], body[at:]] for at in range(0, len(body) + 1, 1 + len(body) // 40))
    yield [body[at : at + 1] for at in range(len(body))]


# Errors ----------------------------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[bytes, str | None]] = {
    "an event named error, of text": (b"event: error\ndata: it went away\n\n", "it went away"),
    "an event named error, of JSON without error": (b'event: error\ndata: {"message": "m"}\n\n', "m"),
    "an event named error, of JSON": (b'event: error\ndata: {"error": {"message": "m"}}\n\n', "m"),
    "an event named error, of nothing": (b"event: error\n\n", None),
    "an event named error, of null": (b"event: error\ndata: null\n\n", None),
    "an event named error, cut off": (b'event: error\ndata: {"error": {"mess', '{"error": {"mess'),
    "a field named error": (b'error: {"code":500,"message":"m","type":"server_error"}\n\n', "m"),
    "a field named error, of text": (b"error: it went away\n\n", "it went away"),
    "a line of JSON": (b'{"error":{"message":"m"}}\n\n', "m"),
    "a line of JSON with its text alone": (b'{"error":"m"}\n', "m"),
    "a document of several lines": (b'{\n  "error": {\n    "message": "m"\n  }\n}\n', "m"),
    "a document without a line end": (b'{"detail": "m"}', "m"),
    "a list of errors": (b'[{"error": {"message": "m"}}]\n', "m"),
    "a page": (b"<html>\n<head><title>502 Bad Gateway</title></head>\n\n</html>\n", "502 Bad Gateway"),
    "a sentence": (
        b"upstream connect error: connection termination\n\n",
        "upstream connect error: connection termination",
    ),
    "data with an error": (b'data: {"error": {"message": "m"}}\n\n', "m"),
    "data with an error's text": (b'data: {"error": "m"}\n\n', "m"),
    "data with a detail": (b'data: {"detail": "m"}\n\n', "m"),
    "data with a list of errors": (b'data: [{"error": {"message": "m"}}]\n\n', "m"),
    "data of the object error": (b'data: {"object": "error", "message": "m"}\n\n', "m"),
    "data of the type error": (b'data: {"type": "error", "error": {"message": "m"}}\n\n', "m"),
    "data of the type of an error": (b'data: {"type": "server_error", "message": "m"}\n\n', "m"),
    "data of TGI": (b'data: {"error": "m", "error_type": "overloaded"}\n\n', "m"),
    "data with a code beside its message": (b'data: {"code": 1305, "message": "m"}\n\n', "m"),
    "data that is a page": (b"data: <html>Bad Gateway</html>\n\n", "Bad Gateway"),
    "data that says error": (b"data: Error: it went away\n\n", "Error: it went away"),
}


@every_stream
@pytest.mark.parametrize(("error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_told_in_a_stream(api: str, error: bytes, message: str | None) -> None:
    """An error is one by its name or its place, at the beginning, in the middle, and after the end; cut anywhere."""
    begin, end = STREAMS[api]
    ends = b"".join(end)
    bodies = (
        [begin + error]
        if not error.endswith(b"\n")
        else [error, begin + error, begin + error + ends, begin + ends + error]
    )
    for body in bodies:
        for pieces in at_every_cut(body):
            outcome, found = read(api, pieces)
            assert outcome is Outcome.UPSTREAM_ERROR_FRAME, (pieces[0], found)
            assert found["error"]["message"] == message


def test_an_error_in_a_choice() -> None:
    """A choice has an error of its own, or a finish reason that means failure, in a stream and in a document."""
    told = {"error": {"code": 502, "message": "m"}, "finish_reason": "error"}
    for reason in ("error", "network_error", "abort"):
        for api in ("chat.completions", "completions"):
            for members, code in ((told, 502), ({"finish_reason": reason}, None)):
                chunk = {"choices": [{"index": 0, "text": "a", **members}], "usage": None}
                for body, kind in ((frame(chunk) + DONE, SSE), (json.dumps(chunk).encode(), JSON)):
                    outcome, found = read(api, [body], kind)
                    assert outcome is Outcome.UPSTREAM_ERROR_FRAME, found
                    assert found["error"]["code"] == code
    stopped = typed("message_delta", delta={"stop_reason": "error"})
    assert read("messages", [MESSAGES + stopped])[0] is Outcome.UPSTREAM_ERROR_FRAME


@pytest.mark.parametrize("kind", ["response.failed", "response.done"])
def test_a_response_that_failed(kind: str) -> None:
    """By its terminal event or by its status; its own words are kept."""
    response = {"status": "failed", "error": {"code": "server_error", "message": "m"}, "output": []}
    for body, content_type in (
        (RESPONSES + typed(kind, response=response), SSE),
        (json.dumps(response).encode(), JSON),
    ):
        outcome, found = read("responses", [body], content_type)
        assert outcome is Outcome.UPSTREAM_ERROR_FRAME
        assert found["error"] == {"type": None, "code": "server_error", "message": "m"}
        assert found["finish_reasons"] == ["failed"]


def test_a_response_that_is_incomplete_has_not_failed() -> None:
    """A limit was met; a cancelled one was cancelled."""
    incomplete = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "error": None}
    outcome, found = read("responses", [RESPONSES + typed("response.incomplete", response=incomplete)])
    assert (outcome, found["finish_reasons"]) == (Outcome.OK, ["max_output_tokens"])
    outcome, found = read("responses", [RESPONSES + typed("response.cancelled", response={"status": "cancelled"})])
    assert (outcome, found["finish_reasons"]) == (Outcome.OK, ["cancelled"])


@every_document
@pytest.mark.parametrize(
    "error", [{"error": {"message": "m"}}, {"error": "m"}, {"detail": "m"}, {"object": "error", "message": "m"}]
)
@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: [error]], ids=["object", "list"])
@pytest.mark.parametrize("content_type", [JSON, SSE, None, "text/plain"], ids=json.dumps)
def test_an_error_as_a_document(
    api: str, error: dict[str, Any], wrap: Callable[[Any], Any], content_type: str | None
) -> None:
    """A document that tells an error with status 200 is an error frame, under any type; with 400 its words are kept."""
    for text in (json.dumps(wrap(error)), json.dumps(wrap(error), indent=2)):
        outcome, found = read(api, [text.encode()], content_type)
        assert (outcome, found["error"]["message"]) == (Outcome.UPSTREAM_ERROR_FRAME, "m")
        outcome, found = read(api, [text.encode()], content_type, status=400)
        assert (outcome, found["error"]["message"]) == (Outcome.UPSTREAM_ERROR_STATUS, "m")


@every_stream
@pytest.mark.parametrize("nothing", [None, "", {}, [], False], ids=json.dumps)
def test_an_error_that_is_empty_is_none(api: str, nothing: Any) -> None:
    """Servers send the member with every chunk."""
    begin, end = STREAMS[api]
    body = (begin + b"".join(end)).replace(b"data: {", b'data: {"error": %b, ' % json.dumps(nothing).encode())
    assert read(api, [body])[0] is Outcome.OK
    document = json.dumps({**DOCUMENTS[api], "error": nothing}).encode()
    assert read(api, [document], JSON)[0] is Outcome.OK


@every_stream
@pytest.mark.parametrize(
    "odd", [b": ping\n\n", b"data: ping\n\n", b"event: ping\ndata: {}\n\n", b"foo: bar\n\n", b"data: 7\n\n"]
)
def test_what_is_odd_is_no_error(api: str, odd: bytes) -> None:
    """Comments, keep-alives, fields and events that nobody knows."""
    begin, end = STREAMS[api]
    assert read(api, [odd + begin + odd + b"".join(end)])[0] is Outcome.OK


# Ends ------------------------------------------------------------------------------------------------------------

ODD_BEFORE = {
    "nothing": b"",
    "text": b"data: ping\n\n",
    "no object": b"data: 7\n\n",
    "malformed": b'data: {"choices": [}\n\n',
    "no UTF-8": b'data: {"x": "\xff"}\n\n',
    "long": b'data: {"x": "' + b"y" * 300_000 + b'"}\n\n',
    "an unknown field": b"foo: bar\n\n",
}


@every_stream
@pytest.mark.parametrize(
    ("content_type", "odd"),
    [
        *(pytest.param(SSE, odd, id=name) for name, odd in ODD_BEFORE.items()),
        *(pytest.param(kind, b"", id=kind) for kind in ("Text/Event-Stream; charset=UTF-8", "text/plain", JSON, None)),
    ],
)
def test_a_stream_cut_at_every_byte(api: str, content_type: str | None, odd: bytes) -> None:
    """Until what ends it has come it was cut off, whatever was odd before; then it is whole."""
    begin, end = STREAMS[api]
    before, last = begin + odd, b"".join(end)
    for at in range(0, len(last), 1 if len(odd) < 1000 else 9):
        outcome, found = read(api, [before, last[:at]], content_type)
        if outcome is not Outcome.UPSTREAM_TRUNCATED:
            # All of the reason's event has come, but for its blank line, and no more than that line is missing.
            assert at >= len(end[0]) - 2, (last[:at], found)
            assert found["finish_reasons"] in (["stop"], ["length"], ["completed"], ["end_turn"])
            assert json.loads(last[:at].rstrip(b"\n").split(b"data: ")[1].split(b"\n")[0])
    assert read(api, [before, last], content_type)[0] is Outcome.OK


@pytest.mark.parametrize(
    "cut", [b"d", b"dat", b"data: {", b'data: {"choices":[],"usage":{"prompt', b"event: x", b'{"a"']
)
def test_a_cut_after_the_finish_reason(cut: bytes) -> None:
    """A stream that ends within an event is cut although its choices have ended; after [DONE] nothing is missing."""
    begin, (reason, done) = STREAMS["chat.completions"]
    assert read("chat.completions", [begin + reason + cut])[0] is Outcome.UPSTREAM_TRUNCATED
    assert read("chat.completions", [begin + reason + done + cut])[0] is Outcome.OK
    assert read("chat.completions", [begin + reason + b": comm"])[0] is Outcome.OK


@every_document
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "odd", ["", '"nan": NaN, ', '"surrogate": "\\ud800", ', '"twice": 1, "twice": 2, ', '"bad": x, ', '"": [}, ']
)
def test_a_document_cut_at_every_byte(api: str, indent: int | None, odd: str) -> None:
    """A document that ends within its JSON was cut off, whatever else is wrong with it."""
    body = json.dumps(DOCUMENTS[api], indent=indent).replace("{", "{" + odd, 1).encode()
    for at in range(1, len(body)):
        outcome, found = read(api, [body[:at]], JSON)
        assert outcome is Outcome.UPSTREAM_TRUNCATED, (body[:at], found)
    assert read(api, [body + b"\n"], JSON)[0] is Outcome.OK


@every_document
def test_a_long_document_cut(api: str) -> None:
    """The same of one that is too long to be held."""
    body = json.dumps({"x": ["y" * 1000, 0.5] * 500, **DOCUMENTS[api]}).encode()
    for at in (300_000, 400_001, len(body) - 1):
        assert read(api, [body[:at]], JSON)[0] is Outcome.UPSTREAM_TRUNCATED
    assert read(api, [body], JSON)[0] is Outcome.OK


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


@every_stream
@pytest.mark.parametrize("coding", CODINGS)
def test_a_coded_answer_cut_at_every_byte(api: str, coding: str) -> None:
    """A cut in a compressed answer is one, unless all content is out; so is that of a plain one under its name."""
    begin, end = STREAMS[api]
    plain = {SSE: begin + b"".join(end), JSON: json.dumps(DOCUMENTS[api]).encode()}
    for content_type, body in plain.items():
        coded = CODINGS[coding](body)
        for at in range(1, len(coded)):
            outcome, found = read(api, [coded[:at]], content_type, coding)
            whole = found["finish_reasons"] and None not in found["finish_reasons"]
            assert outcome is (Outcome.OK if whole and not found["cut"] else Outcome.UPSTREAM_TRUNCATED), at
            assert whole or outcome is Outcome.UPSTREAM_TRUNCATED
        assert read(api, [coded], content_type, coding)[0] is Outcome.OK
        for name in (coding, "none", "exotic"):
            assert read(api, [body], content_type, name)[0] is Outcome.OK
            assert read(api, [body[:70]], content_type, name)[0] is Outcome.UPSTREAM_TRUNCATED


def test_what_we_cannot_read_is_not_called_cut() -> None:
    """Of a coding that we do not know nothing is said."""
    outcome, found = read("chat.completions", [b"\x00\x01\x02" * 20], SSE, "exotic")
    assert (outcome, found["parse_error"]) == (Outcome.OK, "unknown content-encoding 'exotic'")


@every_stream
@pytest.mark.parametrize("content_type", [SSE, "application/x-ndjson"])
@pytest.mark.parametrize("body", [b"", b"\n\n", b": ping\n\n", b"\xef\xbb\xbf"])
def test_a_stream_of_nothing(api: str, content_type: str, body: bytes) -> None:
    """A stream without an event has not said what it had to."""
    assert read(api, [body], content_type)[0] is Outcome.UPSTREAM_TRUNCATED


# Whole answers in other forms --------------------------------------------------------------------------------------

LLAMA_CPP = [
    {"index": 0, "content": "Tide", "tokens": [], "stop": False, "id_slot": 0},
    {
        "index": 0,
        "content": "",
        "stop": True,
        "model": "m",
        "tokens_predicted": 2,
        "tokens_evaluated": 3,
        "stop_type": "eos",
    },
]
OLD_LLAMA_CPP = [
    {"content": "Tide", "stop": False, "slot_id": 0},
    {
        "content": "",
        "stop": True,
        "stopped_eos": False,
        "stopped_limit": True,
        "tokens_predicted": 2,
        "tokens_evaluated": 3,
    },
]
OLLAMA = [
    {"model": "m", "message": {"role": "assistant", "content": "Tide"}, "done": False},
    {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    | {"prompt_eval_count": 3, "eval_count": 2},
]
CHUNKS = [
    {"choices": [{"index": 0, "delta": {"content": "Tide"}}]},
    {"choices": [{"index": 0, "finish_reason": "stop"}]},
]


@pytest.mark.parametrize(
    ("events", "reason", "usage"),
    [
        (LLAMA_CPP, "eos", {"tokens_evaluated": 3, "tokens_predicted": 2}),
        (OLD_LLAMA_CPP, "limit", {"tokens_evaluated": 3, "tokens_predicted": 2}),
        (OLLAMA, "stop", {"prompt_eval_count": 3, "eval_count": 2}),
        (CHUNKS, "stop", None),
    ],
    ids=["llama.cpp", "llama.cpp before", "Ollama", "chunks"],
)
@pytest.mark.parametrize("api", ["chat.completions", "completions"])
def test_servers_own_forms(api: str, events: list[dict[str, Any]], reason: str, usage: dict[str, int] | None) -> None:
    """llama.cpp's and Ollama's own events, as server-sent events and as JSON by the line, whole and cut."""
    frames = [frame(event) for event in events]
    lines = [json.dumps(event).encode() + b"\n" for event in events]
    for pieces, content_type in ((frames, SSE), (frames, "text/plain"), (lines, "application/x-ndjson"), (lines, SSE)):
        reading = ResponseReading(api, content_type, None, 200)
        for at, piece in enumerate(pieces):
            reading.feed(piece, at)
        assert reading.first_token_at == 0
        outcome, found = read(api, pieces, content_type)
        assert (outcome, found["finish_reasons"], found["output_chars"]) == (Outcome.OK, [reason], 4)
        assert found["usage"] == usage
        assert read(api, pieces[:1], content_type)[0] is Outcome.UPSTREAM_TRUNCATED
        assert read(api, [pieces[0], pieces[1][:-9]], content_type)[0] is Outcome.UPSTREAM_TRUNCATED
    untyped = read(api, lines, JSON)
    assert (untyped[0], untyped[1]["finish_reasons"]) == (Outcome.OK, [reason])


@every_stream
def test_a_done_mark_ends_every_stream(api: str) -> None:
    """Gateways add [DONE] to formats that have an end of their own, and `response.done` is one, too."""
    begin, end = STREAMS[api]
    assert read(api, [begin + DONE])[0] is Outcome.OK
    assert read(api, [begin, *end, DONE])[0] is Outcome.OK
    assert read("responses", [RESPONSES + typed("response.done", response={})])[1]["finish_reasons"] == ["completed"]


@every_document
@pytest.mark.parametrize("form", [lambda text: text, lambda text: b"data: " + text + b"\n\n"], ids=["raw", "data"])
def test_a_whole_document_in_a_stream(api: str, form: Callable[[bytes], bytes]) -> None:
    """An answer in one piece under the type of a stream, bare or as the data of its only event."""
    body = form(json.dumps(DOCUMENTS[api]).encode())
    outcome, found = read(api, [body])
    assert outcome is Outcome.OK, found
    as_document = read(api, [json.dumps(DOCUMENTS[api]).encode()], JSON)[1]
    for name in ("finish_reasons", "output_chars", "usage", "response_model"):
        assert found[name] == as_document[name]


@every_stream
@pytest.mark.parametrize("empty", ["", "null", "None", None], ids=json.dumps)
def test_an_empty_finish_reason(api: str, empty: str | None) -> None:
    """It ends nothing, and it does not take a reason back."""
    begin, end = STREAMS[api]
    reasons = {
        "chat.completions": choice(delta={}, finish_reason=empty),
        "completions": choice(text="", finish_reason=empty),
        "responses": typed("response.in_progress", response={"status": empty}),
        "messages": typed("message_delta", delta={"stop_reason": empty}),
    }
    outcome, found = read(api, [begin + reasons[api]])
    assert outcome is Outcome.UPSTREAM_TRUNCATED
    assert set(found["finish_reasons"]) <= {None}
    outcome, found = read(api, [begin, *end, reasons[api]])
    assert outcome is Outcome.OK
    assert None not in found["finish_reasons"]


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain"])
@pytest.mark.parametrize(
    "body", [b"\x19\x13k\xa1" * 90_000, b"{\xf9\x95\xc4\xce" * 60, b":\xd0\xe4\t\xaa" * 60, b"9PLA\xce" * 90_000]
)
def test_bytes_that_are_no_text_are_not_cut(body: bytes, content_type: str | None) -> None:
    """Whatever they begin with, and however long they are: nothing in them says where they should end."""
    reading = ResponseReading("chat.completions", content_type, None, 200)
    reading.feed(body, 1)
    found = reading.finish(complete=True)
    assert found is not None
    assert found.cut is False
