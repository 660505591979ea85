"""How an exchange ended: a closed set, and the one function that decides.

Decided from what the state machine saw, from the frames of the answer and, where there is an entry, from Envoy's
access log; never from the gRPC status, which is the same for a clean end, a client's reset and a backend's. What
only the access log could tell is `unknown` without it. HTTP 200 with `[DONE]` is not success when an error frame
came before it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

from msgspec import UNSET

from extproc.core.media import is_stream_type, media_type
from extproc.core.records import Access, Orphan, Response, ResponseDirection, ResponseLlm


class Outcome(enum.StrEnum):
    """Every way in which an exchange can end."""

    OK = "ok"
    OK_CLIENT_LEFT_AFTER_TERMINAL = "ok_client_left_after_terminal"
    CLIENT_CANCEL_BEFORE_FIRST_BYTE = "client_cancel_before_first_byte"
    CLIENT_CANCEL_MID_STREAM = "client_cancel_mid_stream"
    UPSTREAM_ERROR_STATUS = "upstream_error_status"
    UPSTREAM_ERROR_FRAME = "upstream_error_frame"
    UPSTREAM_RESET_BEFORE_HEADERS = "upstream_reset_before_headers"
    UPSTREAM_RESET_MID_STREAM = "upstream_reset_mid_stream"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_CONNECT_FAIL = "upstream_connect_fail"
    LOCAL_REPLY = "local_reply"
    REJECTED_BY_POLICY = "rejected_by_policy"
    RECORDER_FAILED = "recorder_failed"
    SIDECAR_RESTART_ORPHAN = "sidecar_restart_orphan"
    PROXY_DRAIN = "proxy_drain"
    UNKNOWN = "unknown"


CLASSES = ("ok", "client", "limited", "upstream", "local", "sidecar", "unknown")
"""Whose doing an end can have been; `limited`: the backend has asked for patience (429)."""

_CLASSES: Mapping[str, str] = {
    Outcome.OK: "ok",
    Outcome.OK_CLIENT_LEFT_AFTER_TERMINAL: "ok",
    Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE: "client",
    Outcome.CLIENT_CANCEL_MID_STREAM: "client",
    Outcome.UPSTREAM_ERROR_STATUS: "upstream",
    Outcome.UPSTREAM_ERROR_FRAME: "upstream",
    Outcome.UPSTREAM_RESET_BEFORE_HEADERS: "upstream",
    Outcome.UPSTREAM_RESET_MID_STREAM: "upstream",
    Outcome.UPSTREAM_TRUNCATED: "upstream",
    Outcome.UPSTREAM_TIMEOUT: "upstream",
    Outcome.UPSTREAM_CONNECT_FAIL: "upstream",
    Outcome.LOCAL_REPLY: "local",
    Outcome.REJECTED_BY_POLICY: "local",
    Outcome.RECORDER_FAILED: "sidecar",
    Outcome.SIDECAR_RESTART_ORPHAN: "sidecar",
    Outcome.PROXY_DRAIN: "sidecar",
    Outcome.UNKNOWN: "unknown",
}

_OF_STATUS: Mapping[int, str] = {
    # A backend that answers so is well: the request was at fault. 408 and 5xx stay the backend's.
    **dict.fromkeys((400, 401, 403, 404, 405, 413, 415, 422), "client"),
    429: "limited",
}
_OF_GRPC_STATUS: Mapping[str, str] = {
    # The same in gRPC's numbers, by the HTTP status that google.rpc.Code gives each of them.
    **dict.fromkeys(("3", "5", "7", "9", "11", "16"), "client"),
    "8": "limited",
}

REFUSED_DETAILS = "extproc_not_recorded"
"""What Envoy's details of a request say that we refused because it could not be recorded."""

QUARANTINED_DETAILS = "extproc_quarantined"
"""The same of one that we refused because of what it might do to a backend."""

RECORDER_FAILED_DETAILS = "ext_proc_error"
"""How Envoy's details of a request begin for which the recorder was asked in vain, whatever it did wrong."""

