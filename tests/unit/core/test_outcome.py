"""How an exchange ended."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exchanges import decided

from extproc.core.outcome import CLASSES, Outcome, is_failure, outcome_class


def answer(status: int = 200, ended_by: str | None = "end_of_stream", **more: Any) -> dict[str, Any]:
    """A response record with an answer that ended so; `llm`, `closed`, details and the like by name."""
    half = {"ended_by": ended_by, "content_type": more.pop("content_type", "application/json"), "truncated": False}
    return {"status": status, "response": half, "response_code_details": "via_upstream"} | more


def stream(**llm: Any) -> dict[str, Any]:
    """The same for an event stream of chat completions."""
    return answer(content_type="text/event-stream; charset=utf-8", llm={"api": "chat.completions"} | llm)


RESET = "upstream_reset_before_response_started"
CASES = [
    (answer(), Outcome.OK),
    (answer(ended_by="headers", status=204), Outcome.OK),
    (answer(status=500), Outcome.UPSTREAM_ERROR_STATUS),
    (answer(grpc_status="13"), Outcome.UPSTREAM_ERROR_STATUS),
    (answer(grpc_status="0"), Outcome.OK),
    (answer(content_type="application/grpc", grpc_status="0"), Outcome.OK),
    (answer(content_type="application/grpc"), Outcome.UPSTREAM_TRUNCATED),
    (answer(content_type="Application/gRPC+proto; a=b", grpc_status=None), Outcome.UPSTREAM_TRUNCATED),
    (answer(content_type="application/grpc-web+proto"), Outcome.OK),
    (answer(rejected=True), Outcome.REJECTED_BY_POLICY),
    (answer(status=413, response_code_details="request_payload_too_large"), Outcome.LOCAL_REPLY),
    (answer(status=503, response_code_details="no_healthy_upstream"), Outcome.LOCAL_REPLY),
    (
        answer(status=503, response_code_details=RESET + "{connection_termination}"),
        Outcome.UPSTREAM_RESET_BEFORE_HEADERS,
    ),
    (
        answer(status=503, response_code_details=RESET + "{remote_connection_failure|delayed_connect_error:_111}"),
        Outcome.UPSTREAM_CONNECT_FAIL,
    ),
    (answer(status=503, response_code_details=RESET + "{overflow}"), Outcome.LOCAL_REPLY),
    (answer(status=504, response_code_details="response_timeout"), Outcome.UPSTREAM_TIMEOUT),
    (stream(done=True, finish_reasons=["stop"]), Outcome.OK),
    (stream(done=False, finish_reasons=["stop"]), Outcome.OK),
    (stream(done=False, finish_reasons=["stop", None]), Outcome.UPSTREAM_TRUNCATED),
    (stream(done=False, finish_reasons=[]), Outcome.UPSTREAM_TRUNCATED),
    (stream(done=False, finish_reasons=[], parse_error="malformed at byte 3"), Outcome.OK),
    (stream(done=True, error={"type": "x", "code": 500}), Outcome.UPSTREAM_ERROR_FRAME),
    (answer(content_type="text/event-stream", llm={"api": "responses", "done": False}), Outcome.UPSTREAM_TRUNCATED),
    (answer(content_type="text/event-stream", llm=None), Outcome.OK),
    (answer(ended_by="closed", closed="closed", llm={"done": True}), Outcome.OK_CLIENT_LEFT_AFTER_TERMINAL),
    (answer(ended_by="closed", closed="closed", llm={"done": False}), Outcome.UNKNOWN),
    (
        answer(ended_by="closed", closed="closed", llm={"done": True, "error": {"code": 1}}),
        Outcome.UPSTREAM_ERROR_FRAME,
    ),
    (answer(ended_by="drain", closed="drain"), Outcome.PROXY_DRAIN),
    (answer(status=504, response_code_details="ext_proc_error_gRPC_error_14{}"), Outcome.RECORDER_FAILED),
    ({"status": None, "response": None, "closed": "cancelled"}, Outcome.UNKNOWN),
    ({"status": None, "response": None, "closed": "drain"}, Outcome.PROXY_DRAIN),
    ({"status": None, "response": None, "rejected": True}, Outcome.REJECTED_BY_POLICY),
]


@pytest.mark.parametrize(("response", "outcome"), CASES, ids=[f"{n}-{case[1].value}" for n, case in enumerate(CASES)])
def test_the_outcome_of_an_exchange_that_has_its_terminal_record(response: dict[str, Any], outcome: Outcome) -> None:
    """Status, frames and state decide; what only Envoy's access log could tell is unknown."""
    assert decided(response, None) is outcome


def test_an_exchange_that_recovery_closed_is_an_orphan() -> None:
    """The sidecar died under it; without even that record it is still running, or was never ended."""
    assert decided(None, {"type": "orphan"}) is Outcome.SIDECAR_RESTART_ORPHAN
    assert decided(None, None) is Outcome.UNKNOWN


# With Envoy's access entry -----------------------------------------------------------------------------------

