"""HTTP/2 frames, as RFC 9113 numbers them, and those that a server writes."""

from __future__ import annotations

import enum
import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x01
ACK: Final = 0x01
END_HEADERS: Final = 0x04
PADDED: Final = 0x08
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

MAX_STREAM_ID: Final = 2**31 - 1
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65535
DEFAULT_FRAME_SIZE: Final = 16384
LARGEST_FRAME_SIZE: Final = 2**24 - 1


class Code(enum.IntEnum):
    """Why a stream or a connection ends: RFC 9113, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


# The length of a frame has 24 bits: the upper 16, then the lower 8.
read_head = struct.Struct(">HBBBI").unpack_from
pack_head = struct.Struct(">HBBBI").pack
pack_message_head = struct.Struct(">HBBBIBI").pack
"""The head of a DATA frame and that of the one gRPC message in it."""
read_setting = struct.Struct(">HI").iter_unpack


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    return pack_head(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """SETTINGS of ours."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in values.items()))


def window_update(stream_id: int, more: int) -> bytes:
    """Room for so many more bytes of DATA; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, more.to_bytes(4, "big"))


def rst_stream(stream_id: int, code: Code) -> bytes:
    """The end of a stream."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def goaway(last_stream_id: int, code: Code, why: str = "") -> bytes:
    """The end of a connection, or of new streams on it."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code) + why.encode())


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)
