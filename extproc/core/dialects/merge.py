"""Deltas merged into what they are parts of, by no list of known fields, so that what a server adds survives.

Strings are joined, objects merged, lists of objects keyed by their `index`, and of anything else the last value
counts. What is a state and not an increment, an `id`, a `type`, a `format`, is not joined: of those the last counts;
and a string of an unknown field that comes again as it was is one, too. Three members have rules of their own:

* `content`, and `thinking` within it, may be a string, and later, or at first, a list of parts: then all of it is
  parts, and what goes on in the last one is joined to it;
* `tool_calls` belong together by index and id: another id under the same index is another call, if it names one;
* `reasoning_details` all have the index 0: an entry goes on as long as its type stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.core import jsondoc
from extproc.core.dialects.answer import mapping, objects, whole_number

MAX_DEPTH = 64

_STATES = frozenset(
    {
        *("id", "index", "role", "type", "object", "model", "call_id", "item_id", "format", "status", "signature"),
        *("recipient", "channel", "phase", "url", "image_url", "finish_reason", "stop_reason", "created_at", "detail"),
    }
)
_INCREMENTS = frozenset(
    {
        *("content", "text", "thinking", "reasoning", "reasoning_content", "reasoning_text", "summary", "refusal"),
        *("arguments", "input", "partial_json", "code", "data", "transcript"),
    }
)
_GROWING_PARTS = frozenset(
    {"text", "thinking", "output_text", "reasoning", "reasoning_text", "refusal", "summary_text"}
)


class _Text(list[str]):
    """A string that grows: its parts."""


class _Keyed(dict[int, Any]):
    """A list whose entries are known by their index, which need not begin at 0."""


class _Parts(list[Any]):
    """A content: its parts, the last of which may go on."""


class _Calls(list[Any]):
    """Tool calls, in the order in which they began."""

    def __init__(self) -> None:
        super().__init__()
        self.by_index: dict[int, int] = {}


def merge(old: Any, new: Any, name: str = "", depth: int = 0) -> Any:
    """`new` merged into `old`, which it may change; `name` is the member that holds them."""
    if new is None or depth > MAX_DEPTH:
        return old
    if isinstance(new, dict):
        target = old if isinstance(old, dict) and not isinstance(old, _Keyed) else {}
        for key, value in new.items():
            target[key] = merge(target.get(key), value, key, depth + 1)
        return target
    if name in ("content", "thinking") and (isinstance(new, list) or isinstance(old, _Parts)):
        return _merge_content(old, new, depth)
    if isinstance(new, list):
        return _merge_list(old, new, name, depth)
    if isinstance(new, str) and isinstance(old, str | _Text):
        return _merge_text(old, new, name)
    if isinstance(old, _Text) and new is None:
        return old
    return new


def settled(value: Any, depth: int = 0) -> Any:
    """What was merged, as plain JSON."""
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, _Keyed):
        return [settled(value[index], depth + 1) for index in sorted(value)]
    if isinstance(value, _Calls):
        return [settled(call, depth + 1) for call in _in_order(value)]
    if isinstance(value, _Parts):
        return [settled(part, depth + 1) for part in value]
    if isinstance(value, dict) and depth <= 2 * MAX_DEPTH:
        return {key: settled(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list) and depth <= 2 * MAX_DEPTH:
        return [settled(item, depth + 1) for item in value]
    return value


def _merge_text(old: str | _Text, new: str, name: str) -> Any:
    if name in _STATES:
        return new or old
    # A name comes once, or again in each fragment, or in parts; so does anything that nobody knows.
    if name not in _INCREMENTS and isinstance(old, str) and (not new or new == old):
        return old
    if isinstance(old, str):
        old = _Text([old])
    old.append(new)
    return old


def _merge_list(old: Any, new: list[Any], name: str, depth: int) -> Any:
    entries = objects(new)
    if name == "tool_calls" and len(entries) == len(new):
        return _merge_calls(old, entries, depth)
    if name == "reasoning_details" and len(entries) == len(new):
        return _merge_details(old, entries, depth)
    if len(entries) < len(new) or not (isinstance(old, _Keyed) or any("index" in item for item in entries)):
        if type(old) is not list:
            return list(new) if old is None else old
        old.extend(new)
        return old
    keyed = old if isinstance(old, _Keyed) else _Keyed()
    for item in entries:
        key = _key(keyed, item)
        keyed[key] = merge(keyed.get(key), item, depth=depth + 1)
    return keyed


def _key(keyed: _Keyed, item: dict[str, Any]) -> int:
    """The entry that a fragment belongs to: by index, else by id, else the last one."""
    index = whole_number(item.get("index"), -1)
    if index >= 0:
        return index
    last = next(reversed(keyed), -1)
    if item.get("id") in (None, "", mapping(keyed.get(last)).get("id")):
        return max(last, 0)
    return last + 1


# Content -------------------------------------------------------------------------------------------------------


def _merge_content(old: Any, new: Any, depth: int) -> Any:
    parts = old if isinstance(old, _Parts) else _Parts(_as_parts(settled(old)))
    for part in _as_parts(new):
        last = parts[-1] if parts else None
        if isinstance(last, dict) and isinstance(part, dict) and _goes_on(last, part):
            parts[-1] = merge(last, part, depth=depth + 1)
        else:
            parts.append(merge(None, part, depth=depth + 1))
    return parts


def _as_parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if isinstance(content, list):
        return [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return [] if content is None else [content]


def _goes_on(last: dict[str, Any], part: dict[str, Any]) -> bool:
    same = all(last.get(name) == part.get(name) for name in ("type", "index") if name in part or name == "type")
    kind = part.get("type")
    return same and ((isinstance(kind, str) and kind in _GROWING_PARTS) or "index" in part)


def _merge_details(old: Any, entries: list[dict[str, Any]], depth: int) -> Any:
    details = old if isinstance(old, _Parts) else _Parts()
    for entry in entries:
        last = details[-1] if details else {}
        same = all(last.get(name) == entry.get(name) for name in ("type", "index"))
        if same and entry.get("type") != "reasoning.encrypted" and last.get("id") in (None, entry.get("id")):
            details[-1] = merge(last, entry, depth=depth + 1)
        else:
            details.append(merge(None, entry, depth=depth + 1))
    return details


# Calls ---------------------------------------------------------------------------------------------------------


def _merge_calls(old: Any, entries: list[dict[str, Any]], depth: int) -> _Calls:
    calls = old if isinstance(old, _Calls) else _Calls()
    for item in entries:
        at = _call(calls, item)
        calls[at] = merge(calls[at], item, depth=depth + 1)
    return calls


def _call(calls: _Calls, item: dict[str, Any]) -> int:
    """The place of the call that a fragment belongs to."""
    index, id = whole_number(item.get("index"), -1), item.get("id") or None
    if index >= 0:
        at = calls.by_index.get(index)
        if at is not None and not (_is_another(calls[at], id) and _begins(calls[at], item)):
            return at
    else:
        same = next((at for at, call in enumerate(calls) if id is not None and call.get("id") == id), None)
        at = len(calls) - 1 if id is None else same
        if at is not None and at >= 0 and not (id is None and _begins(calls[at], item, is_named=False)):
            return at
    calls.append({})
    if index >= 0:
        calls.by_index[index] = len(calls) - 1
    return len(calls) - 1


def _is_another(call: Mapping[str, Any], id: object) -> bool:
    return id is not None and call.get("id") not in (None, "", id)


def _begins(call: Mapping[str, Any], item: Mapping[str, Any], *, is_named: bool = True) -> bool:
    """Whether a fragment begins a call rather than going on with this one: it names one, and this one may be over.

    `is_named`: their ids tell them apart. Without ids a name that comes again goes on with what has no arguments yet.
    """
    name, before, said = _name(item), _name(call), _arguments(call)
    if not name:
        return False
    if said in (None, ""):
        return is_named or (bool(before) and name != before)
    if not isinstance(said, str):
        return True
    try:
        jsondoc.decode(said.encode("utf-8", "surrogatepass"))
    except jsondoc.Malformed:
        return False
    return True


def _name(call: Mapping[str, Any]) -> Any:
    return settled(mapping(call.get("function")).get("name") or mapping(call.get("custom")).get("name"))


def _arguments(call: Mapping[str, Any]) -> Any:
    return settled(mapping(call.get("function")).get("arguments") or mapping(call.get("custom")).get("input"))


def _in_order(calls: _Calls) -> list[Any]:
    """By index, where each has one."""
    if all(type(call.get("index")) is int for call in calls):
        return sorted(calls, key=lambda call: int(call["index"]))
    return calls
