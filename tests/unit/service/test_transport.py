"""What both transports promise, asked of each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import random
import socket
import ssl
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from support.stack import eventually
from support.transports import SECONDS, Channel, Fake, MakeServer, Running, Talk, connected, running, status_of

from extproc.core.events import CloseReason
from extproc.errors import StackError
from extproc.service.transport import ACCESS_LOG, HEALTH_CHECK, HEALTH_WATCH, PROCESS, Complaints, Endpoint

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
CUT = {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN}
"""How a stream that was cut off may look to Envoy, for which everything but OK is a failure."""


# -- streams --------------------------------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_messages(channel: Channel) -> None:
    """Each message gets one reply, first come, first served."""
    messages = [b"%d" % number for number in range(500)]
    assert list(channel.stream_stream(PROCESS)(iter(messages))) == messages


def test_a_thousand_streams_at_once(server: Running, fake: Fake) -> None:
    """A thousand open streams each get their own replies and one end."""

    async def one(channel: Channel, number: int, all_open: asyncio.Barrier) -> list[bytes]:
        call: Any = channel.stream_stream(PROCESS)()
        replies = []
        for message in (b"%d first" % number, b"%d second" % number):
            await call.write(message)
            replies.append(await call.read())
            await all_open.wait()
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        return replies

    async def all_of_them() -> None:
        all_open = asyncio.Barrier(1000)
        async with grpc.aio.insecure_channel(server.address) as channel:
            answers = await asyncio.gather(*(one(channel, number, all_open) for number in range(1000)))
        assert answers == [[b"%d first" % number, b"%d second" % number] for number in range(1000)]

    asyncio.run(all_of_them())
    assert Counter(fake.next() for _ in range(1000)) == {("closed", CloseReason.CLOSED): 1000}


def test_the_processor_gets_the_metadata(channel: Channel, fake: Fake) -> None:
    """Trace context arrives as gRPC metadata, text as str and -bin as bytes."""
    talk = Talk(channel, (("traceparent", "00-1-2-01"), ("some-bin", b"\0\xff")))
    talk.ask(b"hello")
    talk.half_close()
    assert fake.next() == ("closed", CloseReason.CLOSED)
    (processor,) = fake.processors
    assert processor.metadata["traceparent"] == "00-1-2-01"
    assert processor.metadata["some-bin"] == b"\0\xff"


@pytest.mark.parametrize("messages", [[], [b"one"], [b"one", b"two"], [b"quiet"]])
def test_a_half_close_is_a_clean_end(channel: Channel, fake: Fake, messages: list[bytes]) -> None:
    """The client closes its side after any number of messages: status OK, reason CLOSED, once."""
    talk = Talk(channel)
    for message in messages:
        talk.say(message)
    talk.half_close()
    assert talk.status() == grpc.StatusCode.OK
    assert fake.next() == ("closed", CloseReason.CLOSED)
    assert fake.processors[0].closings == [CloseReason.CLOSED]


def test_a_reset_is_a_cancelled_end(channel: Channel, fake: Fake) -> None:
    """The client resets the stream between messages: reason CANCELLED, once."""
    for _ in range(100):
        talk = Talk(channel)
        talk.ask(b"one")
        talk.cancel()
        assert fake.next() == ("closed", CloseReason.CANCELLED)
    assert all(processor.closings == [CloseReason.CANCELLED] for processor in fake.processors)


def test_a_lost_connection_is_a_cancelled_end(server: Running, fake: Fake) -> None:
    """The connection goes away under its streams."""
    with connected(server.address) as channel:
        talks = [Talk(channel) for _ in range(10)]
        for talk in talks:
            talk.ask(b"one")
    assert [fake.next() for _ in talks] == [("closed", CloseReason.CANCELLED)] * 10
    for talk in talks:
        talk.half_close()


def test_ends_in_quick_succession_are_one_end(channel: Channel, fake: Fake) -> None:
    """Whatever races with whatever, each processor hears of its end exactly once."""
    dice = random.Random(1)
    for _ in range(200):
        talk = Talk(channel)
        talk.ask(b"one")
        for end in dice.sample([Talk.half_close, Talk.cancel, _boom], dice.randint(1, 3)):
            end(talk)
        talk.cancel()
    assert [fake.next()[0] for _ in range(200)] == ["closed"] * 200
    assert [len(processor.closings) for processor in fake.processors] == [1] * 200


def _boom(talk: Talk) -> None:
    talk.say(b"boom")


def test_a_message_of_five_megabytes(channel: Channel) -> None:
    """gRPC's limit of 4 MiB is lifted in both directions."""
    message = random.Random(1).randbytes(5_000_000)
    talk = Talk(channel)
    assert talk.ask(message) == message
    talk.half_close()


