"""How an exchange ended."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.core.outcome import Outcome, decide


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
    ({"status": None, "response": None, "closed": "cancelled"}, Outcome.UNKNOWN),
    ({"status": None, "response": None, "closed": "drain"}, Outcome.PROXY_DRAIN),
    ({"status": None, "response": None, "rejected": True}, Outcome.REJECTED_BY_POLICY),
]


@pytest.mark.parametrize(("response", "outcome"), CASES, ids=[f"{n}-{case[1].value}" for n, case in enumerate(CASES)])
def test_the_outcome_of_an_exchange_that_has_its_terminal_record(response: dict[str, Any], outcome: Outcome) -> None:
    """Status, frames and state decide; what only Envoy's access log could tell is unknown."""
    assert decide(response, None) is outcome


def test_an_exchange_that_recovery_closed_is_an_orphan() -> None:
    """The sidecar died under it; without even that record it is still running, or was never ended."""
    assert decide(None, {"type": "orphan"}) is Outcome.SIDECAR_RESTART_ORPHAN
    assert decide(None, None) is Outcome.UNKNOWN
