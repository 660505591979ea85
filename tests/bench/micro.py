"""The recorder's own time for a message, without gRPC, Envoy or a disk: `micro.py [--profile]`.

The messages are those that Envoy sends for the bench's short POST and for a streamed answer. The journal opens each
gate at once and keeps nothing, so what is timed is parsing, the exchange, the table of what is in flight and the making
of records; sealing a line is timed apart. For finding out where the time goes: `--profile` prints what takes most.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import traffic

from extproc._proto.ext_proc_pb2 import HttpHeaders, ProcessingMode, ProcessingRequest
from extproc.config import Config
from extproc.core import record, records
from extproc.core.effects import Append, Effect
from extproc.core.events import CloseReason, Direction
from extproc.errors import JournalError
from extproc.journal.live import LiveTable
from extproc.service import wire
from extproc.service.processor import Recorder

CHUNKS = 200
SLICES = 100


class OpenJournal:
    """Everything is durable as soon as it is handed over."""

    failure: JournalError | None = None

    def __init__(self) -> None:
        self.made: list[records.Known] = []
        """The last two records: those of one exchange."""
        self.lines: list[bytes] = []

    def submit(self, effects: Sequence[Effect], done: Callable[[JournalError | None], None] | None) -> None:
        for effect in effects:
            if isinstance(effect, Append):
                self.lines = [*self.lines[-1:], records.encode(effect.record)]
                self.made = [*self.made[-1:], effect.record]
        if done is not None:
            done(None)

    def gap(self, direction: Direction, why: str, at_ns: int) -> None:
        raise AssertionError(why)


def headers(part: HttpHeaders, fields: dict[str, str]) -> None:
    """Fill a header message as Envoy does."""
    for name, value in fields.items():
        part.headers.headers.add(key=name, raw_value=value.encode())


def request_messages(body: bytes) -> list[bytes]:
    """The two messages of a request whose body is held back."""
    first = ProcessingRequest()
    length = str(len(body))
    headers(
        first.request_headers,
        {
            ":authority": "bench",
            ":path": "/v1/chat/completions",
            ":method": "POST",
            ":scheme": "http",
            "content-type": "application/json",
            "content-length": length,
            "x-forwarded-for": "192.0.2.2",
            "x-forwarded-proto": "http",
            "x-envoy-external-address": "192.0.2.2",
            "x-request-id": "db5a0738-a36f-4d9b-80f4-ee485e15547b",
            "x-extproc-content-length": length,
            "x-real-ip": "192.0.2.2",
        },
    )
    first.attributes[wire.FILTER].update({"source.address": "192.0.2.2:37230"})
    config = first.protocol_config
    config.request_body_mode = config.response_body_mode = ProcessingMode.STREAMED
    first.metadata_context.SetInParent()
    return [first.SerializeToString(), body_message("request", body, end=True)]


def response_head(fields: dict[str, str]) -> bytes:
    """The response headers' message."""
    message = ProcessingRequest()
    headers(message.response_headers, {":status": "200", **fields})
    message.attributes[wire.FILTER].update(
        {
            "xds.route_name": "default",
            "xds.cluster_name": "llm",
            "upstream.address": "192.0.2.3:8000",
            "response.flags": 0,
            "response.code_details": "via_upstream",
        }
    )
    message.metadata_context.SetInParent()
    return message.SerializeToString()


def body_message(direction: str, body: bytes, *, end: bool) -> bytes:
    """A body message."""
    message = ProcessingRequest()
    part = message.request_body if direction == "request" else message.response_body
    part.body = body
    part.end_of_stream = end
    message.metadata_context.SetInParent()
    return message.SerializeToString()


def short_post() -> list[bytes]:
    """The four messages of a short POST."""
    answer = traffic.COMPLETION.partition(b"\r\n\r\n")[2]
    length = str(len(answer))
    fields = {"content-type": "application/json", "content-length": length, "x-extproc-content-length": length}
    return [
        *request_messages(traffic.SHORT_BODY.encode()),
        response_head(fields),
        body_message("response", answer, end=True),
    ]


