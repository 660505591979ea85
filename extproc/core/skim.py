"""A JSON text that is too long to be held, with its content left out and its small members kept.

Servers put what matters beside what is long: a usage and a finish reason beside an image, an id and a model beside
instructions of megabytes. Of the text that is fed in pieces `result` is a smaller one of the same form: long strings
are shortened and end in `SHORTENED`, and large arrays and objects deep inside are empty. A number, a short string or
a small object is in it wherever it stood.

Nothing is checked: what is no JSON gives no JSON. Memory stays within `MAX_BYTES` and time is linear.
"""

from __future__ import annotations

import re

MAX_BYTES = 256 * 1024
"""Bytes of the result. A text that does not fit even so, for it has thousands of members, is cut there."""

MAX_STRING = 512
SHORTENED = "\u2026"
"""The last character of a string that was longer."""

_MAX_NESTED = (MAX_BYTES, MAX_BYTES, 64 * 1024, 16 * 1024, 4 * 1024)
"""Bytes of an array or object by its depth; deeper ones as the last. Choices and items stand at the depth of 2."""

_MAX_DEPTH = 200
_QUOTE = 0x22
_NO_STRUCTURE = re.compile(rb'[^"\[\]{}]*+')
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_WHOLE_CHARACTERS = re.compile(rb'(?:[^"\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+', re.DOTALL)


class Skimmer:
    """One text: `feed` its bytes in order, then take the `result`."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._full = False
        self._quoted = False
        self._escaped = False
        self._string_start = 0
        self._shortened = False
        self._open: list[int] = []
        self._left_out = 0
        """Brackets open within an array or object that is left out; it is the last of `_open`."""

    @property
    def result(self) -> bytes:
        """What was kept of the text so far."""
        return bytes(self._out)

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        at = 0
        while at < len(data) and not self._full:
            at = self._in_string(data, at) if self._quoted else self._outside(data, at)

    def _outside(self, data: bytes, start: int) -> int:
        found = _NO_STRUCTURE.match(data, start)
        at = start if found is None else found.end()
        self._keep(data, start, at)
        if at == len(data) or self._full:
            return len(data)
        token = data[at]
        if token == _QUOTE:
            self._quoted, self._shortened = True, False
            self._string_start = len(self._out)
            self._keep(data, at, at + 1)
        elif token in b"[{":
            self._begin(token)
        else:
            self._end(token)
        return at + 1

    def _in_string(self, data: bytes, start: int) -> int:
        at = start
        if self._escaped:
            self._escaped = False
            at += 1
        found = _STRING.match(data, at)
        at = at if found is None else found.end()
        if at < len(data) and data[at] != _QUOTE:
            self._escaped = True  # the last byte of this piece is a backslash
            at += 1
        if not self._left_out and not self._shortened:
            self._out += data[start : min(at, start + MAX_STRING + 16)]
            if len(self._out) - self._string_start > MAX_STRING:
                self._shorten()
        if at < len(data):
            self._quoted = False
            self._keep(data, at, at + 1)
            at += 1
        return at

    def _shorten(self) -> None:
        start = self._string_start + 1
        kept = bytes(self._out[start : start + MAX_STRING])
        found = _WHOLE_CHARACTERS.match(kept)
        whole = kept if found is None else found.group()
        # Half a character of UTF-8 at its end is dropped.
        self._out[start:] = whole.decode("utf-8", "ignore").encode() + SHORTENED.encode()
        self._shortened = True

    def _keep(self, data: bytes, start: int, end: int) -> None:
        if self._left_out or start == end:
            return
        room = MAX_BYTES - len(self._out)
        self._out += data[start : min(end, start + room)]
        depth = len(self._open) - 1
        if depth >= 2 and len(self._out) - self._open[-1] > _MAX_NESTED[min(depth, len(_MAX_NESTED) - 1)]:
            del self._out[self._open[-1] + 1 :]
            self._left_out = 1
        elif len(self._out) >= MAX_BYTES:
            self._full = True

    def _begin(self, token: int) -> None:
        if self._left_out:
            self._left_out += 1
        elif len(self._open) == _MAX_DEPTH or len(self._out) >= MAX_BYTES:
            self._full = True
        else:
            self._open.append(len(self._out))
            self._out.append(token)

    def _end(self, token: int) -> None:
        if self._left_out:
            self._left_out -= 1
        if not self._left_out:
            self._out.append(token)
            if self._open:
                self._open.pop()
            else:
                self._full = True  # it is no JSON
