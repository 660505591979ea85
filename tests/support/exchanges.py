"""Exchanges made by hand, of which only some fields matter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType, structs

from extproc.core.joined import Difference, ExchangeRequest, ExchangeResponse
from extproc.core.llm import response_llm
from extproc.core.outcome import Outcome, decide, outcome_class
from extproc.core.records import Access, Known, Orphan, Response, Unknown, of_fields
from extproc.history.join import Exchange

_T = TypeVar("_T")
_EMPTY: dict[str, Any] = {"id": "", "started_at": "", "protocol": {}, "access_log": "received", "integrity": []}


def made(
    fields: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]] | None = None,
    directory: Path = Path("data"),
) -> Exchange:
    """One with these members of `extproc log --json`; the others are null, and so is what is of another type. Its class
    is that of its outcome.
    `records`: members of what it was made of, by type."""
    whole = _EMPTY | {name: value for name, value in fields.items() if value is not None or name not in _EMPTY}
    if whole.get("outcome") is not None:
        kind = outcome_class(whole["outcome"], whole.get("status"), whole.get("grpc_status"))
        whole = {"class": kind} | whole
    known = {type: record({**members, "type": type}) for type, members in (records or {}).items()}
    found: Exchange = _as(Exchange, whole)
    return found.read_from(directory, known)


def _as(kind: Any, members: Mapping[str, Any]) -> Any:
    found = {}
    for field in _fields(kind):
        value = members.get(field.encode_name)
        inner = next((each for each in (*get_args(field.type), field.type) if _is_struct(each)), None)
        if inner is not None and isinstance(value, dict) and not _is_list(field.type):
            found[field.name] = _as(inner, value)
            continue
        try:
            found[field.name] = msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            if field.required:
                found[field.name] = [] if field.type == list[Difference] else None
        if value is None and field.default is UNSET:
            found[field.name] = UNSET
    return kind(**found)


@cache
def _fields(kind: Any) -> tuple[structs.FieldInfo, ...]:
    return structs.fields(kind)


def _is_list(kind: Any) -> bool:
    return any(get_origin(each) is list for each in (kind, *get_args(kind)))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def record(fields: Mapping[str, Any]) -> Known:
    """A record of its `type` with these members."""
    found = of_fields({"id": "x", **fields})
    assert not isinstance(found, Unknown)
    return found


def access(fields: Mapping[str, Any]) -> Access:
    """The same of Envoy's entry."""
    found = record({"id": None, **fields, "type": "access"})
    assert isinstance(found, Access)
    return found


def decided(
    response: Mapping[str, Any] | Response | None,
    orphan: Mapping[str, Any] | None,
    entry: Mapping[str, Any] | None = None,
) -> Outcome:
    """The outcome by members of the records."""
    ended = record({**response, "type": "response"}) if isinstance(response, Mapping) else response
    lost = None if orphan is None else record({**orphan, "type": "orphan"})
    assert isinstance(ended, Response | None)
    assert isinstance(lost, Orphan | None)
    return decide(ended, lost, None if entry is None else access(entry))


def response_llm_of(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is read of an answer, by members of its record."""
    ended = record({**fields, "type": "response"})
    assert isinstance(ended, Response)
    found: dict[str, Any] | None = msgspec.to_builtins(response_llm(ended))
    return found


def present(value: _T | UnsetType | None) -> _T:
    """A part of an exchange that must be there."""
    assert value is not None
    assert not isinstance(value, UnsetType)
    return value


def headers_of(direction: ExchangeRequest | ExchangeResponse | None) -> dict[str, str]:
    """The header fields of a direction that must be there; of those that came twice the last."""
    return {name: str(value) for name, value in present(present(direction).headers)}
