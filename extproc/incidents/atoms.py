"""What a request asks for, as small facts that can be counted: its atoms.

    of(path, body, params, size)    # {"response_format.type": '"text"', "size": "2^9", ...}

An atom is a place in the request and the kind of what stands there. Values that engines treat alike are one kind
(numbers by their magnitude, lists by their length); those on which engines stumble are told apart: null, true, false,
zero, empty, negative, beyond 31, 53 or 63 bits. Constraints (schemas, regexes, grammars) are described by their shape
and by a digest; texts by their length and by what is unusual in their bytes. No content is kept.

No rule here names a parameter that has killed: what is rare is found by counting (see `rank.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

MOST_BYTES: Final = 1024 * 1024
"""Larger requests are described by their size, and by what the record says of them."""
_DEPTH: Final = 4
_MOST_KEYS: Final = 40
_LIST_SAMPLE: Final = 64
_TINY: Final = 0.01
_LITERAL: Final = re.compile(r"[\w./:+-]{1,32}", re.ASCII)
_NAME: Final = re.compile(r"[\w.$-]+", re.ASCII)
_SCHEMES: Final = frozenset({"data", "file", "http", "https"})
_ID: Final = re.compile(r"-?[0-9]{1,40}")
_CONTENT: Final = frozenset({"messages", "prompt", "input", "system", "instructions", "contents", "suffix", "query"})
_SCHEMAS: Final = frozenset(
    {"json_schema", "schema", "guided_json", "json", "parameters", "input_schema", "structures"}
)
_PATTERNS: Final = frozenset({"regex", "guided_regex", "pattern"})
_GRAMMARS: Final = frozenset({"grammar", "guided_grammar", "ebnf", "structural_tag", "definition"})
_LOST: Final = ("bytes", "sha256")
_PLACEHOLDER: Final = re.compile(r"<\|?[\w-]{1,32}\|?>|\[(?:IMG|INST|AUDIO)[^\]]{0,16}\]")
_ODD: Final = {"Cc": "control", "Cs": "surrogate", "Cn": "unassigned", "Co": "private", "Cf": "format"}
_RULE: Final = re.compile(r"^\s*([\w-]+)\s*(?:::=|:)", re.MULTILINE)
_COMMON_KEYWORDS: Final = frozenset({"type", "properties", "required", "description", "title", "items", "$schema"})

Atoms = dict[str, str]

_decode = msgspec.json.Decoder().decode


def of(path: str, body: bytes | None, params: Any, size: int) -> Atoms:
    """The atoms of a request: of its body, or, where that is not there or no JSON, of what the record has of it."""
    return of_document(path, document_of(body), params, size)


def of_document(path: str, document: Any, params: Any, size: int) -> Atoms:
    """The same of a body that was read by `document_of`."""
    found: Atoms = {"path": path.partition("?")[0], "size": _magnitude(size)}
    if isinstance(document, _TooDeep):
        found["nesting"] = "too deep"
        document = None
    if not isinstance(document, dict):
        if document is not None:
            found["body"] = _kind(document)
        document = params if isinstance(params, dict) else {}
    for key, value in list(document.items())[: _MOST_KEYS * 2]:
        name = str(key)[:64]
        if name in _CONTENT:
            _content(name, value, found)
        elif name != "model":
            _value(_shown(name), name, value, found, 0)
    return found


def _shown(name: str) -> str:
    """A member's name; one that is no usual name may be anything, and stands in quotes, as values do."""
    short = name[:64]
    return short if _NAME.fullmatch(short) else '"' + short.replace('"', "'") + '"'


class _TooDeep:
    """A document that is nested too deeply to be read."""


def document_of(body: bytes | None) -> Any:
    """What a body says, as far as it can be read."""
    if not body:
        return None
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # servers take more than that: NaN, lone surrogates, a byte order mark
    try:
        return json.loads(body)
    except RecursionError:
        return _TooDeep()
    except ValueError:
        return None


# Values --------------------------------------------------------------------------------------------------------


