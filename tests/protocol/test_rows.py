"""What broke others, played to a whole sidecar over real gRPC, on both transports.

Each row names the issue it comes from (AIBrix, GIE: gateway-api-inference-extension, AIGW: Envoy AI Gateway, llm-d,
Envoy, and others), so that a failure says which of the old stories has come back.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.exchanges import present
from support.messages import DUPLEX, STREAMED, body, head, kind, trailers
from support.sidecar import Sidecar

from extproc._proto.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from extproc.core.joined import NO_LLM, NO_RESPONSE

PATH = "/v1/chat/completions"
BUFFERED = {"request_body_mode": 2, "response_body_mode": 2}
PARTIAL = {"request_body_mode": 3, "response_body_mode": 3}

ASK = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()


def chunk(content: str | None = None, **more: Any) -> bytes:
    """One frame of a chat stream."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish_reason", None)}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]} | more).encode() + b"\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
LAST = b"data: " + json.dumps({"id": "c", "model": "m", "choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"
STREAM = [chunk("Hel"), chunk("lo"), chunk(finish_reason="stop"), LAST, DONE]

POST = head("request", first=STREAMED, __method="POST", __path=PATH)
SSE = head("response", __status="200", content_type="text/event-stream")
JSON = head("response", __status="200", content_type="application/json")
ASKED = [POST, body("request", ASK, end=True)]
ANSWERED = [SSE, *[body("response", data) for data in STREAM], body("response", end=True)]


def sha256(*pieces: bytes) -> str:
    """The digest of these bytes in a row."""
    return hashlib.sha256(b"".join(pieces)).hexdigest()


ROWS: dict[str, tuple[list[ProcessingRequest], dict[str, Any]]] = {
    "1 Envoy#46237 GIE#2988 the last request chunk twice, both with end_of_stream": (
        [*ASKED, body("request", ASK, end=True), *ANSWERED],
        {"request": ("end_of_stream", len(ASK)), "duplicates": 1, "late": {"request.body": 1}},
    ),
    "1 Envoy#46237 the same for the answer: usage is not doubled": (
        [*ASKED, SSE, *[body("response", data) for data in STREAM[:-1]], *[body("response", DONE, end=True)] * 2],
        {"response": ("end_of_stream", sum(map(len, STREAM))), "duplicates": 1, "usage": USAGE},
    ),
    "2 GIE#2652 the chunk that ends the body is a chunk too, once": (
        [*ASKED, JSON, body("response", b'{"model":"m","choices":[],'), body("response", b'"usage":null}', end=True)],
        {"response": ("end_of_stream", 39), "chunks": 2},
    ),
    "3 AIBrix#2224 AIBrix#2225 messages after the end are counted, never recorded again": (
        [*ASKED, *ANSWERED, body("response", b"more"), body("response", b"and more", end=True), trailers("response")],
        {"response": ("end_of_stream", sum(map(len, STREAM))), "duplicates": 1,
         "late": {"response.body": 2, "response.trailers": 1}},
    ),
    "7 AIGW#2198 agentgateway#3332 an empty chunk ends the body, and nothing parses b''": (
        [*ASKED, JSON, body("response", b'{"model":"m"}'), body("response", end=True)],
        {"response": ("end_of_stream", 13), "parse_error": None},
    ),
    "8 GIE#555 end_of_stream on headers: no body follows": (
        [head("request", first=STREAMED, end=True, __path="/v1/models"), head("response", end=True, __status="204")],
        {"request": ("headers", 0), "response": ("headers", 0)},
    ),
    "9 no body message at all: the close ends the request, not the answer's headers": (
        [POST, head("response", end=True, __status="200")],
        {"request": ("closed", 0), "response": ("headers", 0)},
    ),
    "10 coraza#288 BUFFERED with trailers: the one message is the body": (
        [head("request", first=BUFFERED, __path=PATH), body("request", ASK), trailers("request"), *ANSWERED],
        {"request": ("end_of_stream", len(ASK))},
    ),
    "11 STREAMED with trailers that are not sent: the close ends the request": (
        [POST, body("request", ASK), *ANSWERED],
        {"request": ("closed", len(ASK)), "response": ("end_of_stream", sum(map(len, STREAM)))},
    ),
    "12 FULL_DUPLEX ended by trailers": (
        [head("request", first=DUPLEX, __path=PATH), body("request", ASK), trailers("request"), *ANSWERED],
        {"request": ("trailers", len(ASK))},
    ),
    "13 Envoy#21205 empty trailers end a body that never had end_of_stream": (
        [*ASKED, JSON, body("response", b'{"model":"m"}'), trailers("response")],
        {"response": ("trailers", 13)},
    ),
    "15 llm-d#2468 a status in the trailers, under HTTP 200": (
        [*ASKED, head("response", __status="200"), body("response", b"x"), trailers("response")],
        {"response": ("trailers", 1)},
    ),
    "18 semantic-router#2845 usage in every chunk: the last one counts, nothing is summed": (
        [*ASKED, SSE, *[body("response", chunk("a", usage=USAGE | {"completion_tokens": n})) for n in range(3)],
         body("response", DONE, end=True)],
        {"usage": USAGE | {"completion_tokens": 2}},
    ),
    "19 semantic-router#2215 a usage-only chunk first ends nothing": (
        [*ASKED, SSE, body("response", LAST), *[body("response", data) for data in STREAM], body("response", end=True)],
        {"response": ("end_of_stream", len(LAST) + sum(map(len, STREAM))), "usage": USAGE},
    ),
    "22 usage null is no usage, and zero is one": (
        [*ASKED, SSE, body("response", chunk("a", usage={"total_tokens": 0})), body("response", chunk("b", usage=None)),
         body("response", DONE, end=True)],
        {"usage": {"total_tokens": 0}},
    ),
    "23 GIE#518 [DONE] and usage in one chunk": (
        [*ASKED, SSE, body("response", chunk("a") + LAST + DONE, end=True)],
        {"usage": USAGE, "outcome": "ok"},
    ),
    "23 [DONE] missing": (
        [*ASKED, SSE, body("response", chunk("a"), end=True)],
        {"outcome": "upstream_truncated"},
    ),
    "30 a JSON answer over many chunks, with usage as text in it": (
        [*ASKED, JSON,
         *[body("response", bytes([byte])) for byte in b'{"choices":[{"message":{"content":"\\"usage\\":9"}}]}'],
         body("response", end=True)],
        {"usage": None, "chunks": 51},
    ),
    "32 bodies that are no JSON are recorded raw": (
        [head("request", first=STREAMED, __path="/v1/audio/transcriptions",
              content_type="multipart/form-data; boundary=x"),
         body("request", b"--x\r\n\xff\xfe", end=True), head("response", end=True, __status="200")],
        {"request": ("end_of_stream", 7), "llm": None},
    ),
    "47 AIGW#403 Envoy#29459 an answer without a request": (
        [head("response", first=STREAMED, __status="503"), body("response", b"no", end=True)],
        {"request": None, "response": ("end_of_stream", 2)},
    ),
    "48 an answer that begins, and ends, before the request does": (
        [POST, body("request", b"{"), JSON, body("request", b"}"), body("response", b"{}", end=True),
         body("request", end=True)],
        {"request": ("end_of_stream", 2), "response": ("end_of_stream", 2)},
    ),
    "53 a path with a prefix and a query": (
        [head("request", first=STREAMED, __path="/tenant/v1/chat/completions/?a=1"), body("request", ASK, end=True),
         *ANSWERED],
        {"usage": USAGE},
    ),
    "68 content-length on an answer without a body: the headers decide": (
        [head("request", first=STREAMED, end=True, __method="HEAD", __path="/x"),
         head("response", end=True, __status="304", content_length="100")],
        {"response": ("headers", 0), "truncated": False},
    ),
    "69 Envoy#35850 a body chunk before the headers are answered": (
        [head("request", first=STREAMED | {"send_body_without_waiting_for_header_response": True}, __path=PATH),
         body("request", ASK, end=True), *ANSWERED],
        {"request": ("end_of_stream", len(ASK))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_messages(sidecar: Sidecar, row: str) -> None:
    """One reply of its own kind for each message, one exchange, one terminal record, and what the row is about."""
    messages, expected = ROWS[row]
    replies = sidecar.tell(messages)
    assert [reply.WhichOneof("response") for reply in replies] == [
        message.WhichOneof("request") for message in messages
    ]
    (exchange,) = sidecar.exchanges()
    response, llm = exchange.response or NO_RESPONSE, exchange.llm or NO_LLM
    found: dict[str, Any] = {
        "duplicates": exchange.protocol.duplicate_end_of_stream,
        "late": exchange.protocol.late,
        "chunks": response.chunks,
        "truncated": response.truncated,
        "usage": llm.usage,
        "parse_error": llm.parse_error or None,
        "llm": exchange.llm,
        "outcome": exchange.outcome,
    }
    for direction, passed in (("request", exchange.request), ("response", exchange.response)):
        found[direction] = passed and (passed.ended_by, passed.bytes)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("ending", ["half-close", "cancel"])
def test_completion_then_the_end_in_any_form_is_recorded_once(sidecar: Sidecar, ending: str) -> None:
    """4 AIBrix#2585, 5 AIGW#1160, 54 Envoy#25277: after the last reply the stream ends cleanly or is cancelled."""
    talk = sidecar.stream()
    for message in [*ASKED, *ANSWERED]:
        talk.ask(message.SerializeToString())
    talk.half_close() if ending == "half-close" else talk.cancel()
    talk.status()
    assert [record["type"] for record in sidecar.records()] == ["request", "response"]


@pytest.mark.parametrize("ending", ["half-close", "cancel"])
def test_a_client_that_leaves_after_done_is_complete_with_its_usage(sidecar: Sidecar, ending: str) -> None:
    """16 AIGW#2563, AIBrix#2224, and 24a: twenty of twenty, where a gateway accounted none."""
    for _ in range(20):
        talk = sidecar.stream()
        for message in [*ASKED, *ANSWERED[:-1]]:
            talk.ask(message.SerializeToString())
        talk.half_close() if ending == "half-close" else talk.cancel()
        talk.status()
    found = sidecar.exchanges()
    assert [(e.outcome, present(e.llm).usage) for e in found] == [("ok_client_left_after_terminal", USAGE)] * 20


@pytest.mark.parametrize("ending", ["half-close", "cancel"])
def test_a_client_that_leaves_in_mid_stream_keeps_the_partial_text(sidecar: Sidecar, ending: str) -> None:
    """17 AIGW#2115, higress#4145, 57: what came is on disk, with the digest of exactly that."""
    talk = sidecar.stream()
    for message in [*ASKED, *ANSWERED[:3]]:
        talk.ask(message.SerializeToString())
    talk.half_close() if ending == "half-close" else talk.cancel()
    talk.status()
    (exchange,) = sidecar.exchanges()
    response = present(exchange.response)
    assert response.ended_by == ("closed" if ending == "half-close" else "cancelled")
    assert (response.sha256, response.truncated) == (sha256(*STREAM[:2]), True)
    assert (present(exchange.llm).output_chars, exchange.outcome) == (5, "unknown")


def test_every_byte_of_a_stream_alone(sidecar: Sidecar) -> None:
    """25 AIBrix#2266, Envoy#45437, 26, 27: one byte a message, multi-byte characters cut in two."""
    whole = b"".join([chunk("é😀"), chunk(finish_reason="stop"), LAST, DONE])
    pieces = [body("response", whole[n : n + 1]) for n in range(len(whole))]
    sidecar.tell([*ASKED, SSE, *pieces, body("response", end=True)])
    (exchange,) = sidecar.exchanges()
    assert (present(exchange.response).sha256, present(exchange.response).chunks) == (sha256(whole), len(whole))
    assert (present(exchange.llm).output_chars, present(exchange.llm).usage, exchange.outcome) == (2, USAGE, "ok")


def test_a_large_body_in_full_duplex_is_sent_back_whole_and_once(sidecar: Sidecar) -> None:
    """1, 24, 39 GIE#3028, 61: streamed_response for each chunk, and no second copy for a second end."""
    talk = sidecar.stream()
    talk.ask(head("request", first=DUPLEX, __path=PATH).SerializeToString())
    pieces = [bytes([n]) * 60_000 for n in range(40)]
    sent_back = []
    for n, piece in enumerate(pieces):
        reply = talk.ask(body("request", piece, end=n == 39).SerializeToString())
        sent_back.append(kind_and_streamed(reply))
    talk.say(body("request", pieces[-1], end=True).SerializeToString())
    answer = talk.ask(head("response", end=True, __status="200").SerializeToString())
    assert kind(answer) == "response_headers"  # so the duplicate had no reply of its own
    assert sent_back == [("request_body", piece, n == 39) for n, piece in enumerate(pieces)]
    talk.half_close()
    talk.status()
    (exchange,) = sidecar.exchanges()
    assert (present(exchange.request).sha256, exchange.protocol.duplicate_end_of_stream) == (sha256(*pieces), 1)


def kind_and_streamed(reply: bytes) -> tuple[str | None, bytes, bool]:
    """What a FULL_DUPLEX reply sends back."""
    streamed = ProcessingResponse.FromString(reply).request_body.response.body_mutation.streamed_response
    return kind(reply), streamed.body, streamed.end_of_stream


def test_claimed_ids_join_nothing(sidecar: Sidecar) -> None:
    """52 AIGW#1340, AIBrix: one x-request-id and one traceparent, a hundred exchanges at once."""
    same: dict[str, Any] = {"x_request_id": "same", "traceparent": f"00-{'c' * 32}-{'d' * 16}-01"}

    def one(n: int) -> None:
        ask = json.dumps({"model": str(n), "messages": []}).encode()
        first = head("request", first=STREAMED, __path=PATH, **same)
        sidecar.tell([first, body("request", ask, end=True), JSON, body("response", ask, end=True)])

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(one, range(100)))
    found = sidecar.exchanges()
    assert sorted(int(present(present(e.llm).model)) for e in found) == list(range(100))
    assert all(present(e.llm).model == present(e.llm).response_model for e in found)
    assert len({e.id for e in found}) == len({e.span_id for e in found}) == 100


def test_observability_mode_gets_no_reply_and_is_recorded(sidecar: Sidecar) -> None:
    """46 Envoy#34491: Envoy ignores replies, so there are none."""
    talk = sidecar.stream()
    for message in [*ASKED, *ANSWERED]:
        observed = ProcessingRequest()
        observed.CopyFrom(message)
        observed.observability_mode = True
        observed.ClearField("protocol_config")
        talk.say(observed.SerializeToString())
    talk.half_close()
    assert list(talk.call) == []
    (exchange,) = sidecar.exchanges()
    assert (present(exchange.llm).usage, exchange.outcome) == (USAGE, "ok")


def test_unknown_messages_and_fields_change_nothing(sidecar: Sidecar) -> None:
    """38: an empty message, a oneof member of a later Envoy, an unknown field beside a known message."""
    talk = sidecar.stream()
    talk.say(b"")
    talk.say(b"\xf2\x07\x03abc")
    assert kind(talk.ask(POST.SerializeToString() + b"\xf2\x07\x03abc")) == "request_headers"
    talk.ask(body("request", ASK, end=True).SerializeToString())
    talk.half_close()
    talk.status()
    (exchange,) = sidecar.exchanges()
    assert present(exchange.request).sha256 == sha256(ASK)


def test_messages_that_come_while_a_gate_is_shut_are_answered_in_order(sidecar: Sidecar) -> None:
    """14 Envoy#29327, 40: trailers and an early answer on the wire before the body's reply has left."""
    talk = sidecar.stream()
    messages = [POST, body("request", ASK, end=True), trailers("request"), *ANSWERED]
    for message in messages:
        talk.say(message.SerializeToString())
    assert [kind(talk.hear()) for _ in messages] == [message.WhichOneof("request") for message in messages]
    talk.half_close()
    talk.status()
    (exchange,) = sidecar.exchanges()
    assert (exchange.protocol.late, exchange.outcome) == ({"request.trailers": 1}, "ok")


def test_nothing_is_counted_as_in_flight_once_all_streams_have_ended(sidecar: Sidecar) -> None:
    """57 vllm-ascend#10812, litellm#28160: whatever way a stream ends, the gauge comes back to zero."""
    for messages in ([POST], ASKED, [*ASKED, SSE], [*ASKED, *ANSWERED]):
        for ending in ("half-close", "cancel"):
            talk = sidecar.stream()
            for message in messages:
                talk.ask(message.SerializeToString())
            talk.half_close() if ending == "half-close" else talk.cancel()
            talk.status()
    assert len(sidecar.exchanges()) == 8
    assert sidecar.recorder.in_flight == 0