def streamed_answer() -> list[bytes]:
    """The messages of an answer in 200 chunks and an end."""

    def payload(http_chunk: bytes) -> bytes:
        return http_chunk.partition(b"\r\n")[2].removesuffix(b"\r\n")

    body = traffic.SHORT_BODY.replace('"stream":false', '"stream":true').encode()
    chunks = [payload(traffic.FIRST), *([payload(traffic.CHUNK)] * CHUNKS)]
    return [
        *request_messages(body),
        response_head({"content-type": "text/event-stream"}),
        *(body_message("response", chunk, end=False) for chunk in chunks),
        body_message("response", b"data: [DONE]\n\n", end=True),
    ]


def exchange(recorder: Recorder, messages: Sequence[bytes], spent: list[int] | None = None) -> None:
    """Run one exchange, and note in `spent` when each of its messages was done."""
    processor = recorder.processor((), lambda reply: None)
    receive = processor.receive
    if spent is None:
        for message in messages:
            receive(message)
    else:
        for message in messages:
            receive(message)
            spent.append(perf_counter_ns())
    processor.closed(CloseReason.CLOSED)


def timed(run: Callable[[], object], times: int) -> float:
    """The time of one run in microseconds: the best of many slices, because interruptions only make one longer."""
    slice_ = max(1, times // SLICES)
    best = float("inf")
    for _ in range(SLICES):
        start = perf_counter_ns()
        for _ in range(slice_):
            run()
        best = min(best, (perf_counter_ns() - start) / slice_)
    return best / 1e3


def typed_and_plain(made: records.Known, times: int) -> None:
    """Writing and reading a record as its type, and as plain dicts."""
    line = record.seal(records.encode(made), 0, "0193c0de", 17)
    plain = records.fields_of(made)
    show(f"    encoding a {made.type} record of {len(line)} bytes", timed(lambda: records.encode(made), times))
    show("        as a dict", timed(lambda: record.encode(plain), times))
    show("    decoding its line", timed(lambda: records.unseal(line), times))
    show("        as a dict", timed(lambda: record.unseal(line), times))


def show(what: str, microseconds: float) -> None:
    """One line."""
    print(f"{microseconds:9.2f} us  {what}")


def main() -> None:
    """Time, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="say which functions take the time")
    parser.add_argument("--times", type=int, default=5000, help="exchanges that are timed (5000)")
    args = parser.parse_args()
    journal = OpenJournal()
    with tempfile.TemporaryDirectory() as directory:
        live = LiveTable.create(Path(directory), 0, "0193c0de")  # its map outlives the file
    recorder = Recorder(Config(), journal, b"0" * 32, live)
    short, streamed = short_post(), streamed_answer()
    if args.profile:
        for messages, times in ((short, args.times), (streamed, args.times // 40)):
            profile = cProfile.Profile()
            with profile:
                for _ in range(times):
                    exchange(recorder, messages)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    show("a short POST: four messages and the close", timed(lambda: exchange(recorder, short), args.times))
    names = ("request headers", "request body and its record", "response headers", "response body and its record")
    best = [10**9] * len(short)
    for _ in range(args.times):
        spent = [perf_counter_ns()]
        exchange(recorder, short, spent)
        best = [min(old, new - before) for old, before, new in zip(best, spent[:-1], spent[1:], strict=True)]
    for name, nanoseconds in zip(names, best, strict=True):
        show(f"    {name}", nanoseconds / 1e3)
    for name, message, modes in zip(names, short, (None, *[wire.SHIPPED] * 3), strict=True):
        parse = timed(lambda message=message: ProcessingRequest.FromString(message), args.times)  # type: ignore[misc]
        read = timed(lambda message=message, modes=modes: wire.read(message, modes, 0), args.times)  # type: ignore[misc]
        show(f"    wire.read of {name.partition(' and ')[0]}, of it {parse:.2f} us protobuf's", read)
    line = journal.lines[0]
    show(f"    sealing a record of {len(line)} bytes", timed(lambda: record.seal(line, 0, "0193c0de", 17), args.times))
    for made in journal.made:
        typed_and_plain(made, args.times)
    whole = timed(lambda: exchange(recorder, streamed), max(1, args.times // 40))
    none = timed(lambda: exchange(recorder, [*streamed[:3], streamed[-1]]), args.times)
    show(f"a chunk of a streamed answer of {CHUNKS}", (whole - none) / (CHUNKS + 1))
    show("    wire.read of it", timed(lambda: wire.read(streamed[4], wire.SHIPPED, 0), args.times))


if __name__ == "__main__":
    main()