def _value(place: str, name: str, value: Any, found: Atoms, depth: int) -> None:
    if name in _SCHEMAS and (constraint := _constraint(value)) is not None:
        _schema(place, constraint, found)
        return
    if name in _PATTERNS and isinstance(value, str):
        _pattern(place, value, found)
        return
    if name in _GRAMMARS and isinstance(value, str):
        _grammar(place, value, found)
        return
    match value:
        case {"bytes": int(), "sha256": str()} if len(value) == len(_LOST):
            found[place] = "large"
            found[f"{place} bytes"] = _magnitude(value["bytes"])
        case dict() if value:
            _object(place, value, found, depth)
        case list() if value:
            _list(place, name, value, found, depth)
        case _:
            found[place] = _kind(value)


def _constraint(value: Any) -> Any:
    """The schema that a member with a schema's name holds; None for anything else, a wrapper around one included."""
    if isinstance(value, str):
        value = document_of(value.encode("utf-8", "surrogatepass"))
    wrapped = isinstance(value, dict) and isinstance(value.get("schema"), dict | bool | None) and "schema" in value
    lost = isinstance(value, dict) and set(value) == set(_LOST)
    return value if isinstance(value, dict | bool) and not wrapped and not lost else None


def _object(place: str, value: Mapping[str, Any], found: Atoms, depth: int) -> None:
    found[place] = "object"
    if all(_ID.fullmatch(str(key)) for key in value):
        _numbers(place, [int(key) for key in value], found)
        _numbers(f"{place} values", [each for each in value.values() if _is_number(each)], found)
        return
    if depth >= _DEPTH:
        found[f"{place} nesting"] = "deep"
        return
    for key, inner in list(value.items())[:_MOST_KEYS]:
        _value(f"{place}.{_shown(str(key))}", str(key), inner, found, depth + 1)


def _list(place: str, name: str, value: Sequence[Any], found: Atoms, depth: int) -> None:
    found[place] = f"list of {_magnitude(len(value))}"
    if all(_is_number(each) for each in value[:_LIST_SAMPLE]):
        _numbers(place, [each for each in value if _is_number(each)], found)
        return
    for each in value[:_LIST_SAMPLE]:
        match each:
            case dict() if depth < _DEPTH:
                _value(f"{place}[]", name, each, found, depth + 1)
            case str() if _LITERAL.fullmatch(each) is None:
                found[f"{place}[] {_kind(each)}"] = "there"
            case _:
                found[f"{place}[] {_kind(each) if not isinstance(each, str) else 'text'}"] = "there"
    if name in ("tools", "functions"):
        found[f"{place} digest"] = _digest(value)


def _numbers(place: str, values: Sequence[float], found: Atoms) -> None:
    """The ends of a list of numbers, ids of tokens mostly."""
    if values:
        found[f"{place} count"] = _magnitude(len(values))
        found[f"{place} largest"] = _number(max(values))
        found[f"{place} smallest"] = "negative" if min(values) < 0 else "not negative"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number(value)
        case "":
            return "empty text"
        case [] | {}:
            return "empty list" if isinstance(value, list) else "empty object"
        case str():
            if _LITERAL.fullmatch(value) and not value.isdigit():
                return f'"{value}"'
            odd = ", ".join(sorted(_oddities(value)))
            return f"text of {_magnitude(len(value))}" + (f" with {odd}" if odd else "")
    return "list" if isinstance(value, list) else "object"


def _number(value: float) -> str:
    """A number's kind: those that are special, its sign, its magnitude."""
    if not abs(value) < math.inf:
        return "not finite"
    if value in (-1, 0, 1, 2):
        return f"{value:g}"
    if value < 0:
        return "negative" if value > -(2**31) else "below -2^31"
    for bits in (64, 63, 53, 31):
        if value >= 2**bits:
            return f"2^{bits} or more"
    if value < _TINY:
        return f"10^{math.floor(math.log10(value))}"
    if value < 1:
        return "between 0 and 1"
    if value < 2:
        return "between 1 and 2"
    return f"10^{len(str(int(value))) - 1}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _magnitude(size: int) -> str:
    return "0" if size <= 0 else f"2^{size.bit_length() - 1}"


