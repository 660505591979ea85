"""Server-sent events from bytes, by the WHATWG specification (HTML, section 9.2.6), cut anywhere.

Bytes go in as they arrive and whole events come out, the same ones however the bytes were cut. Lines end at LF,
CR or CRLF and nowhere else: U+2028 inside JSON is text. `[DONE]` is data like any other.

Where the specification would drop data this keeps it and says so: an event that the end of the body cut off
before its blank line is `unterminated`, and of an event longer than the limit the beginning of its data and the
`tail` are kept, marked `truncated`. Memory stays within twice the limit and time is linear, also for one byte at
a time.
"""

from __future__ import annotations

import msgspec

LIMIT = 256 * 1024
"""Bytes of data kept of one event, unless a parser is given its own limit."""

TAIL = 8 * 1024
"""Bytes kept of the end of an event that is longer: servers put totals last."""

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event. `event` is its type, "message" unless the server named one."""

    data: bytes
    event: str = "message"
    truncated: bool = False
    unterminated: bool = False
    tail: bytes = b""


class Parser:
    """One body's events: `feed` its bytes in order, then `finish`."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._begun = False
        self._after_cr = False
        self._line = bytearray()
        self._event = ""
        self._data: list[bytes] = []
        self._data_size = 0
        self._truncated = False
        self._dropped = b""
        self._tail = b""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete."""
        newline = data.find(b"\n")
        if newline < 0 and self._begun and not self._after_cr and b"\r" not in data:
            self._hold(data)
            return []
        plain = self.plain(data)
        if plain is not None:
            return [ServerSentEvent(line) for line in plain.split(b"\n")]
        events: list[ServerSentEvent] = []
        lines = self._lines(data)
        last = lines.pop()
        for line in lines:
            if line:
                self._field(line)
            elif self._data or self._event:
                self._dispatch(events)
        self._hold(last)
        return events

    def plain(self, data: bytes) -> bytes | None:
        r"""The data of these events, one a line, if they are whole and each is just `data: DATA\n\n`.

        That is what model servers send; it lets a caller decode a batch of events at once. Anything else gives
        None and changes nothing: `feed` the same bytes then.
        """
        if not data.startswith(b"data: ") or not data.endswith(b"\n\n") or b"\r" in data:
            return None
        if self._line or self._data or self._event or len(data) > self._limit:
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
        events: list[ServerSentEvent] = []
        if self._line:
            self._field(bytes(self._line))
            self._line.clear()
        self._dispatch(events, unterminated=True)
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
        if self._line and len(lines) > 1:
            self._hold(lines[0])
            lines[0] = bytes(self._line)
            self._line.clear()
        return lines

    def _hold(self, part: bytes) -> None:
        # Eight bytes more than the limit, so that "data: " and a byte too many are always seen.
        room = self._limit + 8 - len(self._line)
        self._line += part[:room]
        if len(part) > room:
            self._dropped = (self._dropped + part[room:][-TAIL:])[-TAIL:]

    def _field(self, line: bytes) -> None:
        dropped, self._dropped = self._dropped, b""
        if line.startswith(b"data: "):
            self._add(line[6:], dropped)
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._add(value.removeprefix(b" "), dropped)
        elif name == b"event":
            self._event = value.removeprefix(b" ")[:256].decode("utf-8", "replace")

    def _add(self, value: bytes, dropped: bytes) -> None:
        room = max(self._limit - self._data_size, 0)
        if len(value) > room:
            self._tail = (self._tail + value[room:][-TAIL:] + dropped)[-TAIL:]
            value = value[:room]
            self._truncated = True
            if not room:
                return
        self._data.append(value)
        self._data_size += len(value) + 1

    def _dispatch(self, events: list[ServerSentEvent], *, unterminated: bool = False) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            events.append(ServerSentEvent(data, self._event or "message", self._truncated, unterminated, self._tail))
            self._data = []
        self._data_size = 0
        self._truncated = False
        self._tail = b""
        self._event = ""
