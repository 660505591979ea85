"""One stream, from Envoy's bytes to the reply: what waits, for what, and what happens when it fails."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from support.journals import journal, records
from support.messages import DUPLEX, STREAMED, body, head, kind, trailers
from support.stack import eventually

from extproc._proto.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from extproc.config import Config
from extproc.core.effects import Append, Effect
from extproc.core.events import CloseReason, Direction
from extproc.core.records import encode
from extproc.errors import JournalError, Postponed
from extproc.history import verify
from extproc.service import processor as module
from extproc.service import wire
from extproc.service.processor import Processor, Recorder
from extproc.service.transport import NO_REPLY

FULL_DISK = JournalError("data/segments/x: no space left on device")


class FakeJournal:
    """Keeps what is submitted; opens the gates at once, or when the test says so, or fails."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.failure: JournalError | None = None
        self.effects: list[Effect] = []
        self.waiting: list[Callable[[JournalError | None], None]] = []
        self.gaps: list[tuple[Direction, str]] = []

    def submit(self, effects: Sequence[Effect], done: Callable[[JournalError | None], None] | None) -> None:
        if self.failure is None:
            self.effects += effects
        if done is not None and self.at_once:
            done(self.failure)
        elif done is not None:
            self.waiting.append(done)

    def gap(self, direction: Direction, why: str, at_ns: int) -> None:
        self.gaps.append((direction, why))

    def records(self) -> list[dict[str, Any]]:
        """The records that were submitted."""
        return [json.loads(encode(effect.record)) for effect in self.effects if isinstance(effect, Append)]


class Stream:
    """A processor under test with everything it sent."""

    def __init__(self, journal: Any, **settings: Any) -> None:
        self.journal = journal
        self.recorder = Recorder(dataclasses.replace(Config(), **settings), journal, b"k" * 32)
        self.sent: list[bytes] = []
        self.processor: Processor = self.recorder.processor([("traceparent", "garbage")], self.sent.append)

    def receive(self, message: ProcessingRequest) -> bytes | None:
        return self.processor.receive(message.SerializeToString())

    def ask(self, message: ProcessingRequest) -> bytes:
        """The reply to a message, now or later."""
        before = len(self.sent)
        now = self.receive(message)
        if now is None:
            eventually(lambda: len(self.sent) > before, "a reply")
        return now if now is not None else self.sent[-1]

    def close(self, reason: CloseReason = CloseReason.CLOSED) -> None:
        self.processor.closed(reason)


def test_a_short_post_is_held_and_answered_when_its_record_is_durable() -> None:
    """Headers are answered at once, with the id and BUFFERED; the body waits for the journal."""
    journal = FakeJournal(at_once=False)
    stream = Stream(journal)
    reply = stream.receive(head("request", first=STREAMED, __path="/x", content_length="3"))
    response = ProcessingResponse.FromString(reply or b"")
    assert int(response.mode_override.request_body_mode) == wire.BodyMode.BUFFERED
    assert len(json_format.MessageToDict(response.dynamic_metadata)["extproc"]["id"]) == 36
    assert stream.receive(body("request", b"abc", end=True)) is None
    assert stream.sent == []
    journal.waiting.pop()(None)
    assert [kind(sent) for sent in stream.sent] == ["request_body"]
    assert journal.records()[0]["held"]


@pytest.mark.parametrize(
    ("headers", "first"),
    [
        ({}, STREAMED),
        ({"content_length": "0"}, STREAMED),
        ({"content_length": str(512 * 1024 + 1)}, STREAMED),
        ({"content_length": "3"}, STREAMED | {"send_body_without_waiting_for_header_response": True}),
        ({"content_length": "3"}, DUPLEX),
        ({"content_length": "3"}, None),
    ],
    ids=["chunked", "empty", "large", "no override possible", "full duplex", "no protocol_config"],
)
def test_other_requests_are_streamed(headers: dict[str, Any], first: dict[str, Any] | None) -> None:
    """Only what Envoy can hold back, and what fits, is held back."""
    stream = Stream(FakeJournal())
    reply = stream.receive(head("request", first=first, __path="/x", **headers))
    assert not ProcessingResponse.FromString(reply or b"").HasField("mode_override")


