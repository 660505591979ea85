"""Server-sent events from bytes, by the WHATWG specification (HTML, section 9.2.6), cut anywhere.

Bytes go in as they arrive and whole events come out, the same ones however the bytes were cut. Lines end at LF,
CR or CRLF and nowhere else: U+2028 inside JSON is text. `[DONE]` is data like any other.

Where the specification would drop something that a model server meant, this keeps it and says so:

* an event that the end of the body cut off before its blank line is `unterminated`;
* of an event longer than the limit the beginning of its data is kept, `truncated`, and as `skimmed` its JSON with
  the content left out (see `skim`);
* a field named `error` is an event of that name, and an event named `error` is one without data too;
* what is no field at all, a JSON document or a gateway's page or a sentence, is an event `outside` of the format:
  JSON that stands on one line as soon as the line ends, other text when a field follows or the body ends.

Memory stays within a few times the limit and time is linear, also for one byte at a time.
"""

from __future__ import annotations

import re

import msgspec

from extproc.core.skim import Skimmer

LIMIT = 256 * 1024
"""Bytes of data kept of one event, unless a parser is given its own limit."""

_BOM = b"\xef\xbb\xbf"
_ROOM_FOR_A_NAME = 8
"""So many bytes more than the limit are held of a line that "data: " and a byte too many are always seen."""

