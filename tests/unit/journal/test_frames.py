"""Compressed segments: every reader of zstd reads them, a line costs one frame, and no damage goes unseen."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard

from extproc.journal import frames

TABLE_MAGIC = b"\x5e\x2a\x4d\x18"


def text(lines: int = 400, length: int = 8000) -> bytes:
    """Lines that do not compress well, a few frames of them."""
    source = random.Random(1)
    return b"".join(b"%d %s\n" % (number, source.randbytes(length // 2).hex().encode()) for number in range(lines))


def compressed(content: bytes) -> bytes:
    """As it is in the file."""
    target = io.BytesIO()
    frames.compress(io.BytesIO(content), target)
    return target.getvalue()


def earlier(content: bytes) -> bytes:
    """As earlier versions have written it: one frame that does not state its size, and no table."""
    target = io.BytesIO()
    zstandard.ZstdCompressor(level=3, write_checksum=True).copy_stream(io.BytesIO(content), target)
    return target.getvalue()


def sizes(raw: bytes) -> list[tuple[int, int]]:
    """The table, by the words of zstd's seekable format."""
    count, flags, magic = struct.unpack("<IBI", raw[-9:])
    assert (flags, magic) == (0, 0x8F92EAB1)
    start = len(raw) - 9 - 8 * count
    assert struct.unpack("<II", raw[start - 8 : start]) == (0x184D2A5E, 8 * count + 9)
    return list(struct.iter_unpack("<II", raw[start:-9]))


def read(raw: bytes, offset: int = 0) -> bytes:
    """All of it from there on."""
    with frames.decompressed(io.BytesIO(raw), offset) as file:
        return file.read()


