"""Compressed segments: zstd frames of about 1 MiB of lines, and a table of them at the end.

    frames   each of whole lines, with its size in its header and a checksum
    table    a skippable frame, as zstd's seekable format has it: of each frame its compressed and its uncompressed
             size, four bytes each, little endian; the number of frames, a byte of flags (0), the format's magic number

So a line is read by decompressing its frame alone, and `zstd -d` and every other reader see nothing but the lines.
A file of an earlier version is one frame that does not state its size, and nothing else. Reading to the end tells
whether all of a file is there and as it was written: to a frame that states its size there has to be a table, the
table has to be that of the frames before it, and nothing may follow.
"""

from __future__ import annotations

import io
import os
import struct
from typing import Any, BinaryIO, Final

import zstandard

from extproc.core.record import LONGEST_LINE

FRAME_BYTES: Final = 1024 * 1024
_LEVEL: Final = 3
_PIECE: Final = 32 * 1024
_BUFFER: Final = 256 * 1024

_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC: Final = b"\x5e\x2a\x4d\x18"
_SEEKABLE_MAGIC: Final = b"\xb1\xea\x92\x8f"
_HEADER_BYTES: Final = 18
"""The longest header of a zstd frame."""
_ENTRY: Final = struct.Struct("<II")
_END: Final = struct.Struct("<IB4s")
_NO_FLAGS: Final = 0
_START_BYTES: Final = 8
_MOST_FRAMES: Final = 1_000_000

Sizes = list[tuple[int, int]]
"""Of each frame, compressed and uncompressed."""


def compress(source: BinaryIO, target: BinaryIO) -> None:
    """Write the lines of `source` as frames with their table."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
    sizes: Sizes = []
    while lines := source.read(FRAME_BYTES):
        if not lines.endswith(b"\n"):
            lines += source.readline(LONGEST_LINE)
        frame = compressor.compress(lines)
        target.write(frame)
        sizes.append((len(frame), len(lines)))
    target.write(_table(sizes))


def decompressed(file: BinaryIO, offset: int = 0) -> BinaryIO:
    """The bytes of a compressed segment from `offset` on. Closing the result closes the file.

    Where there is no table to be relied on, what comes before is decompressed as well, and passed over. Reading
    raises zstandard.ZstdError for what is damaged or cut short.
    """
    before = _frames_before(file, offset) if offset else []
    file.seek(sum(compressed for compressed, _ in before))
    return io.BufferedReader(_Frames(file, before, offset - sum(size for _, size in before)), _BUFFER)


def start_of_last(file: BinaryIO) -> int:
    """Where the lines of the last frame begin, in the uncompressed bytes; 0 where no table tells."""
    return sum(size for _, size in _read_table(file)[:-1])


class _Frames(io.RawIOBase):
    """Frames to the very end: a file that was cut short is damaged even when no line of it is missing."""

    def __init__(self, file: BinaryIO, before: Sizes, skip: int) -> None:
        self._file = file
        self._sizes = list(before)
        """Of the frames that are behind us: what the table has to say."""
        self._skip = skip
        self._input = b""
        self._ready = b""
        self._frame: Any = None
        self._consumed = self._given = 0
        """Bytes of the frame under way, compressed and uncompressed."""
        self._has_table = bool(before)
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            if self._frame is None:
                self._begin()
            else:
                self._go_on()
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def _begin(self) -> None:
        """A frame, the table or the end."""
        start = self._look(_HEADER_BYTES)
        if self._sizes and not self._has_table:
            self._expect_end("something follows the frame")
        elif start.startswith(_FRAME_MAGIC):
            states_size = _stated_size(start) is not None
            if self._sizes and not states_size:
                raise zstandard.ZstdError("a frame does not state its size")
            self._has_table = states_size
            self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._consumed = self._given = 0
        elif start.startswith(_SKIPPABLE_MAGIC):
            self._check_table()
        else:
            raise zstandard.ZstdError("this is no frame" if len(start) >= len(_FRAME_MAGIC) else "the file is cut off")

    def _go_on(self) -> None:
        data = self._look(1)
        if not data:
            raise zstandard.ZstdError("the frame is cut off")
        self._input = b""
        ready = self._frame.decompress(data)
        self._consumed += len(data)
        self._given += len(ready)
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._sizes.append((self._consumed - len(self._input), self._given))
            self._frame = None
        passed = min(self._skip, len(ready))
        self._skip -= passed
        self._ready = ready[passed:]

    def _check_table(self) -> None:
        expected = _table(self._sizes)
        found = self._look(len(expected))[: len(expected)]
        if found != expected:
            raise zstandard.ZstdError(
                f"the table of the frames is {'damaged' if len(found) == len(expected) else 'cut off'}"
            )
        self._input = self._input[len(expected) :]
        self._expect_end("something follows the table of the frames")

    def _expect_end(self, otherwise: str) -> None:
        if self._look(1):
            raise zstandard.ZstdError(otherwise)
        self._ended = True

    def _look(self, count: int) -> bytes:
        """What comes next, at least so many bytes, or what there is."""
        while len(self._input) < count and (piece := self._file.read(max(_PIECE, count - len(self._input)))):
            self._input += piece
        return self._input


def _frames_before(file: BinaryIO, offset: int) -> Sizes:
    """Those that end at `offset` or before it, by the table; none when it cannot be relied on."""
    sizes = _read_table(file)
    before: Sizes = []
    at = begins = 0
    for compressed, size in sizes:
        # A table that was damaged must not lead to another line than was asked for: each frame knows its size, too.
        file.seek(at)
        if _stated_size(file.read(_HEADER_BYTES)) != size:
            return []
        if begins + size > offset:
            break
        before.append((compressed, size))
        at += compressed
        begins += size
    return before


def _read_table(file: BinaryIO) -> Sizes:
    """The table at the end of a file; empty when there is none, or none that fits the file."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _END.size))
    end = file.read(_END.size)
    if len(end) < _END.size:
        return []
    count, flags, magic = _END.unpack(end)
    table_bytes = _START_BYTES + count * _ENTRY.size + _END.size
    if (flags, magic) != (_NO_FLAGS, _SEEKABLE_MAGIC) or count > _MOST_FRAMES or table_bytes > length:
        return []
    file.seek(length - table_bytes)
    table = file.read(table_bytes)
    sizes: Sizes = list(_ENTRY.iter_unpack(table[_START_BYTES : -_END.size]))
    fits = sum(compressed for compressed, _ in sizes) + table_bytes == length
    return sizes if fits and table == _table(sizes) else []


def _table(sizes: Sizes) -> bytes:
    body = b"".join(_ENTRY.pack(*each) for each in sizes) + _END.pack(len(sizes), _NO_FLAGS, _SEEKABLE_MAGIC)
    return _SKIPPABLE_MAGIC + struct.pack("<I", len(body)) + body


def _stated_size(header: bytes) -> int | None:
    """The uncompressed size in a frame's header; None where there is none, or no frame."""
    if not header.startswith(_FRAME_MAGIC):
        return None
    try:
        size = zstandard.get_frame_parameters(header).content_size
    except zstandard.ZstdError:
        return None
    return None if size == zstandard.CONTENTSIZE_UNKNOWN else size
