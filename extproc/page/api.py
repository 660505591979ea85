"""The OpenAPI document of `/api/v1`, made from the types that its answers have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from extproc import __version__
from extproc.core.joined import Exchange
from extproc.history.status import Status
from extproc.page import types

BASE: Final = "/api/v1"
_REF: Final = "#/components/schemas/{name}"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One path: what it gives, and what may be asked for."""

    summary: str
    schema: Mapping[str, Any]
    parameters: Sequence[tuple[str, str, str]] = ()
    """Name, place (`query` or `path`), meaning."""
    content_type: str = "application/json"
    body: str | None = None
    """The type of what is sent along."""


def _of(name: str) -> Json:
    return {"$ref": _REF.format(name=name)}


def _list_of(name: str) -> Json:
    return {"type": "array", "items": _of(name)}


_FILTERS: Final = (
    ("q", "query", "A line of the words of `extproc log`'s options: `failed upstream=10.0.0.7 since=1h`."),
    (
        "OPTION",
        "query",
        "Any filter of `extproc log` by its name without dashes, as often as wanted: `outcome`, `status`, `since`, ...",
    ),
)
_ID: Final = ("id", "path", "As `extproc show` takes it.")

OPERATIONS: Final[Mapping[str, Operation]] = {
    "/exchanges": Operation(
        "Exchanges, the newest first.",
        _of("Exchanges"),
        (
            *_FILTERS,
            ("limit", "query", "At most so many, up to 1000. Default: 100."),
            ("before", "query", "`next` of the page before."),
            ("view", "query", "`rows`: only what a list shows."),
            ("all", "query", "`yes`: those in flight, too."),
        ),
    ),
    "/exchanges/{id}": Operation(
        "One exchange, as `extproc show --json` prints it.",
        _of("Exchange"),
        (_ID, ("bodies", "query", "`no`: without its bodies, but with the answer put together.")),
    ),
    "/exchanges/{id}/body/{direction}": Operation(
        "The exact bytes of a body, as a download.",
        {"type": "string", "format": "binary"},
        (
            _ID,
            ("direction", "path", "`request` or `response`."),
            ("decoded", "query", "`yes`: without its content coding."),
        ),
        "application/octet-stream",
    ),
    "/exchanges/{id}/curl": Operation(
        "A shell script of one curl command, as `extproc replay --curl` prints it.",
        {"type": "string"},
        (_ID,),
        "text/plain",
    ),
    "/exchanges/{id}/rare": Operation(
        "How rare each parameter is among requests for the model that were served.", _of("Rare"), (_ID,)
    ),
    "/exchanges/{id}/conversation": Operation(
        "Exchanges that go on with the same messages, the oldest first: the 50 nearest.", _of("Conversation"), (_ID,)
    ),
    "/counts": Operation(
        "Exchanges counted, as `extproc log --by` does.",
        _list_of("Count"),
        (*_FILTERS, ("by", "query", "`upstream`, `model`, `key`, `outcome`, ... Default: `outcome`.")),
    ),
    "/histogram": Operation("How many exchanges started when, by outcome class.", _of("Histogram"), _FILTERS),
    "/inflight": Operation(
        "What is in flight now, oldest first, as `extproc inflight --json` has it.", _list_of("InFlight")
    ),
    "/incidents": Operation("What befell backends, oldest first.", _list_of("Incident")),
    "/status": Operation("How the recorder is, an object for each data directory.", _list_of("Status")),
    "/envoy": Operation("The files of the live Envoy configuration, the last changed first.", _list_of("EnvoyFile")),
    "/about": Operation("This page: version, directories, whether it is redacted.", _of("About")),
    "/events": Operation(
        "Server-sent events: `inflight` (once a second, rows of what is in flight) and `ended` (rows).",
        {"type": "string"},
        content_type="text/event-stream",
    ),
    "/quarantine": Operation("What is in quarantine.", _of("Held")),
    "/openapi.json": Operation("This document.", {"type": "object"}),
}

ACTIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("post", "/quarantine"): Operation(
        "Put requests into quarantine, as `extproc quarantine add` does: the entry.", {"type": "object"}, body="Hold"
    ),
    ("delete", "/quarantine/{entry}"): Operation(
        "Take an entry out, as `extproc quarantine remove` does.",
        {"type": "object"},
        (("entry", "path", "Its id."),),
    ),
    ("post", "/exchanges/{id}/replay"): Operation(
        "Send its request to a test server, as `extproc replay --to` does.", _of("Sent"), (_ID,), body="SendAgain"
    ),
}
"""What does something: answered only with a token."""


def document() -> Json:
    """OpenAPI 3.1."""
    paths: dict[str, Json] = {path: {"get": _operation("get", path, each)} for path, each in OPERATIONS.items()}
    for (method, path), each in ACTIONS.items():
        action = _operation(method, path, each) | {"security": [{"token": []}]}
        paths[path] = paths.get(path, {}) | {method: action}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "extproc",
            "version": __version__,
            "description": "What was recorded of LLM traffic. Nothing here writes to the journal.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": BASE}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(method: str, path: str, operation: Operation) -> Json:
    problem = {"description": "What is wrong.", "content": {"application/json": {"schema": _of("Problem")}}}
    answer = {"description": operation.summary, "content": {operation.content_type: {"schema": operation.schema}}}
    name = path.strip("/").replace("/", "_").replace("{", "").replace("}", "").replace(".", "_")
    sent = {"content": {"application/json": {"schema": _of(operation.body or "")}}, "required": True}
    return {
        "operationId": name if method == "get" else f"{method}_{name}",
        "summary": operation.summary,
        "parameters": [
            {
                "name": name,
                "in": place,
                "required": place == "path",
                "description": meaning,
                "schema": {"type": "string"},
            }
            for name, place, meaning in operation.parameters
        ],
        **({} if operation.body is None else {"requestBody": sent}),
        "responses": {"200": answer, "default": problem},
    }


def _schemas() -> Json:
    named = (
        types.Row,
        types.Exchanges,
        types.Histogram,
        types.Count,
        types.Incident,
        types.EnvoyFile,
        types.Rare,
        types.Conversation,
        types.About,
        types.Held,
        types.Hold,
        types.SendAgain,
        types.Sent,
        types.Problem,
    )
    _, schemas = msgspec.json.schema_components((Exchange, Status, *named), ref_template=_REF)
    # A page of exchanges has rows or whole ones; one in flight has how it stands beside its own fields.
    schemas["Exchanges"]["properties"]["exchanges"] = {
        "type": "array",
        "items": {"anyOf": [_of("Row"), _of("Exchange")]},
    }
    numbers = ("request_bytes", "response_bytes", "response_chunks", "first_token_ms", "silent_ms")
    stands: Json = {name: {"type": ["number", "null"]} for name in numbers}
    stands |= {"state": {"enum": ["waiting", "streaming", "silent"]}, "last_chunk_at": {"type": ["string", "null"]}}
    stands["model"] = {"type": ["string", "null"]}
    schemas["InFlight"] = {
        "allOf": [{"anyOf": [_of("Row"), _of("Exchange")]}],
        "type": "object",
        "properties": stands,
        "required": sorted(stands),
    }
    return schemas
