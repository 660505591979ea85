"""The body files of a segment's exchanges in one object: a zstd frame for each, and a table of them at the end.

    data, table = pack.packed([("019a....request", body), ...])
    pack.table_of(data)              # name -> Entry
    pack.body(data, entry)

The table is JSON in a skippable frame, and the last eight bytes of that say how long it is, so that one range of an
object gives the table and another one a body. `zstd -d` sees the bodies, one after the other. The same bodies give the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

import zstandard

from extproc.errors import ExtprocError

_LEVEL: Final = 3
_SKIPPABLE: Final = struct.Struct("<II")
_SKIPPABLE_MAGIC: Final = 0x184D2A5E
_END: Final = struct.Struct("<I4s")
_MAGIC: Final = b"xprP"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a body is in a pack."""

    offset: int
    length: int
    """Of its frame."""
    bytes: int
    sha256: str


Table = Mapping[str, Entry]
"""By the name of the body file."""


class DamagedPack(ExtprocError):
    """What should be a pack is none, or a body in it is not what was put in."""


def packed(bodies: Iterable[tuple[str, bytes]]) -> tuple[bytes, Table]:
    """The object, and its table."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
    pieces: list[bytes] = []
    table: dict[str, Entry] = {}
    offset = 0
    for name, body in bodies:
        frame = compressor.compress(body)
        table[name] = Entry(offset, len(frame), len(body), hashlib.sha256(body).hexdigest())
        pieces.append(frame)
        offset += len(frame)
    return b"".join(pieces) + _end(table), table


def _end(table: Table) -> bytes:
    listed = json.dumps({name: asdict(entry) for name, entry in table.items()}, separators=(",", ":")).encode("ascii")
    end = _END.pack(len(listed), _MAGIC)
    return _SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(listed) + len(end)) + listed + end


def without(data: bytes, gone: Callable[[str], bool]) -> tuple[bytes, list[str]]:
    """A pack without the bodies of these names, and which they were. In the place of each is a skippable frame of the
    same length, so that all others stay where rows say that they are. Raises DamagedPack."""
    table = table_of(data)
    names = [name for name in table if gone(name)]
    if not names:
        return data, []
    kept = {name: entry for name, entry in table.items() if name not in names}
    frames = bytearray(data[: max(entry.offset + entry.length for entry in table.values())])
    for name in names:
        entry = table[name]
        blank = _SKIPPABLE.pack(_SKIPPABLE_MAGIC, entry.length - _SKIPPABLE.size)
        frames[entry.offset : entry.offset + entry.length] = blank.ljust(entry.length, b"\0")
    return bytes(frames) + _end(kept), names


def table_of(data: bytes) -> Table:
    """The table of a pack. Raises DamagedPack."""
    try:
        length, magic = _END.unpack(data[-_END.size :])
        listed = json.loads(data[-_END.size - length : -_END.size] if magic == _MAGIC else b"")
        return {name: Entry(**entry) for name, entry in listed.items()}
    except (struct.error, ValueError, TypeError, AttributeError) as error:
        raise DamagedPack(f"this is no pack of bodies: {error}") from None


def body(data: bytes, entry: Entry) -> bytes:
    """One body, as it was put in. Raises DamagedPack."""
    frame = data[entry.offset : entry.offset + entry.length]
    try:
        found = zstandard.ZstdDecompressor().decompress(frame, max_output_size=entry.bytes)
    except zstandard.ZstdError as error:
        raise DamagedPack(f"a body in a pack is damaged: {error}") from None
    if hashlib.sha256(found).hexdigest() != entry.sha256:
        raise DamagedPack("a body in a pack has not the SHA-256 that its table says")
    return found
