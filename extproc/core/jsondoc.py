"""The top level of a JSON document, read tolerantly, in bounded memory and time, as its bytes arrive.

Some members are *content* (`messages`, `data`, ...): they are counted and sized, never built. The others are
decoded when they are small, and given as size and SHA-256 when they are not. Members may stand in any order;
official clients put `messages` before `model`.

A document up to `HELD_BYTES` is held and decoded at once by msgspec. What msgspec refuses and servers accept
(NaN, lone surrogates), and what is longer, goes through `Scanner`, which finds the top-level members without
decoding anything and skips strings at the speed of `bytes.find`. Counts and sizes are the same both ways.

Nothing here raises on any input. What is wrong is in `Summary.error`: a kind and a byte position, no content.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

HELD_BYTES = 256 * 1024
"""A document up to this size is held whole; a scanner keeps at most as much of a longer one."""

MEMBER_BYTES = 64 * 1024
"""A larger member is given as size and digest."""

MAX_MEMBERS = 1000
"""Those of keys that stand twice counted, too: each costs time."""
MAX_DEPTH = 200
"""Deeper members are given as size and digest: the record's encoder and its readers need not recurse."""

MAX_STEPS = 400_000
"""Brackets and long strings that one scan looks at, a fraction of a second of work, before it gives up."""

NOT_UTF8 = "not UTF-8"

_STEPS_PER_MEMBER = 10
_KEY_BYTES = 256
_ELEMENT_BYTES = 512
"""What an element takes beside its values."""

_BOM = b"\xef\xbb\xbf"
_QUOTE, _BACKSLASH = 0x22, 0x5C

_SPACE = re.compile(rb"[ \t\r\n]*+")
_LITERAL = re.compile(rb"[^,\]}\s\"\[{:]*+")
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_NO_BRACKETS = re.compile(rb'[^"\[\]{}]*+')
_FLAT = rb'[^"\[\]{}]++|"[^"\\]{0,256}+"'
_NESTED = rb"(?:%s|[\[{](?:%s|[\[{](?:%s)*+[\]}])*+[\]}])*+" % (_FLAT, _FLAT, _FLAT)
_SMALL_VALUES = re.compile(_NESTED)
"""Anything but brackets that nest deeper than two, and strings that are long or have escapes."""
_OPENING = re.compile(rb"[\[{]++")
_CLOSING = re.compile(rb"[\]}]++")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_anything = msgspec.json.Decoder()


class Size(msgspec.Struct, frozen=True, gc=False):
    """A member that is content: the elements of its array (of another value 1, of null 0) and its bytes."""

    count: int
    bytes: int


class Digest(msgspec.Struct, frozen=True, gc=False):
    """A member that is too large or does not decode."""

    bytes: int
    sha256: str


class Summary(msgspec.Struct, gc=False):
    """What is known of a document's top level. Of a key that stands twice the last value counts.

    `values` has a `Size`, a `Digest` or the decoded value for each key, and `raw` the JSON of those decoded.
    """

    values: dict[str, Any]
    raw: dict[str, bytes]
    duplicate_keys: bool = False
    error: tuple[str, int] | None = None
    elements: list[Summary] = []
    """The objects of the array whose elements were asked for, where the document was too long to be held."""

    @property
    def parse_error(self) -> str | None:
        """The error as records say it."""
        return None if self.error is None else f"{self.error[0]} at byte {self.error[1]}"


class Malformed(Exception):
    """A value that does not decode: what is wrong and at which byte."""

    def __init__(self, kind: str, at: int) -> None:
        super().__init__(kind, at)
        self.kind = kind
        self.at = at


def decode(raw: bytes) -> Any:
    """The value of one JSON text, with what servers accept beyond the standard; raises `Malformed` only."""
    try:
        return _anything.decode(raw)
    except RecursionError:
        raise Malformed("too deep", 0) from None
    except (msgspec.MsgspecError, ValueError):
        return _decode_tolerantly(raw)


def decode_leniently(raw: bytes) -> Any:
    """As `decode`, but bytes that are not UTF-8 are replaced and a BOM is skipped."""
    raw = raw.removeprefix(_BOM)
    try:
        return decode(raw)
    except Malformed as problem:
        if problem.kind != NOT_UTF8:
            raise
    return decode(raw.decode("utf-8", "replace").encode())