NO_ANSWER: dict[str, Any] = {"status": None, "response": None, "closed": "cancelled"}
HALF: dict[str, Any] = {
    "status": 200,
    "closed": "cancelled",
    "response": {"ended_by": "cancelled", "bytes": 10, "headers": [["content-type", "text/event-stream"]]},
}
ANNOUNCED = HALF | {"response": HALF["response"] | {"headers": [["content-length", "100"]]}}
BEGUN = HALF | {"response": HALF["response"] | {"bytes": 0}}
LEFT = "downstream_remote_disconnect"
FAILED = "ext_proc_error_per-message_timeout_exceeded"
AFTER = "upstream_reset_after_response_started{connection_termination}"

TOLD = [
    (NO_ANSWER, ["DC"], LEFT, Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE),
    (BEGUN, ["DC"], LEFT, Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE),
    (HALF, ["DC"], LEFT, Outcome.CLIENT_CANCEL_MID_STREAM),
    (HALF, ["DC"], "http2.remote_reset", Outcome.CLIENT_CANCEL_MID_STREAM),
    (HALF, ["DR"], None, Outcome.CLIENT_CANCEL_MID_STREAM),
    (HALF, ["DPE"], "http1.codec_error", Outcome.CLIENT_CANCEL_MID_STREAM),
    (HALF, [], "http2.remote_refuse", Outcome.CLIENT_CANCEL_MID_STREAM),
    (HALF, ["UC"], AFTER, Outcome.UPSTREAM_RESET_MID_STREAM),
    (HALF, ["UPE"], "upstream_reset_after_response_started{protocol_error}", Outcome.UPSTREAM_RESET_MID_STREAM),
    (ANNOUNCED, ["UC"], AFTER, Outcome.UPSTREAM_TRUNCATED),
    (ANNOUNCED, ["DC"], LEFT, Outcome.CLIENT_CANCEL_MID_STREAM),
    (HALF, ["UT"], "response_timeout", Outcome.UPSTREAM_TIMEOUT),
    (HALF, ["SI"], "stream_idle_timeout", Outcome.UPSTREAM_TIMEOUT),
    (HALF, [], "max_duration_timeout", Outcome.UPSTREAM_TIMEOUT),
    (HALF, ["UMSDR"], "upstream_max_stream_duration_reached", Outcome.UPSTREAM_TIMEOUT),
    (HALF, [], "downstream_local_disconnect(close)", Outcome.PROXY_DRAIN),
    (NO_ANSWER, [], "overload", Outcome.LOCAL_REPLY),
    (NO_ANSWER, ["UF"], "upstream_reset_before_response_started{connection_timeout}", Outcome.UPSTREAM_CONNECT_FAIL),
    (HALF, [], "something_new", Outcome.UNKNOWN),
    (HALF, [], None, Outcome.UNKNOWN),
    # What Envoy did because of us, whatever had been seen until then: the client has no whole answer.
    (NO_ANSWER, [], FAILED, Outcome.RECORDER_FAILED),
    (BEGUN, [], FAILED, Outcome.RECORDER_FAILED),
    (HALF, [], FAILED, Outcome.RECORDER_FAILED),
    (HALF, ["UAEX"], "ext_proc_error_gRPC_error_13{h2_error}", Outcome.RECORDER_FAILED),
    (HALF, [], "ext_proc_error_spurious_message_received", Outcome.RECORDER_FAILED),
    (HALF | {"llm": {"done": True}}, [], FAILED, Outcome.RECORDER_FAILED),
    (HALF | {"llm": {"error": {"code": 1}}}, [], FAILED, Outcome.RECORDER_FAILED),
    (HALF | {"rejected": True}, [], FAILED, Outcome.RECORDER_FAILED),
    (answer(), [], FAILED, Outcome.RECORDER_FAILED),
    (HALF | {"closed": "drain"}, [], FAILED, Outcome.PROXY_DRAIN),
    # What state and frames know, Envoy does not change.
    (HALF | {"closed": "drain"}, ["DC"], LEFT, Outcome.PROXY_DRAIN),
    (HALF | {"llm": {"done": True}}, ["DC"], LEFT, Outcome.OK_CLIENT_LEFT_AFTER_TERMINAL),
    (HALF | {"llm": {"error": {"code": 1}}}, ["DC"], LEFT, Outcome.UPSTREAM_ERROR_FRAME),
    (HALF | {"rejected": True}, ["UC"], AFTER, Outcome.REJECTED_BY_POLICY),
    (answer(), ["DC"], LEFT, Outcome.OK),
]


@pytest.mark.parametrize(("response", "flags", "details", "outcome"), TOLD)
def test_who_cut_it_off(response: dict[str, Any], flags: list[str], details: str | None, outcome: Outcome) -> None:
    """Envoy's flags and details tell the client from the backend and from Envoy itself."""
    access = {"type": "access", "response_flags": flags, "response_code_details": details}
    assert decided(response, None, access) is outcome