class Counted(io.BytesIO):
    """A file that knows how much was read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


@pytest.fixture(scope="module")
def content() -> bytes:
    """About three frames."""
    return text()


@pytest.fixture(scope="module")
def raw(content: bytes) -> bytes:
    """The same, compressed."""
    return compressed(content)


def test_frames_are_of_whole_lines_and_in_a_table(content: bytes, raw: bytes) -> None:
    """About 1 MiB each, and each readable alone at the place that the table gives."""
    at = begins = 0
    assert len(sizes(raw)) == 4
    for packed, size in sizes(raw):
        alone = zstandard.ZstdDecompressor().decompress(raw[at : at + packed])
        assert alone == content[begins : begins + size]
        assert alone.endswith(b"\n")
        assert size <= frames.FRAME_BYTES + 8100
        at, begins = at + packed, begins + size
    assert begins == len(content)


@pytest.mark.parametrize("content", [b"", b"x\n", b"half a line", b"x" * 3_000_000 + b"\ny\n", text(300)])
def test_what_was_compressed_comes_back(content: bytes) -> None:
    """Nothing, a line, half a line, a line longer than a frame, and many."""
    assert read(compressed(content)) == content


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the program zstd")
def test_the_program_zstd_reads_it(content: bytes, raw: bytes, tmp_path: Path) -> None:
    """`zstd -dc` gives the lines, and `zstd -t` finds nothing wrong."""
    path = tmp_path / "segment.jsonl.zst"
    path.write_bytes(raw)
    assert subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout == content
    subprocess.run(["zstd", "-tq", path], check=True)


def test_readers_of_many_frames_read_it(content: bytes, raw: bytes) -> None:
    """Also without knowing of the table."""
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw), read_across_frames=True) as file:
        assert file.read() == content


@pytest.mark.parametrize("write", [compressed, earlier])
def test_reading_from_any_place(content: bytes, write: Callable[[bytes], bytes]) -> None:
    """At the ends of frames and around them, at the beginning, at the end and beyond it; with a table and without."""
    raw = write(content)
    ends = [0, 1_048_576, len(content)]
    begins = 0
    for _, size in sizes(compressed(content)):
        begins += size
        ends.append(begins)
    for offset in {max(0, end + step) for end in ends for step in (-1, 0, 1)}:
        assert read(raw, offset) == content[offset:]


def test_a_line_costs_one_frame(content: bytes, raw: bytes) -> None:
    """Of the file no more is read than the frame that has the line, the table and the heads of those before it."""
    offset = content.index(b"\n350 ") + 1
    file = Counted(raw)
    with frames.decompressed(file, offset) as lines:
        assert lines.readline() == content[offset:].partition(b"\n")[0] + b"\n"
        assert file.count < max(packed for packed, _ in sizes(raw)) + 100_000 < len(raw) / 2


def test_a_damaged_frame_costs_what_is_in_it(content: bytes, raw: bytes) -> None:
    """A line in another frame is read all the same."""
    damaged = bytearray(raw)
    damaged[sizes(raw)[0][0] + 5000] ^= 1
    offset = content.index(b"\n350 ") + 1
    assert read(bytes(damaged), offset) == content[offset:]
    with pytest.raises(zstandard.ZstdError):
        read(bytes(damaged))


def test_a_file_cut_short_anywhere_is_damaged(raw: bytes) -> None:
    """Within a frame, at the end of one, and at every byte of the table."""
    ends = [sum(packed for packed, _ in sizes(raw)[:count]) for count in range(len(sizes(raw)) + 1)]
    for cut in {*range(0, len(raw), 99_991), *ends, *range(ends[-1], len(raw))}:
        with pytest.raises(zstandard.ZstdError):
            read(raw[:cut])


def test_every_byte_of_the_table_counts(content: bytes, raw: bytes) -> None:
    """A flipped bit is seen by who reads to the end, and leads nobody to another line."""
    table = raw.rindex(TABLE_MAGIC)
    offset = content.index(b"\n350 ") + 1
    wanted = content[offset:].partition(b"\n")[0] + b"\n"
    for at in range(table, len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(zstandard.ZstdError):
            read(bytes(damaged))
        with frames.decompressed(io.BytesIO(damaged), offset) as lines:
            assert lines.readline() == wanted


def test_a_table_that_is_whole_and_wrong_is_not_relied_on(content: bytes, raw: bytes) -> None:
    """Sizes that add up and are those of other frames."""
    first, second, *_ = sizes(raw)
    at = raw.rindex(TABLE_MAGIC) + 8
    for change in ((first[0] + 1, first[1], second[0] - 1, second[1]), (first[0], first[1] + 1, *second)):
        damaged = raw[:at] + struct.pack("<IIII", *change) + raw[at + 16 :]
        offset = content.index(b"\n200 ") + 1
        with frames.decompressed(io.BytesIO(damaged), offset) as lines:
            assert lines.readline() == content[offset:].partition(b"\n")[0] + b"\n"
        with pytest.raises(zstandard.ZstdError, match="table of the frames is damaged"):
            read(damaged)


@pytest.mark.parametrize("more", [b"x", b"\0", TABLE_MAGIC + bytes(4), earlier(b"y\n"), compressed(b"y\n")])
@pytest.mark.parametrize("write", [compressed, earlier])
def test_nothing_may_follow(write: Callable[[bytes], bytes], more: bytes) -> None:
    """Neither garbage nor another segment."""
    raw = write(b"x\n")
    with pytest.raises(zstandard.ZstdError, match="something follows"):
        read(raw + more)


@pytest.mark.parametrize("cut", [0, 1, 5, 20, -1])
def test_a_frame_of_an_earlier_version_that_was_cut_short(cut: int) -> None:
    """As before: damaged, even when no line is missing."""
    content = text(20)
    assert read(earlier(content)) == content
    with pytest.raises(zstandard.ZstdError, match="cut off"):
        read(earlier(content)[:cut])


def test_no_frames_is_not_a_file_cut_off() -> None:
    """The table of an empty segment says that there are none."""
    assert read(compressed(b"")) == b""
    with pytest.raises(zstandard.ZstdError, match="cut off"):
        read(b"")


def test_closing_closes_the_file(raw: bytes) -> None:
    """Also when little was read."""
    file: BinaryIO = io.BytesIO(raw)
    with frames.decompressed(file) as lines:
        lines.readline()
    assert file.closed