def test_held_bytes_have_a_cap_together() -> None:
    """When the cap is reached requests stream; bytes come free with the body, or with the close."""
    journal = FakeJournal()
    recorder = Recorder(dataclasses.replace(Config(), hold_total_bytes=10), journal, b"k" * 32)
    first = head("request", first=STREAMED, __path="/x", content_length="6").SerializeToString()
    streams = [recorder.processor([], lambda reply: None) for _ in range(4)]

    def held(stream: Processor) -> bool:
        return ProcessingResponse.FromString(stream.receive(first) or b"").HasField("mode_override")

    assert (held(streams[0]), held(streams[1])) == (True, False)
    streams[0].receive(body("request", b"abcdef", end=True).SerializeToString())
    assert held(streams[2])
    streams[2].closed(CloseReason.CANCELLED)
    assert held(streams[3])


def test_an_override_without_effect_is_noticed() -> None:
    """Where Envoy streams all the same, the body is taken piece by piece and the record does not claim a hold."""
    stream = Stream(FakeJournal())
    stream.receive(head("request", first=STREAMED, __path="/x", content_length="6"))
    assert kind(stream.receive(body("request", b"abc"))) == "request_body"
    stream.receive(body("request", b"def", end=True))
    (request,) = stream.journal.records()
    assert (request["request"]["bytes"], request["held"]) == (6, False)


@pytest.mark.parametrize("late_by", [1, 100])
def test_late_messages_are_answered_and_not_recorded(late_by: int) -> None:
    """Each gets the neutral reply of its kind, at once; one record stays one record."""
    stream = Stream(FakeJournal())
    stream.receive(head("request", first=STREAMED, __path="/x"))
    stream.receive(body("request", b"abc", end=True))
    replies = [stream.receive(body("request", b"abc", end=True)) for _ in range(late_by)]
    assert [kind(reply) for reply in replies] == ["request_body"] * late_by
    stream.close()
    request, response = stream.journal.records()
    assert (request["request"]["bytes"], response["protocol"]["duplicate_end_of_stream"]) == (3, late_by)


def test_full_duplex_sends_each_chunk_back_once() -> None:
    """Envoy keeps no copy in that mode; a chunk that is late is not sent on to the peer again."""
    stream = Stream(FakeJournal())
    stream.receive(head("request", first=DUPLEX, __path="/x"))
    first = stream.receive(body("request", b"abc"))
    stream.receive(body("request", b"def", end=True))
    again = stream.receive(body("request", b"def", end=True))
    echoes = [first, *stream.sent]
    parsed = [ProcessingResponse.FromString(echo or b"").request_body.response.body_mutation for echo in echoes]
    assert [(m.streamed_response.body, m.streamed_response.end_of_stream) for m in parsed] == [
        (b"abc", False),
        (b"def", True),
    ]
    assert again == NO_REPLY


def test_observability_mode_gets_no_replies_and_says_best_effort() -> None:
    """Envoy would count any reply as spurious."""
    stream = Stream(FakeJournal())
    first = head("request", __path="/x", content_length="3")
    first.observability_mode = True
    replies = [stream.receive(first), stream.receive(body("request", b"abc", end=True)), *stream.sent]
    assert [reply for reply in replies if reply is not None] == [b"", b""]
    assert stream.journal.records()[0]["best_effort"]


def test_a_message_of_an_unknown_kind_is_read_over() -> None:
    """A newer Envoy may send what this sidecar does not know; an empty message is one of those."""
    assert Stream(FakeJournal()).processor.receive(b"") == NO_REPLY
    assert Stream(FakeJournal()).processor.receive(b"\xf2\x07\x03abc") == NO_REPLY


def test_bytes_that_are_no_message_end_the_stream() -> None:
    """The transport turns the exception into an error status, so that Envoy fails closed."""
    with pytest.raises(DecodeError):
        Stream(FakeJournal()).processor.receive(b"\xff\xff\xff")


