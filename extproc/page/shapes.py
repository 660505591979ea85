"""Exchanges without their texts: shapes and sizes stand for what a client or a model has sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

_KEPT: Final = frozenset({"role", "type", "model", "object", "finish_reason"})
"""Members whose words are the API's own, where they are short."""
_LONGEST_WORD: Final = 64
_MOST_ITEMS: Final = 1000
_DEPTH: Final = 64


def of(value: Any, name: str = "", depth: int = 0) -> Any:
    """The shape of a JSON value: a text becomes its length, everything else stays."""
    if isinstance(value, str):
        return value if name in _KEPT and len(value) <= _LONGEST_WORD else f"<{len(value)} characters>"
    if depth >= _DEPTH:
        return "<deeper>"
    if isinstance(value, Mapping):
        return {key: of(each, key, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [of(each, name, depth + 1) for each in value[:_MOST_ITEMS]]
    return value


def of_body(body: bytes) -> bytes:
    """The shape of a body as JSON; of one that is no JSON, its size."""
    try:
        return msgspec.json.encode(of(msgspec.json.decode(body)))
    except (ValueError, RecursionError):
        return f"<{len(body)} bytes>".encode() if body else b""


def of_exchange(exchange: Mapping[str, Any]) -> dict[str, Any]:
    """An exchange as `show --json` has it, with the names of its headers and the shapes of its texts."""
    found = dict(exchange)
    found["path"] = str(exchange.get("path") or "").partition("?")[0]
    for direction in ("request", "response"):
        part = exchange.get(direction)
        if part is not None:
            found[direction] = {
                **part,
                **{name: _names(part[name]) for name in ("headers", "trailers") if name in part},
            }
    llm = exchange.get("llm")
    if llm is not None:
        texts = {name: of(llm[name]) for name in ("params", "output", "error", "error_message") if name in llm}
        found["llm"] = {**llm, **texts}
    return found


def _names(fields: Any) -> list[list[str]]:
    return [[str(field[0]), f"<{len(str(field[1]))} characters>"] for field in fields or () if len(field) >= 2]
