"""An exchange as `extproc log --json` and `show --json` give it: what its records say together.

The fields are the members of the JSON object, in its order. One that is UNSET is left out.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from extproc.core import record as line_format
from extproc.core.records import Attempt, Body, Headers, Passed, Progress, Protocol, Routing, Silences, Tls


class ExchangeRequest(Passed, frozen=True, gc=False):
    """The request as it passed. Null for a direction that never began."""

    trailers: Headers | UnsetType = UNSET
    """Left out where there were none."""
    body_lost: bool | UnsetType = UNSET
    """The body could not be written. Left out where it was."""
    body: Body | UnsetType | None = UNSET
    """`show` alone. Null where it was not recorded."""


class ExchangeResponse(Silences, frozen=True, gc=False):
    """The answer as it passed."""

    trailers: Headers | UnsetType = UNSET
    """Left out where there were none."""
    body_lost: bool | UnsetType = UNSET
    """The body could not be written. Left out where it was."""
    body: Body | UnsetType | None = UNSET
    """`show` alone. Null where it was not recorded."""


class Error(msgspec.Struct, frozen=True, gc=False):
    """An error of the model's server. A field is null where the server did not give it."""

    type: str | None
    code: str | int | None
    message: str | UnsetType | None = UNSET
    """In `show` it stands beside the error, as `error_message`."""


class Llm(msgspec.Struct, frozen=True, gc=False):
    """What was asked of a model and what it answered. A field is null where the bodies do not say it."""

    api: str | None
    """`chat.completions`, `completions`, `embeddings`, `responses` or `messages`."""
    model: str | None
    """As the request names it."""
    stream: bool | None
    params: dict[str, Any] | None
    """Every parameter of the request but the content, of which there are counts and sizes."""
    response_model: str | None
    response_id: str | None
    finish_reasons: list[str | None] | None
    """By the index of the choice; null for one without."""
    usage: dict[str, Any] | None
    """As the server sent it."""
    ttft_ms: float | None
    """From the exchange's start to the first token. Null where none came, or where nobody saw when."""
    output_chars: int | None
    """Characters of text, reasoning and tool arguments, of all choices. Null where they could not be counted."""
    fingerprint: str | None
    """A hash of the shape of the parameters, not of their text."""
    error: Error | UnsetType = UNSET
    """Left out where there was none."""
    parse_error: str | UnsetType = UNSET
    """What could not be read of a body, and where. Left out where all could."""
    output: list[dict[str, Any]] | UnsetType = UNSET
    """`show` alone: the answer's messages by the index of the choice, put together from the recorded bytes."""
    error_message: str | UnsetType | None = UNSET
    """`show` alone."""


class Envoy(msgspec.Struct, frozen=True, gc=False):
    """What else Envoy's access entry says. A field is null where the entry does not say it."""

    started_at: str | None
    """By Envoy's clock."""
    duration_ms: float | None
    times_ms: dict[str, float] | None
    """What happened when, since `started_at`."""
    request_bytes: int | None
    response_bytes: int | None
    request_headers_bytes: int | None
    response_headers_bytes: int | None
    http_version: str | None
    peer: str | None
    """The address of the connection. Null where it is the client's host."""
    tls: Tls | None
    """Null where the client's connection had none."""
    connection_termination_details: str | None
    upstream_failure: str | None


class Difference(msgspec.Struct, frozen=True, gc=False):
    """A direction of which Envoy has counted other bytes than were digested."""

    direction: str
    envoy: int
    """In bytes."""
    recorded: int
    """In bytes."""


NO_REQUEST: Final = ExchangeRequest()
NO_RESPONSE: Final = ExchangeResponse()
NO_ERROR: Final = Error(None, None)
NO_LLM: Final = Llm(None, None, None, None, None, None, None, None, None, None, None)


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """One HTTP request and its response. A field is null where neither the records nor Envoy's entry say it."""

    id: str
    """A UUIDv7, ours."""
    started_at: str
    """When the request's headers arrived."""
    ended_at: str | None
    """Null while it is in flight."""
    duration_ms: float | None
    """Null while it is in flight."""
    outcome: str | None
    """One of docs/outcomes.md. Null while it is in flight."""
    method: str | None
    path: str | None
    """With the query; credentials are replaced."""
    authority: str | None
    scheme: str | None
    client: str | None
    """Address and port."""
    status: int | None
    """Null where no answer began."""
    upstream: str | None
    """Address and port of the backend. Null where none was asked."""
    cluster: str | None
    route: str | None
    response_flags: list[str] | None
    """Envoy's short names: `UC`, `DC` ..."""
    response_code_details: str | None
    request_id: str | None
    """Envoy's `x-request-id`."""
    trace_id: str | None
    """Null where the recorder saw no request."""
    span_id: str | None
    """Null where the recorder saw no request."""
    worker: int | None
    boot_id: str | None
    """Of that run of the worker."""
    seq: int | None
    """The number of the first record in the journal."""
    request: ExchangeRequest | None
    """Null where it never began."""
    response: ExchangeResponse | None
    """Null where it never began."""
    llm: Llm | None
    """Null where the request is none to a model's API."""
    protocol: Protocol
    grpc_status: str | None
    """Null for what is not gRPC."""
    parent_span_id: str | None
    """Null where the exchange is the root of its trace."""
    held: bool | None
    """The whole request was held back until it was recorded. Null where the recorder saw no request."""
    best_effort: bool | None
    """Nobody waited for the records. Null where the recorder saw no request."""
    routing: Routing | None
    """Null where no route asks for a header of ours."""
    attempts: int | None
    """At upstreams, by Envoy's entry."""
    failed_attempts: list[Attempt] | None
    """Those before the last. Null where Envoy has not told of each one."""
    access_log: str
    """Whether Envoy's entry is there: `received`, `pending` or `missing`."""
    envoy: Envoy | None
    """Null without Envoy's entry."""
    integrity: list[Difference]
    """Where Envoy has counted other bytes."""
    progress: Progress | None
    """How far it had come. Null but for one in flight or cut off by the sidecar's end."""
    key: str | None
    """The mark that stands for the caller's credential. Null where there is none."""
    class_: str | None = msgspec.field(name="class")
    """Whose doing the end was: `ok`, `client`, `limited`, `upstream`, `local`, `sidecar` or `unknown`. Null while it is
    in flight."""

    def members(self) -> dict[str, Any]:
        """All of them as plain values, as they stand in JSON."""
        return line_format.decode(line_format.encode(self))