def failing(**settings: Any) -> Stream:
    """A stream whose journal fails."""
    journal = FakeJournal()
    journal.failure = FULL_DISK
    return Stream(journal, **settings)


def test_deny_refuses_a_request_that_cannot_be_recorded() -> None:
    """503 in OpenAI's shape with retry-after, counted, with a gap and without any record."""
    stream = failing(on_audit_failure="deny")
    stream.receive(head("request", first=STREAMED, __path="/x", content_length="3"))
    assert stream.receive(body("request", b"abc", end=True)) is None
    immediate = ProcessingResponse.FromString(stream.sent[0]).immediate_response
    assert (immediate.status.code, json.loads(immediate.body)["error"]["code"]) == (503, "audit_unavailable")
    headers = {option.header.key: option.header.raw_value for option in immediate.headers.set_headers}
    assert headers["retry-after"] == b"1"
    stream.receive(head("response", __status="503"))
    stream.close()
    assert (stream.recorder.refused, stream.recorder.unaudited, stream.journal.records()) == (1, 0, [])
    assert [gap[0] for gap in stream.journal.gaps] == [Direction.REQUEST]


def test_allow_passes_a_request_that_cannot_be_recorded_and_counts_it() -> None:
    """Traffic before records, by the operator's choice; the gap says what is missing."""
    stream = failing(on_audit_failure="allow")
    stream.receive(head("request", first=STREAMED, __path="/x", content_length="3"))
    stream.receive(body("request", b"abc", end=True))
    assert [kind(sent) for sent in stream.sent] == ["request_body"]
    assert (stream.recorder.refused, stream.recorder.unaudited) == (0, 1)
    assert [gap[0] for gap in stream.journal.gaps] == [Direction.REQUEST]


@pytest.mark.parametrize("policy", ["deny", "allow"])
def test_an_answer_is_delivered_whatever_the_journal_does(policy: str) -> None:
    """To cut a good answer off helps nobody; the gap says what is missing."""
    stream = Stream(FakeJournal(), on_audit_failure=policy)
    stream.receive(head("request", first=STREAMED, end=True, __path="/x"))
    stream.journal.failure = FULL_DISK
    stream.receive(head("response", __status="200"))
    stream.receive(body("response", b"abc", end=True))
    assert kind(stream.sent[-1]) == "response_body"
    assert (stream.recorder.unaudited, [gap[0] for gap in stream.journal.gaps]) == (1, [Direction.RESPONSE])


LONG = b"x" * 100_000


@pytest.mark.parametrize("policy", ["deny", "allow"])
@pytest.mark.parametrize("prompt", [[LONG], [LONG, LONG], [b"short"]], ids=["held", "streamed", "short"])
@pytest.mark.parametrize("call", ["open", "write", "fdatasync"])
def test_an_exchange_whose_body_has_no_file_ends_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, prompt: list[bytes], call: str
) -> None:
    """One terminal record, while the journal runs; refused and passed are counted once, and not what has a record."""
    no_bodies(monkeypatch, call)
    with journal(tmp_path) as writer:
        stream = Stream(writer, on_audit_failure=policy)
        length = sum(map(len, prompt))
        held: dict[str, Any] = {"content_length": str(length)} if len(prompt) == 1 else {}
        stream.receive(head("request", first=STREAMED, __path="/x", **held))
        for number, piece in enumerate(prompt, 1):
            if kind(stream.ask(body("request", piece, end=number == len(prompt)))) == "immediate_response":
                break
        else:
            stream.receive(head("response", __status="200"))
            assert kind(stream.ask(body("response", LONG, end=True))) == "response_body"
        stream.close()
        eventually(lambda: records(tmp_path, type="response") or None, "the terminal record, with the journal open")
    ends = [record["type"] for record in records(tmp_path) if record["type"] in {"response", "orphan"}]
    assert ends == ["response"]
    assert not list(verify.verify(tmp_path))
    gaps = [record["direction"] for record in records(tmp_path) if record["type"] == "gap"]
    refused = policy == "deny" and length > 1000
    unrecorded = policy == "allow" and length > 1000  # its answer's record is written without the body
    assert (stream.recorder.refused, stream.recorder.unaudited) == (int(refused), int(unrecorded))
    assert gaps == ["request"] * unrecorded