_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})
_JSON_LINE = ((b"{", b"}"), (b"[", b"]"))
_TWO_WORDS = re.compile(rb"\S[ \t]+\S")


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event. `event` is its type, "message" unless the server named one."""

    data: bytes
    event: str = "message"
    truncated: bool = False
    unterminated: bool = False
    outside: bool = False
    skimmed: bytes = b""


class _Text:
    """Lines that belong together, joined by newlines: held up to the limit, skimmed beyond it."""

    __slots__ = ("_limit", "_parts", "_size", "_skimmer", "lines")

    def __init__(self, limit: int) -> None:
        self.lines = 0
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._skimmer: Skimmer | None = None

    def line(self, value: bytes) -> None:
        """A new line, or the beginning of one."""
        if self.lines:
            self.more(b"\n")
        self.lines += 1
        self.more(value)

    def more(self, part: bytes) -> None:
        """What goes on in the same line."""
        if self._skimmer is not None:
            self._skimmer.feed(part)
        elif self._size + len(part) <= self._limit:
            self._parts.append(part)
            self._size += len(part)
        else:
            held = b"".join(self._parts)
            self._skimmer = Skimmer()
            self._skimmer.feed(held)
            self._skimmer.feed(part)
            self._parts = [held, part[: self._limit - len(held)]]

    def take(self, name: str, *, unterminated: bool = False, outside: bool = False) -> ServerSentEvent:
        """All of it as an event; nothing is left."""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        skimmer = self._skimmer
        self.lines = self._size = 0
        self._parts, self._skimmer = [], None
        if skimmer is None:
            return ServerSentEvent(data, name, unterminated=unterminated, outside=outside)
        return ServerSentEvent(data, name, True, unterminated, outside, skimmer.result)


class Parser:
    """One body's events: `feed` its bytes in order, then `finish`."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.ended_inside = False
        """After `finish`: the body ended within a line that is no event yet, or with a name without its data."""
        self._limit = limit
        self._begun = False
        self._after_cr = False
        self._line = bytearray()
        self._long: _Text | None = None
        """What the line belongs to that has outgrown `_line`."""
        self._is_long = False
        self._first = self._last = b""
        """The long line's first and last byte that are no space."""
        self._event = ""
        self._data = _Text(limit)
        self._outside = _Text(limit)
        self._events: list[ServerSentEvent] = []

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete."""
        newline = data.find(b"\n")
        if newline < 0 and self._begun and not self._after_cr and b"\r" not in data:
            self._hold(data)
            return []
        plain = self.plain(data)
        if plain is not None:
            return [ServerSentEvent(line) for line in plain.split(b"\n")]
        lines = self._lines(data)
        last = lines.pop()
        for line in lines:
            if line or self._is_long:
                self._field(line)
            elif self._data.lines or self._event:
                self._dispatch()
        self._hold(last)
        return self._take_events()

    def plain(self, data: bytes) -> bytes | None:
        r"""The data of these events, one a line, if they are whole and each is just `data: DATA\n\n`.

        That is what model servers send; it lets a caller decode a batch of events at once. Anything else gives
        None and changes nothing: `feed` the same bytes then.
        """
        if not data.startswith(b"data: ") or not data.endswith(b"\n\n") or b"\r" in data:
            return None
        if self._line or self._is_long or self._event or self._data.lines or self._outside.lines:
            return None
        if len(data) > self._limit:
            return None
        lines = data[6:-2].replace(b"\n\ndata: ", b"\n")
        # Each event ends in two newlines, and has no third one inside.
        if data.count(b"\n") != 2 * lines.count(b"\n") + 2:
            return None
        self._begun = True
        self._after_cr = False
        return lines

    def finish(self) -> list[ServerSentEvent]:
        """The body is over: the event that was still open, if any."""
        if self._line or self._is_long:
            line = bytes(self._line)
            self._line.clear()
            self.ended_inside = self._field(line, ended=False) is None and not line.startswith(b":")
        self.ended_inside |= bool(self._event) and not self._data.lines
        self._dispatch(unterminated=True)
        self._end_outside(unterminated=True)
        return self._take_events()

    def _take_events(self) -> list[ServerSentEvent]:
        events, self._events = self._events, []
        return events

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that end in this piece, and the unended rest."""
        if not self._begun:
            data = bytes(self._line) + data
            self._line.clear()
            if len(data) < len(_BOM) and _BOM.startswith(data):
                return [data]
            self._begun = True
            data = data.removeprefix(_BOM)
        if b"\r" in data or self._after_cr:
            # A CR ends its line at once; the LF that may follow belongs to it, also in the next piece.
            if self._after_cr and data:
                data = data.removeprefix(b"\n")
                self._after_cr = False
            self._after_cr = data.endswith(b"\r") or (self._after_cr and not data)
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        if (self._line or self._is_long) and len(lines) > 1:
            self._hold(lines[0])
            lines[0] = bytes(self._line)
            self._line.clear()
        return lines

    def _hold(self, part: bytes) -> None:
        if self._is_long:
            if self._long is not None:
                self._long.more(part)
                self._last = part.rstrip()[-1:] or self._last
            return
        room = self._limit + _ROOM_FOR_A_NAME - len(self._line)
        if len(part) <= room:
            self._line += part
            return
        line = bytes(self._line) + part
        self._is_long = True
        self._long = self._begin_line(line)
        self._first, self._last = _edges(line)
        self._line.clear()

    def _begin_line(self, line: bytes) -> _Text | None:
        """Add a line, or as much as there is of it, to what it belongs to."""
        if line.startswith(b"data: "):
            if self._outside.lines:
                self._end_outside()
            self._data.line(line[6:])
            return self._data
        name, _, value = line.partition(b":")
        if name in _FIELDS or not name:
            self._end_outside()
            if name == b"data":
                self._data.line(value.removeprefix(b" "))
                return self._data
            if name == b"event":
                self._event = value.removeprefix(b" ")[:256].decode("utf-8", "replace")
            return None
        if name.lower() == b"error":
            self._end_outside()
            if self._data.lines:
                self._dispatch()
            self._event = "error"
            self._data.line(value.removeprefix(b" "))
            return self._data
        if self._outside.lines or _is_no_field(line, name):
            self._outside.line(line)
            return self._outside
        return None

    def _field(self, line: bytes, *, ended: bool = True) -> _Text | None:
        """The end of a line, and what it belonged to."""
        if self._is_long:
            belongs_to, self._is_long, self._long = self._long, False, None
            edges = self._first, self._last
        else:
            belongs_to = self._begin_line(line)
            edges = _edges(line) if belongs_to is self._outside else (b"", b"")
        if ended and belongs_to is self._outside and self._outside.lines == 1 and edges in _JSON_LINE:
            self._end_outside()
        return belongs_to

    def _dispatch(self, *, unterminated: bool = False) -> None:
        name = self._event
        if self._data.lines:
            self._events.append(self._data.take(name or "message", unterminated=unterminated))
        elif name == "error":
            self._events.append(ServerSentEvent(b"", name, unterminated=unterminated))
        self._event = ""

    def _end_outside(self, *, unterminated: bool = False) -> None:
        if self._outside.lines:
            self._events.append(self._outside.take("", unterminated=unterminated, outside=True))


def _is_no_field(line: bytes, name: bytes) -> bool:
    """Whether a line is JSON, markup or a sentence. A name in one word is a field that nobody knows."""
    return line[:64].lstrip()[:1] in (b"{", b"[", b"<", b'"') or _TWO_WORDS.search(name[:64]) is not None


def _edges(line: bytes) -> tuple[bytes, bytes]:
    return line[:64].lstrip()[:1], line.rstrip()[-1:]
