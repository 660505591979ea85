"""Headers that the recorder sets on a request, so that Envoy can route, balance and limit by what only we know.

A route, or a virtual host, asks for them in the metadata of its ext_proc call (`grpc_initial_metadata`, the key
`extproc-headers`): `x-model, x-prompt-prefix=1024, x-client-key`.

    x-model            the body's `model`
    x-prompt-prefix    a hash of the first N bytes of what the model is to read: the same for two requests whose
                       prompts begin alike, so that they can go to the server that has the beginning in its cache
    x-client-key       the mark that stands for the caller's credential in the record, without `redacted:`

The first two need the whole body, and so a request that Envoy holds back. Of one that streams, what the client itself
sends as `x-model` stands; the record says by what it was routed. An `x-client-key` is never the client's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from extproc.core import encoding
from extproc.core.head import Head
from extproc.core.marks import MARK, credential

METADATA: Final = "extproc-headers"
"""The key of the gRPC metadata."""

MODEL: Final = "x-model"
PREFIX: Final = "x-prompt-prefix"
CLIENT: Final = "x-client-key"

_PREFIX_BYTES: Final = 1024
_PREFIX_BYTES_AT_MOST: Final = 1024 * 1024
_MODEL_BYTES: Final = 256
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class RoutingHeaders(msgspec.Struct, frozen=True):
    """Which headers a route asks for."""

    model: bool = False
    prefix_bytes: int = 0
    client: bool = False

    @property
    def body(self) -> bool:
        """One of them needs the body."""
        return self.model or self.prefix_bytes > 0


def parse(text: str) -> RoutingHeaders:
    """Read the metadata. Raises ValueError, whose text says what was expected and what was seen."""
    model, prefix_bytes, client = False, 0, False
    for item in filter(None, (each.strip() for each in text.split(","))):
        name, _, value = item.partition("=")
        if name == MODEL and not value:
            model = True
        elif name == CLIENT and not value:
            client = True
        elif name == PREFIX and (not value or re.fullmatch(r"[1-9][0-9]{0,6}", value)):
            prefix_bytes = min(int(value or _PREFIX_BYTES), _PREFIX_BYTES_AT_MOST)
        else:
            raise ValueError(f"expected {MODEL}, {PREFIX}=BYTES or {CLIENT}, got {item!r}")
    return RoutingHeaders(model, prefix_bytes, client)


def client_key(head: Head) -> str | None:
    """The mark of the credential that a request carries, if it does, without `redacted:`."""
    mark = credential(head.fields)
    return None if mark is None else mark.removeprefix(MARK)


def of_body(asked: RoutingHeaders, body: bytes, content_encoding: str | None) -> tuple[dict[str, str], str | None]:
    """The headers that a whole body gives, and why one of them is missing."""
    if encoding.names_of(content_encoding):
        return {}, f"content-encoding {content_encoding}"
    document = _parsed(body)
    if not isinstance(document, dict):
        return {}, "no JSON object"
    headers = {}
    why = None
    if asked.model:
        model = document.get("model")
        if isinstance(model, str) and len(model) <= _MODEL_BYTES and _HEADER_VALUE.fullmatch(model):
            headers[MODEL] = model
        else:
            why = "no model" if model is None else "a model that no header can carry"
    if asked.prefix_bytes:
        headers[PREFIX] = _hash(document, asked.prefix_bytes)
    return headers, why


def _parsed(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return json.loads(body)  # NaN, lone surrogates: what model servers take, msgspec does not
    except (ValueError, RecursionError):
        return None


def _hash(document: dict[str, Any], size: int) -> str:
    prefix = b""
    for piece in _texts(document):
        prefix += piece.encode("utf-8", "surrogatepass")
        if len(prefix) >= size:
            break
    return hashlib.sha256(prefix[:size]).hexdigest()[:16]


def _texts(document: dict[str, Any]) -> Iterator[str]:
    """What the model reads, from its beginning; who speaks is part of it."""
    for member in ("system", "instructions", "messages", "prompt", "input"):
        value = document.get(member)
        for message in value if isinstance(value, list) else [value]:
            if isinstance(message, dict):
                yield f"\x1e{message.get('role')}\x1f"
                yield from _content(message.get("content"))
            elif message is not None:
                yield from _content(message)


def _content(value: Any) -> Iterator[str]:
    for part in value if isinstance(value, list) else [value]:
        text = part.get("text") if isinstance(part, dict) else part
        yield text if isinstance(text, str) else json.dumps(part, sort_keys=True)
