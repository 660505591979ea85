"""How servers say that they failed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import records
from extproc.core.dialects.errors import (
    MAX_MESSAGE,
    MAX_TEXT,
    error_of,
    is_error,
    is_error_name,
    is_error_text,
    is_failed_reason,
    message_of,
)
from extproc.core.records import LlmError

ERRORS: list[tuple[Any, str | None, str | int | None, str | None]] = [
    ({"error": {"message": "m", "type": "T", "param": None, "code": 400}}, "T", 400, "m"),
    ({"object": "error", "message": "m", "type": "T", "code": "c"}, "T", "c", "m"),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, "overloaded_error", None, "m"),
    ({"type": "error", "code": "rate_limit_exceeded", "message": "m"}, None, "rate_limit_exceeded", "m"),
    ({"type": "server_error", "code": 500, "message": "m"}, "server_error", 500, "m"),
    ({"error": {"error": {"type": "T"}}}, "T", None, None),
    ({"error": "text"}, None, None, "text"),
    ({"error": "m", "error_type": "overloaded"}, "overloaded", None, "m"),
    ({"error": {"message": "m", "http_status_code": 422}}, None, 422, "m"),
    ({"error": "Internal Server Error", "status": 500, "path": "/v1"}, None, 500, "Internal Server Error"),
    ({"success": False, "error": {"code": "INTERNAL", "status": 500, "message": "m"}}, None, "INTERNAL", "m"),
    ([{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], "INVALID_ARGUMENT", 400, "m"),
    ({"detail": "text"}, None, None, "text"),
    ({"detail": [{"loc": ["body"], "msg": "m", "type": "missing"}]}, "missing", None, "m"),
    ({"detail": {"error": {"message": "m"}}}, None, None, "m"),
    ({"errors": [{"code": 7003, "message": "m"}], "success": False, "result": None}, None, 7003, "m"),
    ({"error_code": 18, "error_msg": "m"}, None, 18, "m"),
    ({"code": "InvalidParameter", "message": "m", "request_id": "r"}, None, "InvalidParameter", "m"),
    ({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "m"}}, None, 1004, "m"),
    ({"status": "error", "message": "m"}, None, None, "m"),
    ({"error": True}, None, None, None),
    ({"error": {"message": {"en": "m"}}}, None, None, '{"en":"m"}'),
]


@pytest.mark.parametrize(("body", "error_type", "code", "message"), ERRORS)
def test_shapes_of_errors(body: Any, error_type: str | None, code: str | int | None, message: str | None) -> None:
    """An error in any shape that servers send is one, and its type, its code and its words are found."""
    assert is_error(body)
    assert error_of(body) == LlmError(type=error_type, code=code, message=message)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"type": 7, "code": [1]}},
        {"error": {"type": "x" * 1000, "code": 10**100, "message": "y" * 10_000}},
        {"error": [[[[[[[[[["deep"]]]]]]]]]]},
    ],
)
def test_an_error_is_bounded(body: Any) -> None:
    """Whatever a server sends, what is kept of it is short."""
    found = error_of(body)
    assert (found.type or "") == (found.type or "")[:MAX_TEXT]
    assert len(found.message or "") <= MAX_MESSAGE
    assert found.code is None


@pytest.mark.parametrize(
    "body",
    [
        {"error": None},
        {"error": ""},
        {"error": {}},
        {"error": []},
        {"error": False},
        {"error": {"code": 0, "message": ""}},
        {"choices": [], "code": 200, "message": "fine"},
        {"choices": [], "detail": "of the answer"},
        {"code": 0, "message": "ok"},
        {"code": "success", "message": "ok"},
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"type": "ping"},
        {"type": "response.something.new", "detail": 1},
        {"type": "message", "content": [], "errors": ["x"]},
        {"errors": [], "success": True},
        {},
        [],
        [{"choices": []}],
        None,
        "error",
        7,
    ],
)
def test_what_is_no_error(body: Any) -> None:
    """Members that are empty, or that mean something else beside an answer, tell no failure."""
    assert not is_error(body)


@pytest.mark.parametrize("name", ["error", "Error", "response.error", "stream_error", "server-error", "exception"])
def test_names_of_errors(name: str) -> None:
    """An event is an error by its name."""
    assert is_error_name(name)


@pytest.mark.parametrize(
    "name", ["message", "ping", "", "errors_list", "response.completed", "terror", "response.failed"]
)
def test_other_names(name: str) -> None:
    """Others are not; `response.failed` is one by its dialect."""
    assert not is_error_name(name)


@pytest.mark.parametrize(
    "reason",
    [
        *("error", "network_error", "networkError", "abort", "aborted", "failed", "failure", "internal_error", "ERROR"),
        *("timeout", "timed_out", "engine_overloaded", "insufficient_system_resource", "error_finish", "exception"),
    ],
)
def test_reasons_that_mean_failure(reason: str) -> None:
    """A finish reason may say that the answer was not finished."""
    assert is_failed_reason(reason)


@pytest.mark.parametrize(
    "reason",
    [
        *(
            "stop",
            "length",
            "tool_calls",
            "content_filter",
            "function_call",
            "eos",
            "eos_token",
            "end_turn",
            "max_tokens",
        ),
        *("pause_turn", "refusal", "tool_use", "SAFETY", "MALFORMED_FUNCTION_CALL", "completed", "incomplete", "OTHER"),
        *("max_output_tokens", "cancelled", "repetition", "unload", "limit", "word", "stop_sequence", "model_length"),
        *(None, 7),
    ],
)
def test_reasons_that_do_not(reason: Any) -> None:
    """The usual ones end an answer."""
    assert not is_failed_reason(reason)


def test_text_in_place_of_json() -> None:
    """Text is an error by its first word, a page by its markup; a keep-alive is none."""
    for text in (
        b"error: busy",
        b"  Error while decoding",
        b"[ERROR] x",
        b"<html>",
        b"<!DOCTYPE html>",
        b"Traceback (most",
    ):
        assert is_error_text(text)
    for text in (b"ping", b"keep-alive", b"errors", b"< 5", b"", b"{", b"no error here"):
        assert not is_error_text(text)


def test_a_page_for_a_person() -> None:
    """Of a page the words are kept."""
    page = b"<html><head><title>502 Bad Gateway</title><style>h1 { color: red }</style></head><body><h1>502</h1></body>"
    assert message_of(page) == "502 Bad Gateway 502"
    assert message_of(b"a  b\n\xff &amp;") == "a b \ufffd &amp;"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "errors", "detail", "type", "code", "message", "status", "base_resp", "choices"]),
            inner,
        )
    ),
    max_leaves=20,
)


@given(values)
def test_any_value(value: Any) -> None:
    """Nothing raises, whatever the value is."""
    is_error(value)
    assert json.loads(records.encode(error_of(value))).keys() == {"type", "code", "message"}


@given(st.binary())
def test_any_text(data: bytes) -> None:
    """No bytes raise anything."""
    is_error_text(data)
    assert len(message_of(b"<" + data)) <= MAX_MESSAGE
