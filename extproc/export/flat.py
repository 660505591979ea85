"""An exchange as one row: the columns that CSV and Parquet share, and CSV.

What has no column of its own is in `exchange`, the whole of it as JSON. With bodies there are `request_body`,
`response_body` and `output`, the assembled answer. A body that is no UTF-8 is base64 in CSV, and `..._encoding` says
so; in Parquet bodies are bytes.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Final, Literal, NamedTuple

from msgspec import UNSET

from extproc.core.record import json_line
from extproc.export.bodies import Note, assembled_if_there, raw, text_or_base64
from extproc.history import filters
from extproc.history.join import Exchange

Kind = Literal["text", "integer", "number", "truth", "time"]


class Field(NamedTuple):
    """A column. What is there of another kind than its own counts as missing; texts are made of anything."""

    name: str
    kind: Kind
    value: Callable[[Exchange], Any]


def _of(name: str, kind: Kind = "text") -> Field:
    return Field(name, kind, lambda exchange: _member(exchange, name))


def _within(part: str, name: str, kind: Kind = "text", column: str | None = None) -> Field:
    return Field(column or f"{part}_{name}", kind, lambda exchange: _member(_member(exchange, part), name))


def _error(name: str) -> Field:
    return Field(f"error_{name}", "text", lambda exchange: _member(exchange.llm and exchange.llm.error, name))


def _member(part: Any, name: str) -> Any:
    value = getattr(part, "class_" if name == "class" else name, None)
    return None if value is UNSET else value


FIELDS: Final = (
    _of("id"),
    *(_of(name, "time") for name in ("started_at", "ended_at")),
    _of("duration_ms", "number"),
    *map(_of, ("outcome", "class", "method", "scheme", "authority", "path", "client", "key")),
    _of("status", "integer"),
    *map(_of, ("grpc_status", "upstream", "cluster", "route")),
    _of("attempts", "integer"),
    Field("response_flags", "text", lambda exchange: " ".join(exchange.response_flags or ()) or None),
    *map(_of, ("response_code_details", "request_id", "trace_id", "span_id")),
    *(
        field
        for part in ("request", "response")
        for field in (
            _within(part, "bytes", "integer"),
            _within(part, "sha256"),
            _within(part, "content_type"),
            _within(part, "ended_by"),
            _within(part, "truncated", "truth"),
        )
    ),
    *(_within("response", name, "number", name) for name in ("first_byte_ms", "last_byte_ms", "max_silence_ms")),
    *(_within("llm", name, column=name) for name in ("api", "model")),
    _within("llm", "stream", "truth", "stream"),
    *(_within("llm", name, column=name) for name in ("params", "response_model", "response_id", "finish_reasons")),
    Field("tokens_in", "integer", lambda exchange: filters.tokens(exchange)[0]),
    Field("tokens_out", "integer", lambda exchange: filters.tokens(exchange)[1]),
    _within("llm", "ttft_ms", "number", "ttft_ms"),
    _within("llm", "output_chars", "integer", "output_chars"),
    *(_within("llm", name, column=name) for name in ("fingerprint", "parse_error")),
    *map(_error, ("type", "code", "message")),
    Field("exchange", "text", json_line),
)

BODIES: Final = ("request", "response")
_MOST: Final = 2**63


def cell(field: Field, exchange: Exchange) -> Any:
    """The value of a column, of the column's kind, or None."""
    value = field.value(exchange)
    match field.kind:
        case "text" | "time":
            return text_of(value)
        case "truth":
            return value if isinstance(value, bool) else None
        case "integer":
            is_whole = isinstance(value, int) and not isinstance(value, bool) and -_MOST <= value < _MOST
            return value if is_whole else None
        case "number":
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            return float(value) if is_number else None


def text_of(value: Any) -> str | None:
    """Any value as a text that every encoding of Unicode takes: lone surrogates are escapes in it."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json_line(value)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def output_of(exchange: Exchange) -> str | None:
    """The assembled answer as JSON."""
    answer = assembled_if_there(exchange)
    return None if answer is None else json_line(answer)


# CSV ---------------------------------------------------------------------------------------------------------


def write(exchanges: Iterable[Exchange], sink: BinaryIO, *, bodies: bool, note: Note) -> int:
    """Write a line of titles, and a row for each, as RFC 4180 has them."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    titles = [field.name for field in FIELDS]
    if bodies:
        titles += [name for each in BODIES for name in (f"{each}_body", f"{each}_body_encoding")] + ["output"]
    writer.writerow(titles)
    count = 0
    for exchange in exchanges:
        row = [_shown(cell(field, exchange)) for field in FIELDS]
        if bodies:
            row += [part for each in BODIES for part in _body(raw(exchange, each, note))] + [output_of(exchange)]
        writer.writerow(row)
        _flush(lines, sink)
        count += 1
    _flush(lines, sink)
    return count


def _shown(value: Any) -> Any:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value


def _body(body: bytes | None) -> tuple[str | None, str | None]:
    if body is None:
        return None, None
    text, is_base64 = text_or_base64(body)
    return text, "base64" if is_base64 else "text"


def _flush(lines: io.StringIO, sink: BinaryIO) -> None:
    sink.write(lines.getvalue().encode("utf-8"))
    lines.seek(0)
    lines.truncate()