def no_bodies(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Let a system call fail for files of bodies, and for no others."""
    real = getattr(os, call)

    def broken(target: Any, *rest: Any, **more: Any) -> Any:
        name = target if call == "open" else str(Path(f"/proc/self/fd/{target}").readlink())
        if str(name).endswith((".request", ".response")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(target, *rest, **more)

    monkeypatch.setattr(os, call, broken)


def test_what_a_close_could_not_write_is_counted_once() -> None:
    """A request and its answer, both cut off: each passed unrecorded. A refused one was counted when it was refused."""
    cut = failing(on_audit_failure="allow")
    cut.receive(head("request", first=STREAMED, __path="/x"))
    cut.receive(body("request", b"abc"))
    cut.receive(head("response", __status="200"))
    cut.close()
    assert (cut.recorder.refused, cut.recorder.unaudited) == (0, 2)
    assert [gap[0] for gap in cut.journal.gaps] == [Direction.REQUEST, Direction.RESPONSE]
    refused = failing(on_audit_failure="deny", open_record_bytes=1)
    refused.receive(head("request", first=STREAMED, __path="/x"))
    refused.receive(body("request", b"abc"))
    refused.receive(body("request", b"abc", end=True))
    assert refused.journal.gaps == []  # its end may still be written
    refused.close()
    assert (refused.recorder.refused, refused.recorder.unaudited) == (1, 0)
    assert [gap[0] for gap in refused.journal.gaps] == [Direction.REQUEST]


@pytest.mark.parametrize("word", [None, FULL_DISK], ids=["recorded", "lost"])
def test_an_answer_for_which_the_disk_took_too_long_is_counted_by_its_last_word(
    monkeypatch: pytest.MonkeyPatch, word: JournalError | None
) -> None:
    """It is delivered; whether it is in the journal is known when the disk has answered."""
    journal = FakeJournal()
    stream = Stream(journal)
    stream.receive(head("request", first=STREAMED, end=True, __path="/x"))
    journal.at_once = False
    stream.receive(head("response", __status="200"))
    stream.receive(body("response", b"abc", end=True))
    deadline = stream.recorder.next_deadline()
    assert deadline is not None
    monkeypatch.setattr(module, "monotonic", lambda: deadline)
    stream.recorder.tick()
    assert kind(stream.sent[-1]) == "response_body"
    assert (stream.recorder.unaudited, journal.gaps) == (0, [])
    journal.waiting.pop()(word)
    lost = word is not None
    assert (stream.recorder.unaudited, len(journal.gaps)) == (int(lost), int(lost))


def test_an_answer_that_the_journal_keeps_for_later_is_not_lost() -> None:
    """Its terminal record follows, so it neither passed unrecorded nor stands in a gap."""
    stream = Stream(FakeJournal())
    stream.receive(head("request", first=STREAMED, end=True, __path="/x"))
    stream.journal.failure = Postponed("data/segments/x: no space left on device")
    stream.receive(head("response", __status="200"))
    stream.receive(body("response", b"abc", end=True))
    assert kind(stream.sent[-1]) == "response_body"
    assert (stream.recorder.unaudited, stream.journal.gaps) == (0, [])


def test_a_gate_that_nobody_opens_is_refused_and_opens_no_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs: the policy applies after the limit, and the journal's late word changes nothing."""
    journal = FakeJournal(at_once=False)
    stream = Stream(journal, gate_timeout_seconds=8.0)
    stream.receive(head("request", first=STREAMED, end=True, __path="/x"))
    deadline = stream.recorder.next_deadline()
    assert deadline is not None
    stream.recorder.tick()
    assert stream.sent == []
    monkeypatch.setattr(module, "monotonic", lambda: deadline)
    stream.recorder.tick()
    journal.waiting.pop()(None)
    assert [kind(sent) for sent in stream.sent] == ["immediate_response"]
    journal.at_once = True
    stream.close()
    terminal = journal.records()[-1]  # the request may well be in the journal: it must not look unfinished
    assert (terminal["type"], terminal["rejected"]) == ("response", True)


def test_a_slow_upload_gets_its_open_record_from_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 200 ms the unfinished request is written, and nothing waits for it."""
    stream = Stream(FakeJournal())
    stream.receive(head("request", first=STREAMED, __path="/x"))
    stream.receive(body("request", b"abc"))
    deadline = stream.recorder.next_deadline()
    assert deadline is not None
    monkeypatch.setattr(module, "monotonic", lambda: deadline)
    stream.recorder.tick()
    assert [record["type"] for record in stream.journal.records()] == ["open"]
    assert stream.recorder.next_deadline() is None


def test_settled_gates_and_finished_requests_are_not_kept() -> None:
    """The timers' queues hold what may still be due, not everything of the last seconds."""
    journal = FakeJournal()
    recorder = Recorder(Config(), journal, b"k" * 32)
    first = head("request", first=STREAMED, __path="/x").SerializeToString()
    last = body("request", b"abc", end=True).SerializeToString()
    for _ in range(100):
        stream = recorder.processor([], lambda reply: None)
        stream.receive(first)
        stream.receive(last)
        stream.closed(CloseReason.CLOSED)
    assert len(recorder._gates) <= 1
    assert len(recorder._unfinished) <= 1
    assert recorder.in_flight == 0


def test_streams_that_end_while_draining_say_so() -> None:
    """The transport cancels what is left; that is our doing, not the client's."""
    stream = Stream(FakeJournal())
    stream.receive(head("request", first=STREAMED, __path="/x"))
    stream.recorder.drain()
    stream.close(CloseReason.CANCELLED)
    assert stream.journal.records()[-1]["closed"] == "drain"


ALPHABET = {
    f"{direction}.{name}": message
    for direction in ("request", "response")
    for name, message in {
        "headers": head(direction, __path="/v1/chat/completions", content_length="3", content_type="application/json"),
        "headers_end": head(direction, end=True, __path="/v1/chat/completions"),
        "body": body(direction, b"x"),
        "body_full": body(direction, b"xyz"),
        "body_end": body(direction, b"y", end=True),
        "trailers": trailers(direction),
    }.items()
}


@pytest.mark.parametrize("length", range(1, 5))
def test_every_sequence_of_messages_gets_one_legal_reply_a_message(length: int) -> None:
    """All sequences of up to four messages: the reply of the message's own kind, once each, and one terminal record."""
    messages = {name: message.SerializeToString() for name, message in ALPHABET.items()}
    expected = {name: message.WhichOneof("request") for name, message in ALPHABET.items()}
    for names in itertools.product(messages, repeat=length):
        stream = Stream(FakeJournal())
        replies = []
        for name in names:
            now = stream.processor.receive(messages[name])
            replies.append(now if now is not None else stream.sent.pop())
        assert [kind(reply) for reply in replies] == [expected[name] for name in names]
        assert stream.sent == []
        stream.close()
        types = [record["type"] for record in stream.journal.records()]
        assert types.count("response") == 1
        assert types.count("request") == any(name.startswith("request") for name in names)


# Headers for Envoy's routing -------------------------------------------------------------------------------

MODEL = b'{"messages": [], "model": "gpt-oss-20b"}'


def asking(journal: FakeJournal, asked: str, **settings: Any) -> Stream:
    """A stream whose route asks for these headers."""
    stream = Stream(journal, **settings)
    stream.processor = stream.recorder.processor([("extproc-headers", asked)], stream.sent.append)
    return stream


def set_headers(reply: bytes | None) -> dict[str, str]:
    """What a reply sets."""
    response = ProcessingResponse.FromString(reply or b"")
    common = getattr(response, response.WhichOneof("response") or "").response
    return {each.header.key: each.header.raw_value.decode() for each in common.header_mutation.set_headers}


def test_a_held_body_chooses_the_route() -> None:
    """The model is set when the record is durable, and Envoy chooses again; the record says so."""
    journal = FakeJournal()
    stream = asking(journal, "x-model")
    stream.receive(head("request", first=STREAMED, __path="/x", content_length=str(len(MODEL))))
    assert stream.receive(body("request", MODEL, end=True)) is None
    (reply,) = stream.sent
    assert set_headers(reply) == {"x-model": "gpt-oss-20b"}
    assert ProcessingResponse.FromString(reply).request_body.response.clear_route_cache
    assert journal.records()[0]["routing"] == {"by": "body", "why": None, "set": {"x-model": "gpt-oss-20b"}}


@pytest.mark.parametrize(
    ("headers", "data", "why"),
    [
        ({"content_length": "3"}, b"abc", "no JSON object"),
        ({}, MODEL, "no content-length"),
        (
            {"content_length": "1000000"},
            b"",
            "not held: over hold_request_bytes, or over hold_total_bytes with the others",
        ),
    ],
    ids=["no model", "chunked", "large"],
)
def test_a_body_that_has_no_say(headers: dict[str, Any], data: bytes, why: str) -> None:
    """It passes as it would without being asked, and the record says why."""
    journal = FakeJournal()
    stream = asking(journal, "x-model")
    stream.receive(head("request", first=STREAMED, __path="/x", **headers))
    stream.receive(body("request", data, end=True))
    (reply,) = stream.sent
    assert (kind(reply), set_headers(reply)) == ("request_body", {})
    assert journal.records()[0]["routing"] == {"by": "headers", "why": why, "set": {}}


def test_the_callers_key_is_set_or_taken_away() -> None:
    """At once, and never as the client wrote it."""
    stream = asking(FakeJournal(), "x-client-key")
    reply = stream.receive(
        head("request", first=STREAMED, __path="/x", authorization="Bearer secret", x_client_key="a")
    )
    key = set_headers(reply)["x-client-key"]
    assert len(key) == 12
    again = asking(FakeJournal(), "x-client-key")
    reply = again.receive(head("request", first=STREAMED, __path="/x", x_client_key=key))
    response = ProcessingResponse.FromString(reply or b"")
    assert list(response.request_headers.response.header_mutation.remove_headers) == ["x-client-key"]
    assert response.dynamic_metadata.fields["extproc"].struct_value.fields["id"].string_value


def test_what_no_route_can_ask_for_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """And the exchange is recorded as always."""
    journal = FakeJournal()
    recorder = Recorder(Config(), journal, b"k" * 32)
    for _ in range(3):
        processor = recorder.processor([("extproc-headers", "x-modell")], lambda _: None)
        processor.receive(head("request", first=STREAMED, end=True, __path="/x").SerializeToString())
    assert [record.getMessage() for record in caplog.records] == [
        (
            "Envoy's configuration asks for headers in extproc-headers: expected x-model, x-prompt-prefix=BYTES or "
            "x-client-key, got 'x-modell'"
        )
    ]
    assert [record["routing"] for record in journal.records()] == [None] * 3


def _audit_id(reply: bytes) -> str | None:
    """The x-audit-id that a reply sets, on an answer or in one of ours."""
    response = ProcessingResponse.FromString(reply)
    mutations = (response.response_headers.response.header_mutation, response.immediate_response.headers)
    found = {each.header.key: each.header.raw_value.decode() for mutation in mutations for each in mutation.set_headers}
    return found.get("x-audit-id")


@pytest.mark.parametrize("names", [True, False])
def test_answers_are_named_where_envoy_does_not(names: bool) -> None:
    """Once for each exchange: the backend's answer, and our own refusal; by default Envoy does it."""
    stream = Stream(FakeJournal(), set_audit_id=names)
    stream.ask(head("request", end=True, first=STREAMED))
    named = _audit_id(stream.ask(head("response")))
    assert _audit_id(stream.ask(body("response", b"ok", end=True))) is None
    stream.close()
    [id] = {record["id"] for record in stream.journal.records()}
    assert named == (id if names else None)
    full = FakeJournal()
    full.failure = FULL_DISK
    refused = Stream(full, set_audit_id=names).ask(head("request", end=True, first=STREAMED))
    assert kind(refused) == "immediate_response"
    assert (_audit_id(refused) is not None) == names
