"""Content codings undone piece by piece, so that a compressed body can be read while it passes.

Bytes go in as they arrive, decoded bytes come out. What is stored is always the raw body; this is only a view
of it, so nothing here raises: a body that does not decode sets `error`, and what came out before stays valid.

Output is bounded. A stage stops at `max_bytes`, or at `max_ratio` times the input once it has made more than
`RATIO_FLOOR`; no single step makes more than a few megabytes, whatever the input. Both hold for each stage of
a stacked coding ("gzip, br"), so a bomb inside a bomb is stopped by the inner stage.

Servers send this header with what is no coding (`none`, `utf-8`) and with bodies that are not coded. So what means
nothing is left out, and a body that begins as text is read as it is, whatever the header says: coded bytes are soon
no text.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import brotli  # type: ignore[import-untyped]  # it comes without types
import zstandard

MAX_BYTES = 64 * 1024 * 1024
MAX_RATIO = 200
RATIO_FLOOR = 1024 * 1024
"""Short bodies may be arbitrarily repetitive: a ratio says nothing about them."""

_STEP = 64 * 1024
_MAX_STAGES = 3
_MAX_MEMBERS = 1000
"""Members of one gzip body or frames of one zstd body. Servers that flush by member stay far below."""

_ZSTD_WINDOW = 8 * 1024 * 1024
"""The largest window that RFC 8878 section 3.1.1.1.2 asks a decoder to support."""

_ZSTD_SLICE = 64
"""Four bytes of zstd can say "128 KiB of this byte", and a decompressor cannot be told to stop in between."""

_TEXT_BYTES = 24
"""So many bytes that are all text are text: of coded ones a third are no characters."""

_SHORT_TEXT = re.compile(rb"""\s*(?:[{\["]|data:|event:|:)""")
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_NO_CODINGS = frozenset(
    {
        *("", "identity", "none", "null", "undefined", "false", "no", "off", "raw", "plain", "text", "text/plain"),
        *("utf-8", "utf8", "utf-16", "ascii", "us-ascii", "iso-8859-1", "latin1", "windows-1252"),
        *("binary", "8bit", "7bit", "chunked", "application/json", "text/event-stream"),
    }
)
"""What servers put where a coding belongs: no coding at all, a character set, a transfer encoding of mail."""

_TRAILING = "data after the end"
_CUT_OFF = "cut off"


def of_headers(headers: Iterable[Any]) -> str | None:
    """The coding of a body by its header list, `[name, value]` each: what several such headers say together."""
    values = [field[1] for field in headers if field[0] == "content-encoding" and isinstance(field[1], str)]
    return ", ".join(values) or None


def names_of(content_encoding: str | None) -> list[str]:
    """The codings that a header names, in the order in which they were applied; what means nothing is left out."""
    if not content_encoding:
        return []
    names = (name.strip().strip("\"'").lower() for name in content_encoding.split(","))
    return [name for name in names if name not in _NO_CODINGS]


class Decoder:
    """Undoes the codings of one `content-encoding` header, in order, over one body.

    `error` says what was wrong and where in the coded body, or is None; `truncated` says that the output is not
    the whole content, because the input was cut off, was not valid, or would have exceeded a cap. `gave_up` says
    that it is so because of us: a coding that we do not know, or a cap.
    """

    def __init__(self, content_encoding: str | None, max_bytes: int = MAX_BYTES, max_ratio: float = MAX_RATIO) -> None:
        self.error: str | None = None
        self.truncated = False
        self.gave_up = False
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._bytes_in = 0
        self._unknown: str | None = None
        names = names_of(content_encoding)
        self._stages = self._build(names) if names else []
        self._head: bytes | None = b"" if names else None
        """The first bytes, while they may yet be text."""

    def feed(self, data: bytes) -> bytes:
        """The decoded bytes that this input completes; without a coding, the same object."""
        if self._head is None and not self._stages and self.error is None:
            return data
        return b"".join(self.pieces(data))

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """As `feed`, but in pieces of a few megabytes at the very most and 64 KiB as a rule."""
        if self.error is not None:
            return
        if self._head is not None and data:
            self._head += data
            is_text = _is_text(self._head)
            if is_text is None:
                return
            data, self._head = self._head, None
            if is_text:
                self._stages = []
            elif self._unknown is not None:
                self._give_up(self._unknown)
                return
        if not self._stages:
            if data:
                yield data
            return
        self._bytes_in += len(data)
        yield from self._decode(0, data)

    def finish(self) -> bytes:
        """The input is complete: what was held back of a short one. Every decoder has given all it had."""
        decoded = self._finish_short() if self._head else b""
        if self.error is None and self._bytes_in and not all(stage.complete for stage in self._stages):
            cut = next(stage for stage in self._stages if not stage.complete)
            self._fail(cut.name, _CUT_OFF)
        return decoded

    def _finish_short(self) -> bytes:
        head, self._head = self._head or b"", None
        is_text = len(head) >= 8 and _SHORT_TEXT.match(head) is not None
        if self._unknown is not None:
            if is_text:
                return head
            self._give_up(self._unknown)
            return b""
        self._bytes_in = len(head)
        decoded = b"".join(self._decode(0, head))
        if is_text and (self.error is not None or not all(stage.complete for stage in self._stages)):
            self.error, self.truncated, self._stages = None, False, []
            return head
        return decoded

    def _build(self, names: list[str]) -> list[_Stage]:
        unknown = next((name for name in names if name not in _CODINGS), None)
        if unknown is not None:
            self._unknown = f"unknown content-encoding {unknown[:40]!a}"
        elif len(names) > _MAX_STAGES:
            self._unknown = f"more than {_MAX_STAGES} content-encodings"
        return [] if self._unknown else [_Stage(name, _CODINGS[name]) for name in reversed(names)]

    def _give_up(self, why: str) -> None:
        self.error = why
        self.truncated = self.gave_up = True

    def _decode(self, index: int, data: bytes) -> Iterator[bytes]:
        if index == len(self._stages):
            yield data
            return
        stage = self._stages[index]
        try:
            for piece in stage.inflater.inflate(data):
                room = self._room(stage, len(piece))
                stage.bytes_out += len(piece)
                yield from self._decode(index + 1, piece[:room])
                if self.error is None and room < len(piece):
                    self._fail(stage.name, f"more than {stage.bytes_out - len(piece) + room} bytes decoded")
                    self.gave_up = True
                if self.error is not None:
                    return
        except _Damaged as problem:
            self._fail(stage.name, str(problem))
        except (zlib.error, brotli.error, zstandard.ZstdError, MemoryError):
            self._fail(stage.name, "not valid")

    def _room(self, stage: _Stage, size: int) -> int:
        by_ratio = max(RATIO_FLOOR, int(self._max_ratio * self._bytes_in))
        return max(0, min(size, min(self._max_bytes, by_ratio) - stage.bytes_out))

    def _fail(self, name: str, problem: str) -> None:
        self.error = f"{name}: {problem} at byte {self._bytes_in}"
        self.truncated = True


def _is_text(head: bytes) -> bool | None:
    """Whether bytes are text, by their first ones; None while that cannot be told."""
    if not may_be_text(head):
        return False
    return True if len(head) >= _TEXT_BYTES else None


def may_be_text(head: bytes) -> bool:
    """Whether the first bytes of a body are UTF-8 without control characters, but perhaps for one that is cut."""
    if _NO_TEXT.search(head) is not None:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


class _Damaged(Exception):
    """The coded data cannot be what it says it is."""


class _Inflater(Protocol):
    def inflate(self, data: bytes) -> Iterator[bytes]: ...

    @property
    def complete(self) -> bool: ...


class _Stage:
    def __init__(self, name: str, inflater: Callable[[], _Inflater]) -> None:
        self.name = name
        self.inflater = inflater()
        self.bytes_out = 0

    @property
    def complete(self) -> bool:
        return self.inflater.complete


def _inflated(stream: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    piece = b""
    while not stream.eof and (data or len(piece) == _STEP):
        # A full piece may leave output behind even when no input is left to ask for it.
        piece = stream.decompress(data, _STEP)
        data = stream.unconsumed_tail
        if piece:
            yield piece


class _Gzip:
    """gzip of any number of members; zero padding after the last one is tolerated, as gzip(1) does."""

    def __init__(self) -> None:
        self._member: zlib._Decompress | None = None
        self._members = 0

    @property
    def complete(self) -> bool:
        return self._member is None

    def inflate(self, data: bytes) -> Iterator[bytes]:
        # In slices, because zlib copies the unused rest after each step and each member.
        for at in range(0, len(data), 4096):
            rest = data[at : at + 4096]
            while rest:
                if self._member is None:
                    rest = self._begin(rest)
                if self._member is None:
                    break
                yield from _inflated(self._member, rest)
                rest = self._member.unused_data
                if self._member.eof:
                    self._member = None

    def _begin(self, rest: bytes) -> bytes:
        if self._members:
            rest = rest.lstrip(b"\0")
            if not rest:
                return rest
            if rest[0] != 0x1F:
                raise _Damaged(_TRAILING)
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise _Damaged(f"more than {_MAX_MEMBERS} members")
        self._member = zlib.decompressobj(wbits=31)
        return rest


class _Deflate:
    """`deflate` in both forms that servers send: zlib (RFC 9110) and the raw stream, told apart by two bytes."""

    def __init__(self) -> None:
        self._head = b""
        self._stream: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        return self._stream is not None and self._stream.eof

    def inflate(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            zlib_header = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._stream = zlib.decompressobj(wbits=15 if zlib_header else -15)
        if self.complete:
            raise _Damaged(_TRAILING)
        for at in range(0, len(data), 4096):
            yield from _inflated(self._stream, data[at : at + 4096])
            if self._stream.eof:
                if at + 4096 < len(data) or self._stream.unused_data:
                    raise _Damaged(_TRAILING)
                return


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    @property
    def complete(self) -> bool:
        return bool(self._stream.is_finished())

    def inflate(self, data: bytes) -> Iterator[bytes]:
        if self.complete:
            raise _Damaged(_TRAILING)
        piece = self._stream.process(data, output_buffer_limit=_STEP)
        if piece:
            yield piece
        while not self._stream.can_accept_more_data():
            piece = self._stream.process(b"", output_buffer_limit=_STEP)
            if not piece:
                return
            yield piece


class _Zstd:
    """zstd of any number of frames."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._frames = 0

    @property
    def complete(self) -> bool:
        return self._frame is None

    def inflate(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _ZSTD_SLICE):
            rest = data[at : at + _ZSTD_SLICE]
            while rest:
                if self._frame is None:
                    self._frames += 1
                    if self._frames > _MAX_MEMBERS:
                        raise _Damaged(f"more than {_MAX_MEMBERS} frames")
                    self._frame = self._decompressor.decompressobj(write_size=_STEP)
                piece = self._frame.decompress(rest)
                rest = b""
                if self._frame.eof:
                    rest = self._frame.unused_data
                    self._frame = None
                if piece:
                    yield piece


_CODINGS: dict[str, Callable[[], _Inflater]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "x-deflate": _Deflate,
    "br": _Brotli,
    "brotli": _Brotli,
    "zstd": _Zstd,
}
