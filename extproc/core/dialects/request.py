"""What a request asks of the model: parameters without the message content, and a fingerprint of their shape."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import msgspec
from msgspec import UNSET

from extproc.core import jsondoc
from extproc.core.encoding import Decoder
from extproc.core.jsondoc import Digest, Document, Size, Summary
from extproc.core.records import RequestLlm

_CONTENT = frozenset({"messages", "prompt", "input"})
_CONTENT_BY_API = {
    "messages": _CONTENT | {"system"},
    "responses": _CONTENT | {"instructions"},
}
"""System prompts are message content too, where the API has them outside of `messages`."""

_SCHEMAS = frozenset(
    {
        "response_format",
        "structured_outputs",
        "guided_json",
        "tools",
        "functions",
        "text",
        "output_format",
        "output_config",
    }
)
"""Parameters whose value is itself a shape: the grammar that the server compiles. Their content is hashed."""

_SCALARS: dict[type, str] = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}

MAX_MODEL = 1024
_USUAL_CHARACTERS = 1000


class RequestReading:
    """Reads one request body as it passes: `feed` its bytes as they are on the wire, then `finish`."""

    def __init__(self, api: str | None, content_type: str | None, content_encoding: str | None) -> None:
        self._api = api
        self._decoder = Decoder(content_encoding)
        self._document = Document(_CONTENT_BY_API.get(api or "", _CONTENT))

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        if self._api is not None:
            for piece in self._decoder.pieces(data):
                self._document.feed(piece)

    def finish(self, complete: bool) -> RequestLlm | None:
        """The `llm` part of the request record; `complete` is False when the body was cut off."""
        if self._api is None:
            return None
        rest = self._decoder.finish()
        if rest:
            self._document.feed(rest)
        summary = self._document.finish()
        params = {key: value if type(value) in _SCALARS else _parameter(value) for key, value in summary.values.items()}
        model, stream = params.get("model"), params.get("stream")
        return RequestLlm(
            api=self._api,
            model=model[:MAX_MODEL] if isinstance(model, str) else None,
            stream=stream if isinstance(stream, bool) else None,
            params=params,
            fingerprint=_fingerprint(self._api, summary),
            duplicate_keys=bool(summary.duplicate_keys) or UNSET,
            parse_error="; ".join(filter(None, (self._decoder.error, summary.parse_error))) or UNSET,
        )


def _parameter(value: Any) -> Any:
    match value:
        case Size(count, size):
            return {"count": count, "bytes": size}
        case Digest(size, sha256):
            return {"bytes": size, "sha256": sha256}
        case _:
            return value


def _fingerprint(api: str, summary: Summary) -> str:
    shape = [f"{key}={_shape(key, summary)}" for key in sorted(summary.values)]
    text = "\n".join([api, *shape])
    return _hash_of_usual(text) if len(text) < _USUAL_CHARACTERS else _hash(text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


_hash_of_usual = functools.lru_cache(maxsize=256)(_hash)  # a client's requests have one shape


def _shape(key: str, summary: Summary) -> str:
    value = summary.values[key]
    scalar = _SCALARS.get(type(value))
    if scalar is not None:
        return scalar
    match value:
        case Size():
            return "content"
        case Digest():
            return f"large:{value.sha256}" if key in _SCHEMAS else "large"
        case _:
            kind = "array" if isinstance(value, list) else "object"
            return f"{kind}:{_schema_hash(summary.raw[key])}" if key in _SCHEMAS else kind


@functools.lru_cache(maxsize=32)
def _schema_hash(raw: bytes) -> str:
    """A hash of a JSON value that does not depend on key order; cached, for agents repeat large tools."""
    value = jsondoc.decode(raw)
    try:
        canonical = msgspec.json.encode(value, order="sorted")
    except (msgspec.MsgspecError, ValueError):
        canonical = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(canonical).hexdigest()[:16]
