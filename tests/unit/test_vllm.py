"""Real vLLM's bytes: what the record says of them is what they say, however they are cut."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import vllm
from support.exchanges import access
from support.vllm import Captured

from extproc.core import dialects
from extproc.core.effects import Append, Effect
from extproc.core.events import Body, CloseReason, Direction, Headers
from extproc.core.exchange import ExchangeRecorder, RecorderSettings
from extproc.core.outcome import Outcome
from extproc.core.records import encode, of_fields
from extproc.core.redact import Redactor
from extproc.core.trace import TraceContext
from extproc.history.join import Parts

ALL = vllm.load()
STREAMS = [captured for captured in ALL if captured.is_stream and captured.response.whole]
every_capture = pytest.mark.parametrize("captured", ALL, ids=[captured.name for captured in ALL])
every_stream = pytest.mark.parametrize("captured", STREAMS, ids=[captured.name for captured in STREAMS])

MS = 1_000_000
ID = "019aa465-b400-7000-8000-00000000c0de"
CLIENT_LEFT = {"response_flags": ["DC"], "response_code_details": "downstream_remote_disconnect"}
SETTINGS = RecorderSettings(Redactor(b"k" * 32))


def play(captured: Captured, pieces: Sequence[bytes], *, whole: bool) -> dict[str, Any]:
    """The exchange as `extproc log --json` has it. The answer's piece number N comes after N milliseconds. Where it
    has no end, the client has left, by Envoy's access log."""
    exchange = ExchangeRecorder(
        ID, SETTINGS, started_ns=0, started_at=0, trace=TraceContext("a" * 32, "b" * 16), parent=None
    )
    parts = Parts(ID, Path())

    def carry_out(effects: Sequence[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, Append)
            parts.add(of_fields(json.loads(encode(effect.record))))

    request, response = captured.request, captured.response
    head = [(":method", captured.method.encode()), (":path", captured.path.encode()), (":authority", b"a")]
    carry_out(exchange.receive(Headers(Direction.REQUEST, [*head, *request.headers], not request.body, 0)).effects)
    if request.body:
        carry_out(exchange.receive(Body(Direction.REQUEST, request.body, True, 0)).effects)
    status = [(":status", str(captured.expected.status).encode())]
    # Envoy has taken the framing off; and a length would tell of a cut by itself.
    fields = [(name, value) for name, value in response.headers if name not in {"transfer-encoding", "content-length"}]
    carry_out(exchange.receive(Headers(Direction.RESPONSE, [*status, *fields], not pieces and whole, 0)).effects)
    for number, piece in enumerate(pieces, 1):
        last = whole and number == len(pieces)
        carry_out(exchange.receive(Body(Direction.RESPONSE, piece, last, number * MS)).effects)
    carry_out(exchange.close(CloseReason.CLOSED, (len(pieces) + 1) * MS))
    parts.add(access({"id": ID, "at": "", **({} if whole else CLIENT_LEFT)}))
    return parts.exchange().members()


def cut(body: bytes, at: Iterable[int]) -> list[bytes]:
    """The body in pieces that end at these offsets."""
    ends = sorted({0, len(body), *at})
    return [body[start:end] for start, end in pairwise(ends)]


def sent(captured: Captured) -> list[bytes]:
    """As vLLM sent it."""
    return cut(captured.response.body, captured.response.chunks)


def single_bytes(captured: Captured) -> list[bytes]:
    """A byte at a time."""
    return cut(captured.response.body, range(len(captured.response.body)))


def assert_right(captured: Captured, pieces: Sequence[bytes]) -> None:
    """What the record of the exchange says is what was expected of it."""
    expected = captured.expected
    exchange = play(captured, pieces, whole=captured.response.whole)
    llm = exchange["llm"]
    assert (exchange["status"], exchange["outcome"]) == (expected.status, expected.outcome)
    if expected.api is None:
        assert llm is None
        return
    names = ("api", "model", "stream", "response_id", "response_model")
    assert [llm[name] for name in names] == [getattr(expected, name) for name in names]
    assert tuple(llm["finish_reasons"] or ()) == expected.finish_reasons
    assert (expected.usage or {}).items() <= (llm["usage"] or {}).items()
    assert (llm["usage"] is None) == (expected.usage is None)
    assert "parse_error" not in llm or captured.name.endswith("err_json")  # of the request, there
    error = llm.get("error")
    assert (error and {name: error.get(name) for name in ("type", "code", "message")}) == expected.error
    assert texts(captured, captured.response.body) == expected.texts
    assert tool_calls(captured) == expected.tool_calls
    assert (llm["output_chars"] or 0) == expected.characters
    assert llm["ttft_ms"] == first_token_ms(captured, pieces)


def messages(captured: Captured, body: bytes) -> list[dict[str, Any]]:
    """The assembled answer, by choice or by item."""
    return dialects.assemble(captured.expected.api, captured.content_type, None, body) or []


def texts(captured: Captured, body: bytes) -> tuple[str, ...]:
    """The text of each choice of the assembled answer."""
    return tuple(_text(message) for message in messages(captured, body))


def _text(message: dict[str, Any]) -> str:
    if isinstance(message.get("content"), list):
        return "".join(part["text"] for part in message["content"])
    return str(message.get("content") or message.get("text") or "")


def tool_calls(captured: Captured) -> tuple[dict[str, str], ...]:
    """The tool calls of the assembled answer, as the captures have them: all in the first choice."""
    calls = [call for message in messages(captured, captured.response.body) for call in message.get("tool_calls") or ()]
    assert all(call["type"] == "function" for call in calls)
    return tuple({"id": call["id"], **call["function"]} for call in calls)


def first_token_ms(captured: Captured, pieces: Sequence[bytes]) -> float | None:
    """When the piece came that ended the event with the first output; of an answer in one piece, its first byte."""
    token = captured.expected.first_token
    if token is None:
        return 1.0 if captured.expected.texts else None
    member = rb'"(content|text|delta|name)":' + re.escape(json.dumps(token).encode())
    found = re.search(member, captured.response.body)
    assert found is not None
    end = captured.response.body.index(b"\n\n", found.end()) + 2
    arrived = 0
    for number, piece in enumerate(pieces, 1):
        arrived += len(piece)
        if arrived >= end:
            return float(number)
    raise AssertionError(f"the pieces of {captured.name} end before its first token")


# As it was sent, and cut otherwise ---------------------------------------------------------------------------


def test_all_are_here() -> None:
    """Each exchange has its expectation, and each expectation its exchange."""
    assert vllm.names_of_files() == {captured.name for captured in ALL}
    assert len(ALL) == 61


@every_capture
def test_as_it_was_sent(captured: Captured) -> None:
    """Chunk by chunk, as vLLM wrote it."""
    assert_right(captured, sent(captured))


@every_capture
def test_in_one_piece(captured: Captured) -> None:
    """All of the body in one message, as it comes when Envoy has waited for it."""
    assert_right(captured, cut(captured.response.body, ()))


@every_capture
def test_a_byte_at_a_time(captured: Captured) -> None:
    """Cut at every byte."""
    assert_right(captured, single_bytes(captured))


@every_capture
def test_cut_anywhere(captured: Captured) -> None:
    """In a few pieces and in many, which end anywhere."""
    chance = random.Random(captured.name)
    size = len(captured.response.body)
    for pieces in (2, 3, 5, 17, 60):
        assert_right(captured, cut(captured.response.body, (chance.randrange(size + 1) for _ in range(pieces - 1))))


# Ended too early -----------------------------------------------------------------------------------------------


@every_stream
def test_a_clean_end_that_is_too_early(captured: Captured) -> None:
    """A stream that ends cleanly within an event, or before it has said that it is complete, is not ok, and the text
    that had come is what there is."""
    body = captured.response.body
    chance = random.Random(captured.name)
    edges = chance.sample(captured.response.chunks, min(12, len(captured.response.chunks)))
    offsets = {at + by for at in [*edges, captured.response.chunks[-1]] for by in (-3, -2, -1, 0, 1)}
    for at in sorted(offsets | {chance.randrange(1, len(body)) for _ in range(30)}):
        if not 0 < at <= len(body):
            continue
        exchange = play(captured, [body[:at]], whole=True)
        assert exchange["outcome"] in outcomes_of_beginning(captured, body[:at]), body[:at][-60:]
        found = texts(captured, body[:at])
        assert all(text.startswith(part) for text, part in zip(captured.expected.texts, found, strict=False))


def outcomes_of_beginning(captured: Captured, beginning: bytes) -> set[str]:
    """What may become of a stream that ends here."""
    events, _, rest = beginning.rpartition(b"\n\n")
    if rest.endswith(b"\n") or rest == b"data: [DONE]" or (rest.endswith(b"}") and _is_whole(rest)):
        events, rest = beginning, b""  # only the empty line behind it is missing
    if b'data: {"error":' in events:
        return {Outcome.UPSTREAM_ERROR_FRAME}
    if captured.expected.api == "responses":
        is_complete = b'"type":"response.completed"}' in events
    else:
        is_complete = events.count(b'"finish_reason":"') == len(captured.expected.texts) or b"data: [DONE]" in events
    if b"data: ".startswith(rest):  # nothing has been said in it
        return {Outcome.OK, Outcome.UPSTREAM_TRUNCATED} if rest and is_complete else {_ended(is_complete)}
    # An error may be told by its beginning.
    is_error = rest.startswith(b'data: {"err')
    return {Outcome.UPSTREAM_TRUNCATED, *([Outcome.UPSTREAM_ERROR_FRAME] if is_error else [])}


def _ended(is_complete: bool) -> str:
    return Outcome.OK if is_complete else Outcome.UPSTREAM_TRUNCATED


def _is_whole(event: bytes) -> bool:
    try:
        json.loads(event.rpartition(b"data: ")[2])
    except ValueError:
        return False
    return True