def test_no_reply_is_no_message(channel: Channel) -> None:
    """In observability mode nothing is sent, and the next message is read."""
    assert list(channel.stream_stream(PROCESS)(iter([b"quiet", b"quiet", b"one"]))) == [b"one"]


# -- gates ----------------------------------------------------------------------------------------------------------


def test_another_thread_opens_the_gate(channel: Channel, fake: Fake) -> None:
    """The reply comes when somebody sends it, and not before; then the stream goes on."""
    talk = Talk(channel)
    assert talk.ask(b"before") == b"before"
    talk.say(b"gate")
    opener = threading.Thread(target=lambda: fake.gate()(b"opened"))
    opener.start()
    assert talk.hear() == b"opened"
    assert talk.ask(b"after") == b"after"
    talk.half_close()
    opener.join()
    assert fake.next() == ("closed", CloseReason.CLOSED)


def test_a_gate_may_open_at_once(make: MakeServer, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """`send` before `receive` has returned: the disk was faster than we were."""

    class Eager(Fake):
        def processor(self, metadata: Any, send: Any) -> Any:
            processor = super().processor(metadata, send)

            def receive(message: bytes) -> None:
                opener = threading.Thread(target=send, args=(message,))
                opener.start()
                opener.join()

            monkeypatch.setattr(processor, "receive", receive)
            return processor

    messages = [b"%d" % number for number in range(100)]
    with running(make, Eager(), Endpoint("127.0.0.1:0")) as server, connected(server.address) as channel:
        assert list(channel.stream_stream(PROCESS)(iter(messages))) == messages


def test_nothing_is_read_while_a_gate_is_shut(channel: Channel, fake: Fake) -> None:
    """The messages after it wait in the connection, in order."""
    talk = Talk(channel)
    for message in (b"gate", b"note", b"gate"):
        talk.say(message)
    open_first = fake.gate()
    assert fake.events.empty()
    open_first(b"1")
    assert fake.next() == ("note",)
    fake.gate()(b"2")
    assert [talk.hear() for _ in range(3)] == [b"1", b"note", b"2"]
    talk.half_close()


def test_a_shut_gate_holds_up_nobody_else(channel: Channel, fake: Fake) -> None:
    """Other streams go on while one waits."""
    waiting, other = Talk(channel), Talk(channel)
    waiting.say(b"gate")
    open_gate = fake.gate()
    assert [other.ask(b"%d" % number) for number in range(10)] == [b"%d" % number for number in range(10)]
    open_gate(b"opened")
    assert waiting.hear() == b"opened"
    waiting.half_close()
    other.half_close()


def test_a_gate_may_open_without_a_reply(channel: Channel, fake: Fake) -> None:
    """In observability mode there is a gate and nothing to say when it opens."""
    talk = Talk(channel)
    talk.say(b"gate")
    fake.gate()(b"")
    assert talk.ask(b"after") == b"after"
    talk.half_close()


def test_a_gate_that_opens_after_the_client_left(channel: Channel, fake: Fake) -> None:
    """The processor hears of the end when the gate has opened, exactly once, and never before."""
    for _ in range(50):
        talk = Talk(channel)
        talk.say(b"gate")
        open_gate = fake.gate()
        talk.cancel()
        other = Talk(channel)
        other.ask(b"the reset has arrived before this")
        other.half_close()
        assert fake.next() == ("closed", CloseReason.CLOSED)
        assert fake.processors[-2].closings == []
        open_gate(b"too late")
        assert fake.next() == ("closed", CloseReason.CANCELLED)
    assert all(len(processor.closings) == 1 for processor in fake.processors)


# -- failures -------------------------------------------------------------------------------------------------------


def test_an_exception_ends_its_stream_with_an_error(
    channel: Channel, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    """Envoy must fail the request; other streams live on. The log says type and place, and nothing of the body."""
    other, talk = Talk(channel), Talk(channel)
    other.ask(b"before")
    talk.ask(b"before")
    talk.say(b"boom")
    assert talk.status() == grpc.StatusCode.INTERNAL
    assert fake.next() == ("closed", CloseReason.CANCELLED)
    assert other.ask(b"after") == b"after"
    other.half_close()
    (entry,) = caplog.records
    assert entry.levelno == logging.ERROR
    assert "ValueError" in entry.getMessage()
    assert "transports.py" in entry.getMessage()
    assert fake.body not in entry.getMessage()


def test_an_exception_with_the_first_message(channel: Channel, fake: Fake) -> None:
    """No reply has opened the stream yet."""
    talk = Talk(channel)
    talk.say(b"boom")
    assert talk.status() == grpc.StatusCode.INTERNAL
    assert fake.next() == ("closed", CloseReason.CANCELLED)


def test_a_processor_that_cannot_be_made(channel: Channel) -> None:
    """The stream is refused with an error, and the next one is served."""
    talk = Talk(channel, (("refuse", "1"),))
    talk.say(b"one")
    assert talk.status() == grpc.StatusCode.INTERNAL
    assert list(channel.stream_stream(PROCESS)(iter([b"one"]))) == [b"one"]


def test_an_exception_at_the_end_of_a_stream(channel: Channel, fake: Fake) -> None:
    """It is logged, and the loop goes on."""
    talk = Talk(channel, (("fail-end", "1"),))
    talk.ask(b"one")
    talk.cancel()
    assert fake.next() == ("closed", CloseReason.CANCELLED)
    assert list(channel.stream_stream(PROCESS)(iter([b"one"]))) == [b"one"]


def test_complaints_are_one_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of failures is a line a second, with the number of those left out."""
    times = iter([100.0, 100.5, 100.9, 101.0])
    complaints = Complaints(lambda: next(times))
    for _ in range(4):
        complaints.failed("it broke", ValueError("secret"))
    assert [entry.getMessage().splitlines()[0] for entry in caplog.records] == [
        "it broke: ValueError",
        "it broke: ValueError (2 more since the last one)",
    ]


# -- what is not served ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/grpc.health.v1.Health/List",
        "/envoy.service.ext_proc.v3.ExternalProcessor/process",
        "/",
    ],
)
def test_every_other_method_is_unimplemented(channel: Channel, fake: Fake, method: str) -> None:
    """Two services, three methods, and no stream for anything else."""
    assert status_of(lambda: channel.unary_unary(method)(b"")) == grpc.StatusCode.UNIMPLEMENTED
    assert fake.processors == []


def test_compressed_messages_are_refused(channel: Channel) -> None:
    """Envoy sends none, so it is a bomb or a mistake; nothing is unpacked."""
    bomb = iter([bytes(10_000_000)])
    call = channel.stream_stream(PROCESS)(bomb, compression=grpc.Compression.Gzip)
    assert status_of(lambda: list(call)) == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_is_bounded(channel: Channel) -> None:
    """A header list beyond the limit ends its call; the next call is served."""
    huge = (("x-huge", "x" * 200_000),)
    assert status_of(lambda: list(channel.stream_stream(PROCESS)(iter([b"one"]), metadata=huge))) in {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
    }
    assert list(channel.stream_stream(PROCESS)(iter([b"one"]))) == [b"one"]


def _tls_hello(address: tuple[str, int]) -> None:
    context = ssl.create_default_context()
    with socket.create_connection(address, SECONDS) as plain, pytest.raises(OSError, match=r"."):
        context.wrap_socket(plain, server_hostname="localhost")


def _raw(data: bytes) -> Any:
    def send(address: tuple[str, int]) -> None:
        hung_up = contextlib.suppress(OSError)  # perhaps in the middle of it
        with socket.create_connection(address, SECONDS) as client, hung_up:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass

    return send


@pytest.mark.parametrize(
    "visit",
    [
        _raw(b""),
        _raw(b"\0"),
        _raw(random.Random(1).randbytes(100_000)),
        _raw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        _raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(2).randbytes(10_000)),
        _raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000") + b"\xff" * 9),
        _tls_hello,
    ],
    ids=["nothing", "nul", "random", "http1", "http2-random", "http2-bad-frame", "tls"],
)
def test_strangers_at_the_port(server: Running, channel: Channel, visit: Any) -> None:
    """What speaks no gRPC is hung up on, and everybody else is served as before."""
    talk = Talk(channel)
    talk.ask(b"before")
    host, _, port = server.address.rpartition(":")
    for _ in range(20):
        visit((host, int(port)))
    assert talk.ask(b"after") == b"after"
    talk.half_close()


# -- limits ---------------------------------------------------------------------------------------------------------


def test_streams_are_bounded(make: MakeServer, fake: Fake) -> None:
    """One more than the limit is refused, whatever its connection; a place that is freed can be taken."""
    endpoint = Endpoint("127.0.0.1:0", max_streams=2)
    with (
        running(make, fake, endpoint) as server,
        connected(server.address) as one,
        connected(server.address) as two,
    ):
        talks = [Talk(one), Talk(one)]
        for talk in talks:
            talk.ask(b"hello")
        refused = Talk(two)
        assert refused.status() == grpc.StatusCode.RESOURCE_EXHAUSTED
        talks[0].half_close()
        assert fake.next() == ("closed", CloseReason.CLOSED)
        assert talks[0].status() == grpc.StatusCode.OK
        talk = Talk(two)
        assert talk.ask(b"hello") == b"hello"
        talk.half_close()
        talks[1].half_close()


def test_connections_are_bounded(make: MakeServer, fake: Fake) -> None:
    """Beyond the limit connections are closed at once; those within it go on."""
    endpoint = Endpoint("127.0.0.1:0", max_connections=2)
    with running(make, fake, endpoint) as server, connected(server.address) as channel:
        talk = Talk(channel)
        talk.ask(b"hello")
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), SECONDS) as second:
            assert second.recv(9), "the second connection gets the server's settings"
            with socket.create_connection((host, int(port)), SECONDS) as third:
                assert _hung_up(third)
        assert talk.ask(b"hello") == b"hello"
        talk.half_close()


def _hung_up(client: socket.socket) -> bool:
    try:
        return client.recv(9) == b""
    except ConnectionResetError:
        return True


def test_an_address_in_use(make: MakeServer, fake: Fake) -> None:
    """The port is not shared with another process: the second server says so."""
    with running(make, fake, Endpoint("127.0.0.1:0")) as first:
        second = make(Endpoint(first.address), fake.processor, fake, fake.health)
        with pytest.raises(StackError, match=r"cannot listen on 127\.0\.0\.1:"):
            second.start()


def test_a_unix_socket(make: MakeServer, fake: Fake, tmp_path: Path) -> None:
    """The usual way for Envoy to come."""
    endpoint = Endpoint(f"unix:{tmp_path}/sock")
    with running(make, fake, endpoint) as server, connected(server.address) as channel:
        assert server.address == f"unix:{tmp_path}/sock"
        assert list(channel.stream_stream(PROCESS)(iter([b"one", b"two"]))) == [b"one", b"two"]


# -- health ---------------------------------------------------------------------------------------------------------


class Health:
    """A client of the health service."""

    def __init__(self, channel: Channel) -> None:
        serialise = health_pb2.HealthCheckRequest.SerializeToString
        parse = health_pb2.HealthCheckResponse.FromString
        self._check: Any = channel.unary_unary(HEALTH_CHECK, serialise, parse)
        self._watch: Any = channel.unary_stream(HEALTH_WATCH, serialise, parse)

    def check(self, service: str = "") -> int:
        """Ask once."""
        return int(self._check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS).status)

    def watch(self, service: str = "") -> Any:
        """Ask to be told."""
        return self._watch(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)


@pytest.mark.parametrize("service", ["", "envoy.service.ext_proc.v3.ExternalProcessor"])
def test_check_is_the_and_of_the_parts(channel: Channel, fake: Fake, service: str) -> None:
    """A journal that cannot be written makes the worker NOT_SERVING, and it comes back by itself."""
    health = Health(channel)
    assert health.check(service) == SERVING
    fake.journal_writable = False
    assert health.check(service) == NOT_SERVING
    fake.journal_writable = True
    assert health.check(service) == SERVING


def test_check_of_an_unknown_service(channel: Channel) -> None:
    """NOT_FOUND, as the health protocol says; also for what is no request."""
    assert status_of(lambda: Health(channel).check("another")) == grpc.StatusCode.NOT_FOUND
    assert status_of(lambda: channel.unary_unary(HEALTH_CHECK)(b"\xff")) == grpc.StatusCode.NOT_FOUND


def test_watch_tells_each_change(channel: Channel, fake: Fake) -> None:
    """The status at once, then every transition, to each of several watches."""
    watches = [Health(channel).watch() for _ in range(3)]
    assert [next(watch).status for watch in watches] == [SERVING] * 3
    fake.journal_writable = False
    assert [next(watch).status for watch in watches] == [NOT_SERVING] * 3
    fake.journal_writable = True
    assert [next(watch).status for watch in watches] == [SERVING] * 3
    for watch in watches:
        watch.cancel()


def test_watch_of_an_unknown_service(channel: Channel) -> None:
    """SERVICE_UNKNOWN, and the call stays open, as the health protocol says."""
    watch = Health(channel).watch("another")
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


# -- timers and the end ---------------------------------------------------------------------------------------------


def test_the_loop_ticks_when_idle_and_when_busy(channel: Channel, fake: Fake) -> None:
    """Timers run with and without traffic."""
    talk = Talk(channel)
    for _ in range(3):
        assert fake.ticks.acquire(timeout=SECONDS)
    before = len(fake.processors)
    while not fake.ticks.acquire(blocking=False):
        talk.ask(b"busy")
    assert len(fake.processors) >= before
    talk.half_close()


def test_stop_lets_exchanges_finish(server: Running, channel: Channel, fake: Fake) -> None:
    """Health first, no new streams, those that run go on; it ends when nothing is in flight."""
    fake.in_flight = 1
    watch = Health(channel).watch()
    assert next(watch).status == SERVING
    talk = Talk(channel)
    talk.ask(b"before")
    server.server.stop(3600.0)
    assert next(watch).status == NOT_SERVING
    with connected(server.address) as late:
        while (status := _empty_stream(late)) == grpc.StatusCode.OK:  # the listener closes a moment later
            pass
        assert status == grpc.StatusCode.UNAVAILABLE
    assert talk.ask(b"after") == b"after"
    talk.half_close()
    assert talk.status() == grpc.StatusCode.OK
    fake.in_flight = 0
    server.join()
    assert fake.processors[0].closings == [CloseReason.CLOSED]


def _empty_stream(channel: Channel) -> grpc.StatusCode:
    talk = Talk(channel)
    talk.half_close()
    return talk.status()


def test_streams_left_at_the_end_are_drained(server: Running, channel: Channel, fake: Fake) -> None:
    """The recorder hears of it before the streams end, each once, and Envoy sees an error."""
    fake.in_flight = 3
    talks = [Talk(channel) for _ in range(3)]
    for talk in talks:
        talk.ask(b"before")
    server.server.stop(0.0)
    server.join()
    assert fake.next() == ("drain",)
    assert [fake.next() for _ in talks] == [("closed", CloseReason.DRAIN)] * 3
    assert {talk.status() for talk in talks} <= CUT


def test_a_second_stop_shortens_the_first(server: Running, channel: Channel, fake: Fake) -> None:
    """And a longer one after it changes nothing."""
    fake.in_flight = 1
    talk = Talk(channel)
    talk.ask(b"before")
    server.server.stop(3600.0)
    server.server.stop(0.0)
    server.server.stop(3600.0)
    server.join()
    assert [fake.next(), fake.next()] == [("drain",), ("closed", CloseReason.DRAIN)]
    talk.half_close()


def test_a_gate_that_opens_during_the_end(server: Running, channel: Channel, fake: Fake) -> None:
    """The stream was cancelled under it: its processor hears of the drain once the gate has opened."""
    talk = Talk(channel)
    talk.say(b"gate")
    open_gate = fake.gate()
    server.server.stop(0.0)
    assert fake.next() == ("drain",)
    assert talk.status() in CUT
    assert fake.events.empty()
    open_gate(b"too late")
    server.join()
    assert fake.next() == ("closed", CloseReason.DRAIN)


def test_a_gate_that_never_opens(make: MakeServer, fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    """It does not hold up the end for ever, and opening it afterwards does no harm."""
    endpoint = Endpoint("127.0.0.1:0", last_words=0.1)
    with running(make, fake, endpoint) as server, connected(server.address) as channel:
        talk = Talk(channel)
        talk.say(b"gate")
        open_gate = fake.gate()
        server.server.stop(0.0)
        server.join()
        assert "1 streams were still waiting" in caplog.text
        open_gate(b"too late")
        talk.half_close()


# -- Envoy's access log ---------------------------------------------------------------------------------------------


def _access_log(channel: Channel, messages: queue.SimpleQueue[bytes | None]) -> Any:
    return channel.stream_unary(ACCESS_LOG).future(iter(messages.get, None), timeout=SECONDS)


def test_messages_of_the_access_log_arrive(server: Running, channel: Channel, fake: Fake) -> None:
    """In their order, also behind one that cannot be taken; the stream is counted while it is open."""
    messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = _access_log(channel, messages)
    for message in (b"one", b"odd", b"two"):
        messages.put(message)
    assert [fake.access_log.messages.get(timeout=SECONDS) for _ in range(2)] == [b"one", b"two"]
    assert fake.access_log.streams == 1
    messages.put(None)
    assert call.result(SECONDS) == b""
    eventually(lambda: fake.access_log.streams == 0, "the end of the stream")


def test_the_end_waits_for_the_last_entries(server: Running, channel: Channel, fake: Fake) -> None:
    """Exchanges are cut first, and what Envoy then says of them is still taken."""
    messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = _access_log(channel, messages)
    messages.put(b"one")
    assert fake.access_log.messages.get(timeout=SECONDS) == b"one"
    talk = Talk(channel)
    talk.ask(b"before")
    fake.in_flight = 1
    fake.access_log.expects_more = True
    server.server.stop(0.0)
    assert [fake.next(), fake.next()] == [("drain",), ("closed", CloseReason.DRAIN)]
    messages.put(b"last")
    assert fake.access_log.messages.get(timeout=SECONDS) == b"last"
    assert server.thread.is_alive()
    fake.access_log.expects_more = False
    server.join()
    assert status_of(lambda: call.result(SECONDS)) != grpc.StatusCode.OK
    messages.put(None)
    talk.half_close()


def test_a_second_stop_waits_for_no_entries(server: Running, channel: Channel, fake: Fake) -> None:
    """Whoever is in a hurry gets the end."""
    fake.access_log.expects_more = True
    server.server.stop(0.0)
    server.server.stop(0.0)
    server.join()
