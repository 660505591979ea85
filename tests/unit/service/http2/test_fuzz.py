"""Frames that nobody would send: whatever comes, a connection answers in HTTP/2 or ends with GOAWAY.

EXTPROC_TEST_FRAMES says how many; `make fuzz-http2` sends five million.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from support.http2 import Frame, Wire, block, data, fields, headers, message

from extproc.service.http2 import frames
from extproc.service.http2.frames import END_STREAM, Code, frame
from extproc.service.transport import ACCESS_LOG, HEALTH_CHECK, HEALTH_WATCH

FRAMES = int(os.environ.get("EXTPROC_TEST_FRAMES", "50000"))
PATHS = (HEALTH_CHECK, HEALTH_WATCH, ACCESS_LOG, "/another")
WORDS = (b"one", b"gate", b"quiet", b"boom", b"", b"odd", b"x" * 20_000)


class Fuzzer:
    """Conversations of up to 60 frames, most of which are nearly right."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.sent = 0
        self.ended = 0
        self.codes: set[Code] = set()

    def run(self, number: int) -> None:
        """So many frames."""
        while self.sent < number:
            self.conversation()

    def conversation(self) -> None:
        """One connection, from its beginning to its end."""
        dice = self.dice
        wire = Wire(max_streams=dice.choice((1, 5, 100)))
        said = wire.said()
        spoken = b"".join(self.frame() for _ in range(dice.randrange(60)))
        if dice.random() < 0.2:
            spoken = self.damaged(spoken)
        at = 0
        while at < len(spoken):
            size = dice.choice((1, 9, 100, 5000, 100_000))
            said += wire.send(spoken[at : at + size])
            at += size
            if dice.random() < 0.1:
                self.open_gates(wire)
                said += wire.said()
        closing = wire.connection.closing
        if dice.random() < 0.5:
            wire.connection.lost()
        else:
            wire.connection.close()
        self.open_gates(wire)
        said += wire.said()
        goaways = [each for each in said if each.kind == frames.GOAWAY]
        if closing:
            self.ended += 1
            self.codes.add(goaways[0].code)
            assert len(goaways) == 1
        assert wire.server.open == 0
        assert wire.fake.access_log.streams == 0
        for left in (wire.server.streams, wire.server.watches, wire.connection.streams, wire.connection.blocked):
            assert not left
        assert [len(each.closings) for each in wire.fake.processors] == [1] * len(wire.fake.processors)
        self.in_order(said)

    @staticmethod
    def open_gates(wire: Wire) -> None:
        """Let every stream go on that waits."""
        while not wire.fake.gates.empty():
            wire.fake.gate()(b"opened")

    @staticmethod
    def in_order(said: list[Frame]) -> None:
        """HEADERS before DATA, one end for a stream, nothing behind it but RST_STREAM."""
        begun: set[int] = set()
        over: set[int] = set()
        for each in said:
            if each.kind in {frames.HEADERS, frames.DATA}:
                assert each.stream_id not in over
                assert each.kind == frames.HEADERS or each.stream_id in begun
                begun.add(each.stream_id)
                if each.flags & END_STREAM:
                    over.add(each.stream_id)
            elif each.kind == frames.RST_STREAM:
                over.add(each.stream_id)

    def damaged(self, spoken: bytes) -> bytes:
        """With a few bytes of it changed, lost or added."""
        for _ in range(self.dice.randrange(4)):
            at = self.dice.randrange(len(spoken) + 1)
            spoken = spoken[:at] + self.dice.randbytes(self.dice.randrange(3)) + spoken[at + self.dice.randrange(3) :]
        return spoken

    def frame(self) -> bytes:
        """Most often a call or its messages."""
        self.sent += 1
        dice = self.dice
        stream_id = dice.choice((1, 1, 3, 3, 5, 7, 9, 0, 2, 2**31 - 1))
        choices: tuple[Callable[[], bytes], ...] = (
            lambda: headers(stream_id, end=dice.random() < 0.2),
            lambda: headers(stream_id, path=dice.choice(PATHS), end=dice.random() < 0.2),
            lambda: headers(dice.randrange(1, 999, 2)),
            lambda: data(stream_id, message(dice.choice(WORDS)), end=dice.random() < 0.2),
            lambda: data(stream_id, message(dice.choice(WORDS))[:16_000]),
            lambda: data(stream_id, message(b"one") * dice.randrange(5)),
            lambda: data(stream_id, message(b"one", flag=1)),
            lambda: data(stream_id, dice.randbytes(dice.randrange(20))),
            lambda: frame(frames.DATA, frames.PADDED | dice.randrange(2), stream_id, b"\x01" + message(b"one") + b"\0"),
            lambda: frame(frames.HEADERS, dice.randrange(64), stream_id, block(fields())[: dice.randrange(200)]),
            lambda: frame(frames.HEADERS, 4, stream_id, dice.randbytes(dice.randrange(40))),
            lambda: frame(frames.CONTINUATION, dice.choice((0, 4)), stream_id, block(fields())[dice.randrange(50) :]),
            lambda: frames.rst_stream(stream_id, dice.choice(list(Code))),
            lambda: frames.window_update(stream_id, dice.choice((0, 1, 1000, 2**31 - 1))),
            lambda: frames.settings({dice.randrange(8): dice.choice((0, 1, 20_000, 2**31, 2**32 - 1))}),
            lambda: frame(frames.SETTINGS, 1, 0),
            lambda: frame(dice.randrange(12), dice.randrange(256), stream_id, dice.randbytes(dice.randrange(12))),
        )
        return dice.choices(choices, (9, 3, 3, 9, 3, 3, 1, 1, 3, 1, 1, 1, 3, 2, 1, 1, 1))[0]()


@pytest.mark.timeout(60 + FRAMES // 2000)
def test_any_frames(caplog: pytest.LogCaptureFixture) -> None:
    """No exception, no stream left behind, no frame out of order, each processor told once; each kind of end is met."""
    fuzzer = Fuzzer(int(os.environ.get("EXTPROC_TEST_SEED", "1")))
    fuzzer.run(FRAMES)
    assert {Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.COMPRESSION_ERROR, Code.STREAM_CLOSED} <= fuzzer.codes
    assert Code.INTERNAL_ERROR not in fuzzer.codes
    assert fuzzer.ended > FRAMES // 1000
