"""The bytes of one direction: counted, digested once, and kept until they fit a record or have to be spooled.

Chunks are collected in a list and joined once. Up to `inline_bytes` the whole body stays here and goes into the
record; from there on `feed` hands batches out, which the caller spools, and no more than one batch is held back,
so that a body of any size costs the same memory.
"""

from __future__ import annotations

import hashlib

SPOOL_BATCH = 64 * 1024
"""Bytes that are gathered before they go to the spool: fewer, larger writes."""

_TAIL = 64 * 1024


class BodyCapture:
    """One body. Every byte given to `feed` is digested exactly once, whatever way it leaves."""

    __slots__ = ("_digest", "_held", "_held_bytes", "_inline_bytes", "_last", "chunks", "length", "spooled")

    def __init__(self, inline_bytes: int) -> None:
        self.chunks = 0
        """Pieces with at least one byte."""
        self.length = 0
        self.spooled = False
        """The body has outgrown a record: all its bytes are, or will be, in the body file."""
        self._inline_bytes = inline_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._digest = hashlib.sha256()
        self._last = b""

    def feed(self, data: bytes) -> list[bytes] | None:
        """Take the next piece. Returns the pieces that must go to the spool now, if any."""
        if not data:
            return None
        self.chunks += 1
        self.length += len(data)
        self._held.append(data)
        self._held_bytes += len(data)
        self._last = data
        if self._held_bytes <= (SPOOL_BATCH if self.spooled else self._inline_bytes):
            return None
        self.spooled = True
        return self._release()

    def finish(self) -> tuple[bytes | None, list[bytes] | None, str]:
        """No more bytes: the body if it fits a record, else what is left for the spool; and the SHA-256 in hex."""
        if self.spooled:
            rest = self._release()
            return None, rest, self._digest.hexdigest()
        whole = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        self._digest.update(whole)
        return whole, None, self._digest.hexdigest()

    def so_far(self) -> bytes:
        """The bytes that are held at this moment: all of them, unless the body is spooled."""
        return b"".join(self._held)

    def compare(self, late: bytes) -> str:
        """How bytes that came after the end stand to the body's own last bytes: `empty`, `same` or `different`."""
        if not late:
            return "empty"
        return "same" if self._last[-_TAIL:].endswith(late[-_TAIL:]) else "different"

    def _release(self) -> list[bytes]:
        held, self._held, self._held_bytes = self._held, [], 0
        for piece in held:
            self._digest.update(piece)
        return held