_FROM_UPSTREAM = "via_upstream"
_WHY = (
    # The start of Envoy's response_code_details, most particular first (envoy/stream_info/stream_info.h). Before an
    # answer has begun they stand for an answer of Envoy's own; afterwards, with the same words, for the cut.
    ("upstream_reset_before_response_started{connection_timeout", Outcome.UPSTREAM_CONNECT_FAIL),
    ("upstream_reset_before_response_started{connection_failure", Outcome.UPSTREAM_CONNECT_FAIL),
    ("upstream_reset_before_response_started{remote_connection_failure", Outcome.UPSTREAM_CONNECT_FAIL),
    ("upstream_reset_before_response_started{local_connection_failure", Outcome.UPSTREAM_CONNECT_FAIL),
    # A circuit breaker: no backend was asked.
    ("upstream_reset_before_response_started{overflow", Outcome.LOCAL_REPLY),
    ("upstream_reset_before_response_started", Outcome.UPSTREAM_RESET_BEFORE_HEADERS),
    ("upstream_reset_after_response_started", Outcome.UPSTREAM_RESET_MID_STREAM),
    ("upstream_response_timeout", Outcome.UPSTREAM_TIMEOUT),
    ("upstream_per_try_timeout", Outcome.UPSTREAM_TIMEOUT),
    ("upstream_per_try_idle_timeout", Outcome.UPSTREAM_TIMEOUT),
    ("response_timeout", Outcome.UPSTREAM_TIMEOUT),
    ("stream_idle_timeout", Outcome.UPSTREAM_TIMEOUT),
    ("upstream_max_stream_duration_reached", Outcome.UPSTREAM_TIMEOUT),
    ("max_duration_timeout", Outcome.UPSTREAM_TIMEOUT),
)
_FIRST_ERROR = 400
_FIRST_FAILURE = 500
_NO_FAILURE = frozenset({"ok", "client", "limited"})
_REQUEST_TIMEOUT = 408
"""Envoy's status where the same limit was met by a request that did not come to its end: nobody upstream is slow."""
_PROTOCOL_ERROR = "DPE"
_CLIENT_LEFT = frozenset({"DC", "DR", "DPE"})
_CLIENT_LEFT_DETAILS = ("downstream_remote_disconnect", "http2.remote_", "http3.remote_", "codec_error:")
_PROXY_LEFT_DETAILS = ("downstream_local_disconnect", "drained")
_STREAMED_BY_CHOICE = frozenset({"chat.completions", "completions"})
_TERMINAL_EVENT = frozenset({"responses", "messages"})
_NOTHING_READ = ResponseLlm()


def decide(response: Response | None, orphan: Orphan | None, access: Access | None = None) -> Outcome:
    """The outcome of one exchange from its `response`, `orphan` and `access` records, each where there is one. The
    `llm` of the response is in it, if any of the answer was read.

    Of an `access` record alone: Envoy ended it before the recorder had a say.
    """
    if response is None and orphan is None:
        return Outcome.UNKNOWN if access is None else _without_us(access)
    if response is None:
        return Outcome.SIDECAR_RESTART_ORPHAN
    if response.closed != "drain" and ((access is not None and recorder_failed(access)) or recorder_failed(response)):
        return Outcome.RECORDER_FAILED
    if response.rejected:
        return Outcome.REJECTED_BY_POLICY
    answer = response.response
    if answer is None or answer.ended_by in {"closed", "cancelled", "drain"}:
        return _cut_off(response, answer, access)
    details = response.response_code_details
    if details and details != _FROM_UPSTREAM:
        return _local_reply(details, response.status)
    return _complete(response, answer)


def outcome_class(outcome: object, status: object = None, grpc_status: object = None) -> str:
    """Whose doing it was: one of CLASSES. The statuses are those of the answer: a backend's own word tells its fault
    from the client's.

    The outcome may be its text, as it stands in an exchange; what is none is unknown.
    """
    if outcome == Outcome.UPSTREAM_ERROR_STATUS:
        if isinstance(status, int) and status >= _FIRST_ERROR:
            return _OF_STATUS.get(status, "upstream")
        return _OF_GRPC_STATUS.get(str(grpc_status), "upstream")
    return _CLASSES.get(outcome, "unknown") if isinstance(outcome, str) else "unknown"


def recorder_failed(record: Response | Access) -> bool:
    """Whether Envoy ended an exchange because of us, by the details in its entry or in our record.

    What had been seen of it until then does not count any more: the end of an answer that was waiting for our word
    never reached the client.
    """
    return (record.response_code_details or "").startswith(RECORDER_FAILED_DETAILS)


def broke_off(response_flags: Collection[str] | None, method: str | None) -> bool:
    """Whether Envoy gave a request up whose headers were in order, and what followed them was no HTTP.

    A chunk without a length, more bytes than announced: Envoy's flag is that of a protocol error. Its own 400 does not
    arrive, and where all of it came at once, Envoy took what it had said to the recorder back.
    """
    return _PROTOCOL_ERROR in (response_flags or ()) and method is not None