@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        ({"response_code_details": "route_not_found", "status": 404}, Outcome.LOCAL_REPLY),
        ({"response_code_details": "http1.codec_error", "response_flags": ["DPE"], "status": 400}, Outcome.LOCAL_REPLY),
        (
            {"response_code_details": "http1.codec_error", "response_flags": ["DPE"], "status": 400, "method": "POST"},
            Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE,
        ),
        ({"response_code_details": LEFT, "response_flags": ["DC"]}, Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE),
        ({"response_code_details": FAILED, "status": 504}, Outcome.RECORDER_FAILED),
        ({}, Outcome.UNKNOWN),
    ],
)
def test_what_envoys_entry_alone_tells(entry: dict[str, Any], outcome: Outcome) -> None:
    """Envoy's own answer is one where it arrives: not to a client whose body broke off in what is no HTTP."""
    assert decided(None, None, entry) is outcome


@pytest.mark.parametrize(("status", "outcome"), [(504, Outcome.UPSTREAM_TIMEOUT), (408, Outcome.LOCAL_REPLY)])
def test_who_was_silent(status: int, outcome: Outcome) -> None:
    """The same limit, met by a backend that does not answer or by a client that does not go on sending."""
    assert decided(answer(status=status, response_code_details="stream_idle_timeout"), None) is outcome


def test_an_orphan_stays_one() -> None:
    """Whatever Envoy says."""
    access = {"response_flags": ["DC"], "response_code_details": LEFT}
    assert decided(None, {"type": "orphan"}, access) is Outcome.SIDECAR_RESTART_ORPHAN


@pytest.mark.parametrize("response", [NO_ANSWER, HALF])
def test_an_answer_that_passed_without_us(response: dict[str, Any]) -> None:
    """With `failure_mode_allow` Envoy goes on when the recorder fails: that the rest was not seen is our doing."""
    access = {"response_flags": [], "response_code_details": "via_upstream", "failed_open": True}
    assert decided(response, None, access) is Outcome.RECORDER_FAILED
    assert decided(answer(), None, access) is Outcome.OK


def test_every_outcome_has_a_class() -> None:
    """A label of few values, for each outcome that there is."""
    assert {outcome_class(outcome) for outcome in Outcome} | {"limited"} == set(CLASSES)
    assert outcome_class(Outcome.RECORDER_FAILED) == "sidecar"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, "client") for status in (400, 401, 403, 404, 405, 413, 415, 422)),
        (429, "limited"),
        *((status, "upstream") for status in (402, 408, 409, 418, 500, 502, 503, 504, 529, None, "400")),
    ],
)
def test_a_backends_error_is_whose_its_status_says(status: object, expected: str) -> None:
    """A request that could not be served is the client's own mistake, one too many is a limit, the rest is the
    backend's; the outcome's name stays, and no status changes the class of another outcome."""
    assert outcome_class("upstream_error_status", status) == expected
    for other in set(Outcome) - {Outcome.UPSTREAM_ERROR_STATUS}:
        assert outcome_class(other, status) == outcome_class(other)


@pytest.mark.parametrize(
    ("grpc_status", "expected"),
    [("3", "client"), ("5", "client"), ("16", "client"), ("8", "limited"), ("4", "upstream"), ("13", "upstream")],
)
def test_a_grpc_backends_error(grpc_status: str, expected: str) -> None:
    """With HTTP status 200, gRPC's own status says it."""
    assert outcome_class("upstream_error_status", 200, grpc_status) == expected


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        ("ok", 200, False),
        ("client_cancel_mid_stream", 200, False),
        ("upstream_error_status", 400, False),
        ("upstream_error_status", 429, False),
        ("upstream_error_status", 500, True),
        ("upstream_truncated", 200, True),
        ("local_reply", 404, False),
        ("local_reply", 429, False),
        ("local_reply", 503, True),
        ("local_reply", None, True),
        ("recorder_failed", 504, True),
        ("unknown", 200, True),
    ],
)
def test_what_counts_as_an_error(outcome: str, status: int | None, expected: bool) -> None:
    """What the client did, and what a limit or a rule refused it, does not."""
    assert is_failure(outcome_class(outcome, status), status) is expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)
records = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "status": st.none() | st.integers(100, 599),
        "response_code_details": st.none() | st.text() | st.sampled_from([LEFT, AFTER, "via_upstream"]),
        "response_flags": st.none() | st.lists(st.sampled_from(["DC", "UC", "UT", "odd"])),
        "rejected": st.booleans(),
        "closed": st.sampled_from([None, "closed", "cancelled", "drain"]),
        "grpc_status": st.none() | st.text(max_size=3),
        "llm": st.none() | st.fixed_dictionaries({}, optional={"done": st.booleans(), "error": json_values}),
        "response": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "ended_by": st.none() | st.sampled_from(["closed", "drain", "end_of_stream"]),
                "bytes": st.integers(0),
                "truncated": st.booleans(),
                "content_type": st.none() | st.text(max_size=20),
                "headers": st.none() | st.lists(st.tuples(st.text(max_size=5), json_values)),
            },
        ),
    },
)


@given(records, records, records)
def test_it_decides_whatever_is_missing(response: Any, orphan: Any, access: Any) -> None:
    """Any records at all give one of the outcomes."""
    assert decided(response, orphan, access) in Outcome
