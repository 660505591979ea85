"""The life of a stream, as RFC 9113 has it in section 5.1, from the side of a server that never pushes.

A stream is IDLE until its HEADERS, OPEN while its client may send, and HALF_CLOSED once the client has said
END_STREAM. It is closed in one of three ways, and what may still come depends on which:

* ENDED: the client had ended its side, and we ended ours. Nothing but what crossed ours on the way may follow.
* RESET: the client reset it. Nothing may follow.
* LEFT: we ended it while the client could still send. What is under way is no fault of the client's.

FORGOTTEN is every other stream below the highest one: closed long ago, or passed over by the client, which closes it.

                  HEADERS    HEADERS_END  DATA       DATA_END     RST_STREAM  WINDOW_UPDATE  FINISH
    IDLE          OPEN       HALF_CLOSED  broken     broken       broken      broken         IDLE
    OPEN          malformed  HALF_CLOSED  OPEN       HALF_CLOSED  RESET       OPEN           LEFT
    HALF_CLOSED   late       late         late       late         RESET       HALF_CLOSED    ENDED
    ENDED         lost       lost         lost       lost         ENDED       ENDED          ENDED
    RESET         late       late         late       late         RESET       RESET          RESET
    LEFT          LEFT       ENDED        LEFT       ENDED        RESET       LEFT           LEFT
    FORGOTTEN     broken     broken       late       late         FORGOTTEN   FORGOTTEN      FORGOTTEN

`malformed` and `late` end the stream with RST_STREAM (PROTOCOL_ERROR, STREAM_CLOSED), `broken` and `lost` the
connection with GOAWAY (PROTOCOL_ERROR, STREAM_CLOSED). HEADERS on an OPEN stream are trailers, which have to end it.
FINISH is ours: the trailers with our status, followed by RST_STREAM(NO_ERROR) when the client could still send.
"""

from __future__ import annotations

import enum
from typing import Final

from extproc.service.http2.frames import Code


class State(enum.IntEnum):
    """Where a stream stands."""

    IDLE = 0
    OPEN = 1
    HALF_CLOSED = 2
    ENDED = 3
    RESET = 4
    LEFT = 5
    FORGOTTEN = 6


class Input(enum.IntEnum):
    """What can happen to a stream. `X_END` is a frame X with END_STREAM."""

    HEADERS = 0
    HEADERS_END = 1
    DATA = 2
    DATA_END = 3
    RST_STREAM = 4
    WINDOW_UPDATE = 5
    FINISH = 6


class Fault(enum.Enum):
    """What a client may not do: the code, and whether the connection ends with it."""

    MALFORMED = (Code.PROTOCOL_ERROR, False)
    LATE = (Code.STREAM_CLOSED, False)
    BROKEN = (Code.PROTOCOL_ERROR, True)
    LOST = (Code.STREAM_CLOSED, True)

    @property
    def code(self) -> Code:
        return self.value[0]

    @property
    def ends_connection(self) -> bool:
        return self.value[1]


_IDLE, _OPEN, _HALF_CLOSED, _ENDED, _RESET, _LEFT, _FORGOTTEN = State
_malformed, _late, _broken, _lost = Fault

TABLE: Final[tuple[tuple[State | Fault, ...], ...]] = (
    # HEADERS    HEADERS_END   DATA        DATA_END      RST_STREAM  WINDOW_UPDATE FINISH
    (_OPEN, _HALF_CLOSED, _broken, _broken, _broken, _broken, _IDLE),
    (_malformed, _HALF_CLOSED, _OPEN, _HALF_CLOSED, _RESET, _OPEN, _LEFT),
    (_late, _late, _late, _late, _RESET, _HALF_CLOSED, _ENDED),
    (_lost, _lost, _lost, _lost, _ENDED, _ENDED, _ENDED),
    (_late, _late, _late, _late, _RESET, _RESET, _RESET),
    (_LEFT, _ENDED, _LEFT, _ENDED, _RESET, _LEFT, _LEFT),
    (_broken, _broken, _late, _late, _FORGOTTEN, _FORGOTTEN, _FORGOTTEN),
)
"""`TABLE[state][input]`: the next state, or the fault."""
