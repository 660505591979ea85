"""OpenAI's batch input: recorded requests, to be run again elsewhere.

    {"custom_id": "the exchange's id", "method": "POST", "url": "/v1/chat/completions", "body": {...}}

A body's members are taken as they were sent, byte for byte, but for `stream` and `stream_options`, which a batch does
not take. What such a file cannot hold is left out: what is no call of one of these APIs, and what was not recorded
whole or is no JSON object. How many, and why, is told at the end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import BinaryIO, Final

import msgspec

from extproc.core import dialects
from extproc.core.joined import NO_LLM, NO_REQUEST
from extproc.core.record import json_line
from extproc.export.bodies import Note, readable
from extproc.history.join import Exchange

URLS: Final = {
    "chat.completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
}
"""Where a batch sends it, whatever prefix a gateway had."""

MOST_REQUESTS: Final = 50_000
MOST_BYTES: Final = 200_000_000
"""What OpenAI takes in one file; vLLM's run_batch takes more."""

_LEFT_OUT: Final = frozenset({"stream", "stream_options"})


class _NotForABatch(Exception):
    """Why an exchange is left out."""


def write(exchanges: Iterable[Exchange], sink: BinaryIO, *, bodies: bool = True, note: Note) -> int:  # noqa: ARG001
    """Write a line for each request. `bodies` is every format's; here they are what it is about."""
    left_out: Counter[str] = Counter()
    models: set[str] = set()
    count = size = 0
    for exchange in exchanges:
        try:
            line = _line(exchange, note)
        except _NotForABatch as reason:
            left_out[str(reason)] += 1
            continue
        sink.write(line)
        models.add(str((exchange.llm or NO_LLM).model))
        count, size = count + 1, size + len(line)
    for why, number in left_out.items():
        note(f"{number} left out: {why}")
    if len(models) > 1:
        note(f"{len(models)} models: OpenAI takes one in a file; --model chooses")
    if count > MOST_REQUESTS or size > MOST_BYTES:
        note(
            f"{count} requests, {size} bytes: OpenAI takes {MOST_REQUESTS} and {MOST_BYTES} in a file; --since chooses"
        )
    return count


def _line(exchange: Exchange, note: Note) -> bytes:
    url = URLS.get(dialects.api_of(str(exchange.method), str(exchange.path)) or "")
    if url is None:
        raise _NotForABatch("no call that a batch takes")
    request = exchange.request or NO_REQUEST
    if request.truncated or request.sha256 is None:
        raise _NotForABatch("the request has not come to its end")
    head = json_line({"custom_id": exchange.id, "method": "POST", "url": url})
    return head[:-1].encode("ascii") + b',"body":' + _body(readable(exchange, "request", note)) + b"}\n"


def _body(body: bytes | None) -> bytes:
    """The members of the object as they stand, on one line: a line break in JSON is only ever space between them."""
    if body is None:
        raise _NotForABatch("the body was not recorded")
    try:
        members = _members(body)
    except (ValueError, RecursionError):
        raise _NotForABatch("the body is no JSON object") from None
    kept = (_member(name, value) for name, value in members.items() if name not in _LEFT_OUT)
    return b"{" + b",".join(kept) + b"}"


def _members(body: bytes) -> Mapping[str, bytes]:
    """The members of an object by name, the last of several. Raises ValueError for what is none."""
    value = json.loads(body.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("no object")  # noqa: TRY004 - the same for all that a body may be
    try:
        return {name: bytes(raw) for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}
    except msgspec.DecodeError:  # a half of a surrogate pair, which JSON's escapes may say
        return {name: json.dumps(each, allow_nan=False).encode("ascii") for name, each in value.items()}


def _member(name: str, value: bytes) -> bytes:
    return json_line(name).encode("ascii") + b":" + value.strip().translate(_ON_ONE_LINE)


_ON_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
