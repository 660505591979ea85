"""Records of a person taken out of a segment's lines, so that nothing else in it moves.

In the place of each stands a line of type `erased`, of the same length and number, sealed like any other: offsets,
numbers and counts of the segment stay what they were, and `verify`, the index and every reader go on with them. What
such a line says is the exchange's id, which chance has made, and what kind of record it was. A line that is damaged
stays damaged, with nothing in it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from extproc.core.record import DamagedLine, seal, whole
from extproc.core.records import id_of, unseal
from extproc.history import alone
from extproc.journal import frames, lines
from extproc.journal.flight import type_and_id

_OWN: Final = re.compile(rb',"worker":(\d+),"boot_id":"([0-9A-Za-z-]+)","seq":(\d+),"crc":"[0-9a-f]{8}"\}\n$')
_OWN_BYTES: Final = 192


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose records go: of exchanges by their ids, and Envoy's entries that name none of ours by Envoy's ids."""

    ids: AbstractSet[str]
    request_ids: AbstractSet[str] = frozenset()

    def of(self, line: bytes) -> str | None:
        """The id of the exchange for which a line goes; None where it stays."""
        _, id = type_and_id(line)
        if id in self.ids:
            return id
        if id or not alone.may_be(line):
            return None
        try:
            record = alone.as_own(unseal(line))
        except DamagedLine:
            return None
        own, others = id_of(record), getattr(record, "request_id", None)
        if own in self.ids:
            return own
        return str(others) if others in self.request_ids else None


@dataclass(slots=True)
class Erased:
    """What was taken out of one segment."""

    damage: str | None = None
    """Why the rest of it cannot be read. It does not stay: nobody knows whose it is."""
    lines: int = 0
    ids: set[str] = field(default_factory=set)


def without(source: BinaryIO, wanted: Wanted) -> tuple[bytes, Erased]:
    """The lines of a segment with those that are wanted gone, as far as it can be read. Damaged lines go with them:
    nobody knows whose they are."""
    found = Erased()
    kept = io.BytesIO()
    try:
        for line in lines.raw_lines(source):
            id = wanted.of(line)
            if id is None:
                kept.write(line if _is_whole(line) else _blank(line))
                continue
            kept.write(in_place_of(line, id) or _blank(line))
            found.lines += 1
            found.ids.add(id)
    except DamagedLine as error:
        found.damage = str(error)
    return kept.getvalue(), found


def in_place_of(line: bytes, id: str) -> bytes | None:
    """What stands in the place of a line; None where it is one already, or no whole line."""
    own = _OWN.search(line[-_OWN_BYTES:])
    type, _ = type_and_id(line)
    if own is None or type == "erased":
        return None
    for said in (b'"exchange":"%b","was":"%b",' % (id.encode(), (type or "access").encode("ascii", "replace")), b""):
        start = b'{"type":"erased",%b"pad":"' % said
        room = len(line) - len(_sealed(start + b'"}', own))
        if room >= 0:
            return _sealed(start + b" " * room + b'"}', own)
    return None


def _is_whole(line: bytes) -> bool:
    try:
        whole(line)
    except DamagedLine:
        return False
    return True


def _blank(line: bytes) -> bytes:
    """In the place of a damaged line another one, of which nothing can be read."""
    return b"#" * len(line.rstrip(b"\n")) + line[len(line.rstrip(b"\n")) :]


def _sealed(record: bytes, own: re.Match[bytes]) -> bytes:
    return seal(record, int(own[1]), own[2].decode("ascii"), int(own[3]))


def compressed(data: bytes) -> bytes:
    """The lines as the file of a closed segment."""
    target = io.BytesIO()
    frames.compress(io.BufferedReader(io.BytesIO(data)), target)
    return target.getvalue()