def is_failure(kind: str, status: int | None) -> bool:
    """Whether an exchange that has ended so counts as an error: not what the client did itself, nor what a limit or a
    rule refused it, be it the backend's or, in an answer below 500, Envoy's. `kind`: its class."""
    refused = kind == "local" and status is not None and status < _FIRST_FAILURE
    return kind not in _NO_FAILURE and not refused


def _cut_off(response: Response, answer: ResponseDirection | None, access: Access | None) -> Outcome:
    llm = response.llm or _NOTHING_READ
    if llm.error:
        return Outcome.UPSTREAM_ERROR_FRAME
    if answer is not None and llm.done:
        return Outcome.OK_CLIENT_LEFT_AFTER_TERMINAL
    if response.closed == "drain":
        return Outcome.PROXY_DRAIN
    return Outcome.UNKNOWN if access is None else _as_envoy_says(answer, access)


def _without_us(access: Access) -> Outcome:
    if recorder_failed(access):
        return Outcome.RECORDER_FAILED
    if _client_left(access) and (access.status is None or _broke_off(access)):
        return Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE
    return Outcome.LOCAL_REPLY if access.response_code_details else Outcome.UNKNOWN


def _broke_off(access: Access) -> bool:
    return broke_off(access.response_flags, access.method)


def _client_left(access: Access) -> bool:
    details = access.response_code_details or ""
    return not _CLIENT_LEFT.isdisjoint(access.response_flags or ()) or details.startswith(_CLIENT_LEFT_DETAILS)


def _as_envoy_says(answer: ResponseDirection | None, access: Access) -> Outcome:
    """Who cut it off: the client, the backend or Envoy. Only Envoy's access log knows."""
    details = access.response_code_details or ""
    if access.failed_open:
        return Outcome.RECORDER_FAILED  # and Envoy went on without us
    if _client_left(access):
        began = answer is not None and answer.bytes
        return Outcome.CLIENT_CANCEL_MID_STREAM if began else Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE
    if details.startswith(_PROXY_LEFT_DETAILS):
        return Outcome.PROXY_DRAIN
    why = _reason(details)
    if why is Outcome.UPSTREAM_RESET_MID_STREAM and answer is not None and _announced(answer):
        return Outcome.UPSTREAM_TRUNCATED
    if why is None and answer is None and details:
        return Outcome.LOCAL_REPLY  # of which we were not shown a thing
    return why or Outcome.UNKNOWN


def _announced(answer: ResponseDirection) -> bool:
    """Whether the answer said how long it would be."""
    return any(header[0] == "content-length" for header in answer.headers or ())


def _local_reply(details: str, status: int | None) -> Outcome:
    why = _reason(details)
    return Outcome.LOCAL_REPLY if why is None or status == _REQUEST_TIMEOUT else why


def _reason(details: str) -> Outcome | None:
    return next((outcome for start, outcome in _WHY if details.startswith(start)), None)


def _complete(response: Response, answer: ResponseDirection) -> Outcome:
    status = response.status
    llm = response.llm or _NOTHING_READ
    if (status is not None and status >= _FIRST_ERROR) or response.grpc_status not in {None, "0"}:
        return Outcome.UPSTREAM_ERROR_STATUS
    if llm.error:
        return Outcome.UPSTREAM_ERROR_FRAME
    if answer.truncated or _ended_too_soon(llm, answer) or _lacks_status(response, answer):
        return Outcome.UPSTREAM_TRUNCATED
    return Outcome.OK


def _lacks_status(response: Response, answer: ResponseDirection) -> bool:
    """A gRPC answer that ended without the status with which each of them ends. gRPC-Web has it in its body."""
    content_type = media_type(answer.content_type)
    is_grpc = content_type == "application/grpc" or content_type.startswith("application/grpc+")
    return is_grpc and response.grpc_status is None


def _ended_too_soon(llm: ResponseLlm, answer: ResponseDirection) -> bool:
    """An answer that ended cleanly, but not where its format ends one. Who read it knows.

    Records of before that was noted have it only for event streams in which nothing else was odd.
    """
    if llm.cut is not UNSET:
        return llm.cut
    if not is_stream_type(answer.content_type) or llm.done or llm.parse_error:
        return False
    api = llm.api
    if api in _STREAMED_BY_CHOICE:
        reasons = llm.finish_reasons or []
        return not reasons or None in reasons
    return api in _TERMINAL_EVENT