def _digest(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    except RecursionError:
        return "too deep"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


# Constraints ---------------------------------------------------------------------------------------------------


def _schema(place: str, value: Any, found: Atoms) -> None:
    if not isinstance(value, dict) or not value:
        found[place] = _kind(value)
        return
    found[place] = "schema"
    try:
        text = json.dumps(value, sort_keys=True)
    except RecursionError:
        found[f"{place} nesting"] = "too deep"
        return
    found[f"{place} digest"] = _digest(text)
    found[f"{place} bytes"] = _magnitude(len(text))
    deepest = 0
    for depth, node in _nodes(value):
        deepest = max(deepest, depth)
        for key, inner in node.items():
            if key == "pattern" and isinstance(inner, str):
                _pattern(f"{place} pattern", inner, found, shape_only=True)
            elif key == "type" and isinstance(inner, str):
                found[f"{place} type {_kind(inner)}"] = "there"
            elif key in _KEYWORDS:
                usual = isinstance(inner, str) or (isinstance(inner, dict | list) and bool(inner))
                kind = "" if usual else f" {_kind(inner)}"
                if key not in _COMMON_KEYWORDS or kind:
                    found[f"{place} keyword {key}{kind}"] = "there"
    found[f"{place} depth"] = _magnitude(deepest)


_KEYWORDS: Final = _COMMON_KEYWORDS | {
    "$ref", "$defs", "definitions", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "enum", "const", "pattern",
    "patternProperties", "additionalProperties", "propertyNames", "minProperties", "maxProperties", "minItems",
    "maxItems", "uniqueItems", "contains", "prefixItems", "minLength", "maxLength", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format", "default", "nullable", "strict", "$id", "$anchor",
    "dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems", "examples",
}  # fmt: skip


def _nodes(value: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects in a document with their depth, without recursion."""
    queue: list[tuple[int, Any]] = [(1, value)]
    seen = 0
    while queue and seen < 20_000:
        depth, node = queue.pop()
        seen += 1
        if isinstance(node, dict):
            yield depth, node
            queue.extend((depth + 1, inner) for inner in node.values() if isinstance(inner, dict | list))
        elif isinstance(node, list):
            queue.extend((depth + 1, inner) for inner in node if isinstance(inner, dict | list))


def _pattern(place: str, text: str, found: Atoms, *, shape_only: bool = False) -> None:
    found[place] = "empty text" if not text else "regex"
    if not shape_only:
        found[f"{place} digest"] = _digest(text)
    found[f"{place} length"] = _magnitude(len(text))
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        found[f"{place} validity"] = "no valid regex"
    for feature, sought in _REGEX_FEATURES.items():
        if sought.search(text):
            found[f"{place} {feature}"] = "there"


_REGEX_FEATURES: Final = {
    "look-around": re.compile(r"\(\?<?[=!]"),
    "back reference": re.compile(r"\\[1-9]|\(\?P="),
    "large repetition": re.compile(r"\{\d{3,}|,\d{3,}\}"),
    "nested repetition": re.compile(r"[*+}]\)[*+{]"),
    "double repetition": re.compile(r"[*+]{2}"),
    "class by name": re.compile(r"\\[pP]\{"),
    "word boundary": re.compile(r"\\[bB]"),
    "anchor": re.compile(r"\^|\$"),
}


def _grammar(place: str, text: str, found: Atoms) -> None:
    found[place] = "empty text" if not text.strip() else "grammar"
    found[f"{place} digest"] = _digest(text)
    found[f"{place} length"] = _magnitude(len(text))
    names = _RULE.findall(text)
    if len(set(names)) < len(names):
        found[f"{place} rule"] = "twice"
    if "root" not in names and "start" not in names:
        found[f"{place} root"] = "none"
    if any(re.search(rf"(?:::=|:|\|)\s*{re.escape(name)}\b", text) for name in set(names)):
        found[f"{place} recursion"] = "left"


# Contents ------------------------------------------------------------------------------------------------------


def _content(name: str, value: Any, found: Atoms) -> None:
    match value:
        case {"count": int(count), "bytes": int(size)} if len(value) == 2:
            found[f"{name} count"] = _magnitude(count)
            found[f"{name} bytes"] = _magnitude(size)
        case str():
            _text(name, value, found)
        case list() if value and name in ("messages", "contents", "input") and isinstance(value[0], dict):
            _messages(name, value, found)
        case list() if value:
            found[name] = "list"
            found[f"{name} count"] = _magnitude(len(value))
            if all(_is_number(each) for each in value):
                _numbers(f"{name} ids", value, found)
            else:
                for each in value[:_LIST_SAMPLE]:
                    if isinstance(each, str):
                        _text(f"{name}[]", each, found)
                    else:
                        found[f"{name}[] {_kind(each)}"] = "there"
        case _:
            found[name] = _kind(value)


def _messages(name: str, value: Sequence[Any], found: Atoms) -> None:
    found[f"{name} count"] = _magnitude(len(value))
    media = 0
    placeholders = 0
    for message in value[-_LIST_SAMPLE:]:
        if not isinstance(message, dict):
            found[f"{name}[] {_kind(message)}"] = "there"
            continue
        found[f"{name} role {_kind(message.get('role'))}"] = "there"
        for key, inner in message.items():
            if key not in ("role", "content"):
                found[f"{name}[].{_shown(str(key))}"] = _kind(inner)
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        if not parts:
            found[f"{name} content empty list"] = "there"
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                placeholders += _placeholders(text)
                _text(f"{name} text", text, found)
            elif not isinstance(part, dict):
                found[f"{name} content {_kind(part)}"] = "there"
            if isinstance(part, dict) and part.get("type") != "text":
                media += 1
                _part(name, part, found)
    if media:
        found[f"{name} media"] = _magnitude(media)
        if placeholders:
            found[f"{name} placeholders beside media"] = "there"
    if value and isinstance(value[-1], dict):
        found[f"{name} last role"] = _kind(value[-1].get("role"))


def _part(name: str, part: Mapping[str, Any], found: Atoms) -> None:
    kind = _kind(part.get("type"))
    found[f"{name} part {kind}"] = "there"
    for _, node in _nodes(dict(part)):
        for key, inner in node.items():
            if key in ("url", "data", "image", "audio") and isinstance(inner, str):
                scheme = inner[:5].partition(":")[0]
                shown = scheme if scheme in _SCHEMES else "text"
                found[f"{name} part {kind} {shown} bytes"] = _magnitude(len(inner))


def _text(place: str, text: str, found: Atoms) -> None:
    length = f"{place} length"
    size, before = _magnitude(len(text)), found.get(length)
    found[length] = size if before is None else max(before, size, key=lambda each: int(each[2:] or -1))
    if not text.strip():
        found[f"{place} emptiness"] = "empty" if not text else "blank"
    if _placeholders(text):
        found[f"{place} special token"] = "there"
    for odd in _oddities(text):
        found[f"{place} {odd}"] = "there"


def _placeholders(text: str) -> int:
    return len(_PLACEHOLDER.findall(text)) if "<" in text or "[" in text else 0


def _oddities(text: str) -> set[str]:
    """What is unusual in a text's characters."""
    if text.isascii() and text.isprintable():
        return {"a long word"} if has_long_word(text) else set()
    odd = {f"{_ODD[kind]} characters" for kind in {unicodedata.category(each) for each in set(text)} if kind in _ODD}
    if set(text) & {"\n", "\r", "\t"} and not set(text) & _CONTROLS:
        odd.discard("control characters")
    if "\ufffd" in text:
        odd.add("replacement characters")
    if has_long_word(text):
        odd.add("a long word")
    return odd


def has_long_word(text: str) -> bool:
    """Whether so many characters stand in it without a space between them. It is asked of every text that passes, so it
    leaps from word to word."""
    start = 0
    while len(text) - start >= _LONG_WORD:
        window = text[start : start + _LONG_WORD]
        trailing = 0 if window[-1].isspace() else len(window.rsplit(None, 1)[-1])
        if trailing == _LONG_WORD:
            return True
        start += _LONG_WORD - trailing
    return False


_LONG_WORD: Final = 500
_CONTROLS: Final = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n", "\r", "\t"}