def _decode_tolerantly(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise Malformed(NOT_UTF8, problem.start) from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise Malformed("malformed", len(text[: problem.pos].encode("utf-8"))) from None
    except RecursionError:
        raise Malformed("too deep", 0) from None
    except ValueError:
        raise Malformed("number too long", 0) from None


@functools.lru_cache(maxsize=32)
def _deeper_than(raw: bytes, limit: int) -> bool:
    """Whether brackets nest deeper. Cached, because agents send the same large tools with each request."""
    depth = 0
    for token in re.finditer(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]', raw, re.DOTALL):
        first = raw[token.start()]
        if first in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif first != _QUOTE:
            depth -= 1
    return False


def _decode_member(raw: bytes) -> Any:
    if len(raw) > MAX_DEPTH and raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deeper_than(raw, MAX_DEPTH):
        raise Malformed("too deep", 0)
    return decode(raw)


def is_simple(document: bytes) -> bool:
    """Whether a document has so few members and brackets that no limit of ours can be reached in it."""
    return document.count(b",") < MAX_MEMBERS and document.count(b"[") + document.count(b"{") <= MAX_DEPTH


class Document:
    """One document: `feed` its bytes in order, then `finish`."""

    def __init__(self, content: frozenset[str], held_bytes: int = HELD_BYTES, elements_of: str | None = None) -> None:
        self._content = content
        self._elements_of = elements_of
        self._held_bytes = held_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._scanner: Scanner | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._scanner is not None:
            self._scanner.feed(data)
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size > self._held_bytes:
            self._scanner = self._scan(b"".join(self._pieces))
            self._pieces.clear()
        elif len(self._pieces) >= 1024:
            self._pieces = [b"".join(self._pieces)]

    def held(self) -> bytes | None:
        """The document so far, or None when it is too long to be held."""
        return None if self._scanner is not None else b"".join(self._pieces)

    def finish(self) -> Summary:
        """The document is over."""
        if self._scanner is not None:
            return self._scanner.finish()
        document = b"".join(self._pieces)
        summary = _at_once(document.removeprefix(_BOM), self._content)
        return summary or self._explain(document)

    def _scan(self, document: bytes) -> Scanner:
        start = len(_BOM) if document.startswith(_BOM) else 0
        scanner = Scanner(self._content, start, self._elements_of)
        scanner.feed(document[start:])
        return scanner

    def _explain(self, document: bytes) -> Summary:
        """The members of a document that msgspec refuses, and what is wrong with it if something is."""
        scanner = self._scan(document)
        summary = scanner.finish()
        for start, size in scanner.content_positions.values():
            if summary.error is not None:
                break
            try:
                decode(document[start : start + size])
            except Malformed as problem:
                summary.error = (problem.kind, start + problem.at)
        return summary


def _at_once(document: bytes, content: frozenset[str]) -> Summary | None:
    try:
        members = _members.decode(document)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if len(members) > MAX_MEMBERS:
        return None
    summary = Summary({}, {})
    length = 0
    for key, member in members.items():
        view = memoryview(member)
        length += len(key) + view.nbytes
        if key in content:
            summary.values[key] = Size(_count(member, view), view.nbytes)
        elif view.nbytes > MEMBER_BYTES:
            summary.values[key] = Digest(view.nbytes, hashlib.sha256(view).hexdigest())
        else:
            raw = bytes(view)
            try:
                summary.values[key] = _decode_member(raw)
            except Malformed:
                return None
            summary.raw[key] = raw
    if _may_repeat_keys(document, length, len(members)):
        scanner = Scanner(frozenset())
        scanner.feed(document)
        if scanner.failed:
            return None
        summary.duplicate_keys = scanner.finish().duplicate_keys
    return summary


def _may_repeat_keys(document: bytes, length: int, members: int) -> bool:
    """Whether there is more in the document than its members and the punctuation of the usual encoders."""
    punctuation = len(document.strip()) - length
    compact = 4 * members + 1
    return members > 0 and punctuation not in (compact, compact + 2 * members - 1)


def _count(member: msgspec.Raw, view: memoryview) -> int:
    match view[0]:
        case 0x5B:
            return len(_elements.decode(member))
        case 0x6E:
            return 0
        case _:
            return 1


class Scanner:
    """Finds the top-level members of an object in pieces of any size, without decoding what it passes over.

    It checks the document's own punctuation and that brackets and strings close, not what is inside of values.
    Of one content array, `elements_of`, it scans each object in the same way, while they take little memory.
    """

    def __init__(self, content: frozenset[str], position: int = 0, elements_of: str | None = None) -> None:
        self.content_positions: dict[str, tuple[int, int]] = {}
        self._content = content
        self._elements_of = elements_of
        self._element: Scanner | None = None
        self._position = position
        self._summary = Summary({}, {})
        self._kept = 0
        self._steps = 0
        self._members = 0
        self._next: Callable[[bytes, int], int] | None = self._begin
        self._key = b""
        self._name = ""
        self._quoted = False
        self._escaped = False
        self._value = bytearray()
        self._value_start = 0
        self._value_size = 0
        self._digest: Any = None
        self._depth = 0
        self._array = False
        self._commas = 0
        self._elements = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes; after an error they are ignored."""
        at = 0
        while at < len(data) and self._next is not None:
            at = self._next(data, at)
        self._position += len(data)

    def scan_object(self, data: bytes, at: int, position: int) -> int:
        """Take the bytes from `at` to the end of the object, if it ends here; `data` begins at `position`."""
        self._position = position
        while at < len(data) and not self.failed and not self.ended:
            assert self._next is not None
            at = self._next(data, at)
        return at

    @property
    def ended(self) -> bool:
        """The object is closed."""
        return self._next == self._end

    @property
    def failed(self) -> bool:
        """What followed cannot be read."""
        return self._next is None

    @property
    def kept(self) -> int:
        """Bytes of the members kept."""
        return self._kept

    def take_steps(self) -> int:
        """The steps made since they were last asked for."""
        steps, self._steps = self._steps, 0
        return steps

    def finish(self) -> Summary:
        """The document is over; a value that was cut off is left out, of content the part seen is sized."""
        if self._next == self._in_literal:
            self._end_value()
        if self._next is not None and self._next not in (self._begin, self._end):
            unended = (self._in_string, self._in_nested, self._between_elements, self._in_element)
            if self._next in unended and self._name in self._content:
                self._end_value()
            self._fail("cut off", self._position)
        return self._summary

    def _fail(self, kind: str, position: int) -> None:
        if self._summary.error is None:
            self._summary.error = (kind, position)
        self._next = None

    def _unexpected(self, data: bytes, at: int) -> int:
        self._fail("malformed", self._position + at)
        return len(data)

    def _begin(self, data: bytes, at: int) -> int:
        at = _space(data, at)
        if at < len(data):
            if data[at] != 0x7B:
                self._fail("not an object", self._position + at)
            else:
                self._next = self._first_key
        return at + 1

    def _first_key(self, data: bytes, at: int) -> int:
        at = _space(data, at)
        if at < len(data) and data[at] == 0x7D:
            self._next = self._end
            return at + 1
        return self._before_key(data, at)

    def _before_key(self, data: bytes, at: int) -> int:
        at = _space(data, at)
        if at < len(data):
            if data[at] != _QUOTE:
                return self._unexpected(data, at)
            self._steps += _STEPS_PER_MEMBER
            if self._steps > MAX_STEPS:
                self._fail("too complex", self._position + at)
                return len(data)
            self._quoted = True
            self._key = b""
            self._next = self._in_key
        return at + 1

    def _in_key(self, data: bytes, at: int) -> int:
        end = self._skip_string(data, at)
        self._key += data[at : min(end, at + _KEY_BYTES)][: _KEY_BYTES + 1 - len(self._key)]
        if not self._quoted:
            self._name = _key_text(self._key)
            self._next = self._colon
        return end

    def _colon(self, data: bytes, at: int) -> int:
        at = _space(data, at)
        if at < len(data):
            if data[at] != 0x3A:
                return self._unexpected(data, at)
            self._next = self._before_value
        return at + 1

    def _before_value(self, data: bytes, at: int) -> int:
        at = _space(data, at)
        if at == len(data):
            return at
        self._value.clear()
        self._value_start = self._position + at
        self._value_size = 0
        self._digest = None
        self._array = False
        self._elements = True
        self._commas = 0
        self._depth = 0
        first = data[at]
        if first == _QUOTE:
            self._quoted = True
            self._next = self._in_string
        elif first in b"[{":
            self._array = first == 0x5B
            self._elements = not self._array
            self._depth = 1
            between = self._array and self._name == self._elements_of
            self._next = self._between_elements if between else self._in_nested
        elif first in b",]}:":
            return self._unexpected(data, at)
        else:
            self._elements = first != 0x6E
            self._next = self._in_literal
            return at
        self._keep(data, at, at + 1)
        return at + 1

    def _in_literal(self, data: bytes, at: int) -> int:
        end = _match_end(_LITERAL, data, at)
        self._keep(data, at, end)
        if end < len(data):
            self._end_value()
        return end

    def _in_string(self, data: bytes, at: int) -> int:
        end = self._skip_string(data, at)
        self._keep(data, at, end)
        if not self._quoted:
            self._end_value()
        return end

    def _in_nested(self, data: bytes, start: int) -> int:
        at, size = start, len(data)
        while at < size:
            if self._quoted:
                at = self._skip_string(data, at)
                continue
            self._steps += 1
            if self._steps > MAX_STEPS:
                self._fail("too complex", self._position + at)
                return size
            at = self._skip_flat(data, at)
            if at == size:
                break
            token = data[at]
            if token == _QUOTE:
                self._quoted = self._elements = True
                at += 1
            elif token in b"[{":
                end = _match_end(_OPENING, data, at)
                self._depth += end - at
                self._elements = True
                at = end
            else:
                end = min(_match_end(_CLOSING, data, at), at + self._depth)
                self._depth -= end - at
                at = end
                if self._depth == 0:
                    self._keep(data, start, at)
                    self._end_value()
                    return at
        self._keep(data, start, at)
        return at

    def _between_elements(self, data: bytes, start: int) -> int:
        at = _space(data, start)
        if at < len(data) and data[at] == 0x2C:
            self._commas += 1
            at = _space(data, at + 1)
        self._keep(data, start, at)
        if at < len(data):
            self._elements = self._elements or data[at] != 0x5D
            if data[at] == 0x7B and self._kept < HELD_BYTES and len(self._summary.elements) < MAX_MEMBERS:
                self._element = Scanner(frozenset())
                self._next = self._in_element
            else:
                self._next = self._in_nested
        return at

    def _in_element(self, data: bytes, start: int) -> int:
        element = self._element
        assert element is not None
        at = element.scan_object(data, start, self._position)
        self._keep(data, start, at)
        self._steps += element.take_steps()
        if element.failed or self._steps > MAX_STEPS:
            kind, position = element.finish().error or ("too complex", self._position + at)
            self._fail(kind, position)
        elif element.ended:
            self._kept += element.kept + _ELEMENT_BYTES
            self._summary.elements.append(element.finish())
            self._next = self._between_elements
        return at

    def _skip_flat(self, data: bytes, at: int) -> int:
        if self._depth > 1 or not self._array:
            return _match_end(_SMALL_VALUES, data, at)
        end = _match_end(_NO_BRACKETS, data, at)
        self._commas += data.count(b",", at, end)
        if not self._elements:
            self._elements = _space(data, at) < end
        return end

    def _skip_string(self, data: bytes, at: int) -> int:
        """The position after the closing quote, or the end of this piece while `_quoted` stays true."""
        if self._escaped:
            self._escaped = False
            at += 1
        close = data.find(b'"', at)
        if close < 0 and not data.endswith(b"\\"):
            return len(data)
        if close < 0 or (close > at and data[close - 1] == _BACKSLASH):
            close = _match_end(_STRING, data, at)
            if close == len(data):
                return close
            if data[close] == _BACKSLASH:
                self._escaped = True
                return len(data)
        self._quoted = False
        return close + 1

    def _keep(self, data: bytes, start: int, end: int) -> None:
        self._value_size += end - start
        if self._name in self._content:
            return
        if self._digest is not None:
            self._digest.update(memoryview(data)[start:end])
            return
        self._value += memoryview(data)[start:end]
        if len(self._value) > MEMBER_BYTES:
            self._digest = hashlib.sha256(self._value)
            self._value.clear()

    def _end_value(self) -> None:
        self._next = self._after_value
        name, summary = self._name, self._summary
        self._members += 1
        if self._members > MAX_MEMBERS:
            self._fail("too many members", self._value_start)
            return
        if name in summary.values:
            summary.duplicate_keys = True
            self._kept -= len(summary.raw.pop(name, b""))
        if name in self._content:
            count = (self._commas + 1 if self._array else 1) if self._elements else 0
            summary.values[name] = Size(count, self._value_size)
            self.content_positions[name] = (self._value_start, self._value_size)
        else:
            summary.values[name] = self._decoded(name)

    def _decoded(self, name: str) -> Any:
        if self._digest is not None:
            return Digest(self._value_size, self._digest.hexdigest())
        raw = bytes(self._value)
        if self._kept + len(raw) <= HELD_BYTES:
            try:
                value = _decode_member(raw)
            except Malformed as problem:
                if self._summary.error is None:
                    self._summary.error = (problem.kind, self._value_start + problem.at)
            else:
                self._kept += len(raw)
                self._summary.raw[name] = raw
                return value
        return Digest(len(raw), hashlib.sha256(raw).hexdigest())

    def _after_value(self, data: bytes, at: int) -> int:
        at = _space(data, at)
        if at < len(data):
            if data[at] == 0x2C:
                self._next = self._before_key
            elif data[at] == 0x7D:
                self._next = self._end
            else:
                return self._unexpected(data, at)
        return at + 1

    def _end(self, data: bytes, at: int) -> int:
        at = _space(data, at)
        if at < len(data):
            self._fail("data after the end", self._position + at)
        return at


def _space(data: bytes, at: int) -> int:
    return _match_end(_SPACE, data, at)


def _match_end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    return at if found is None else found.end()


def _key_text(key: bytes) -> str:
    r"""A key from what `_in_key` kept of it, its closing quote included when the key was short enough."""
    try:
        name = decode(b'"' + key if key.endswith(b'"') else b'"' + key + b'"')
    except Malformed:
        name = key.removesuffix(b'"').decode("utf-8", "replace")
    return name if isinstance(name, str) else ""
