"""Ids, made where clocks and randomness are: exchanges, spans, boots."""

from __future__ import annotations

import secrets
from random import getrandbits

from extproc.core.trace import TraceContext

_MILLISECOND = 1_000_000


def exchange_id(now_ns: int) -> str:
    """A UUIDv7 (RFC 9562) for this wall-clock time, its 12 bits of `rand_a` the time below a millisecond.

    So ids of one worker sort by their start, and a reader can find an exchange's segment by its id alone.
    """
    milliseconds, rest = divmod(now_ns, _MILLISECOND)
    fraction = rest * 4096 // _MILLISECOND
    low = getrandbits(62)
    return (
        f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{fraction:03x}"
        f"-{0x8000 | low >> 48:04x}-{low & 0xFFFFFFFFFFFF:012x}"
    )


def root_span() -> TraceContext:
    """The ids of a new root span."""
    return TraceContext(f"{getrandbits(128) or 1:032x}", f"{getrandbits(64) or 1:016x}")


def boot_id() -> str:
    """A short id for one life of one worker."""
    return secrets.token_hex(4)
