"""What only the completion queue's transport has: names that are private to grpcio, streams that leave nothing."""

from __future__ import annotations

import gc
import weakref

import grpc
import pytest
from support.transports import Fake, Talk, connected, running

from extproc.core.events import CloseReason
from extproc.service import completion_queue
from extproc.service.transport import Endpoint


def test_grpcio_still_has_every_private_name() -> None:
    """Fails with the names that the installed grpcio lacks: then `transport: aio` is what works."""
    assert completion_queue.missing_names() == []
    assert isinstance(grpc.ssl_server_credentials([(b"", b"")])._credentials, object)  # type: ignore[attr-defined]


def test_a_missing_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above would say."""
    names = ("CompletionQueue.poll", "CompletionQueue.pole", "Gone.entirely")
    monkeypatch.setattr(completion_queue, "_PRIVATE", names)
    assert completion_queue.missing_names() == [
        "grpc._cython.cygrpc.CompletionQueue.pole",
        "grpc._cython.cygrpc.Gone.entirely",
    ]


def test_every_name_is_missing_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpcio may move the whole module."""
    monkeypatch.setattr(completion_queue, "cygrpc", None)
    assert len(completion_queue.missing_names()) == len(completion_queue._PRIVATE)


def test_a_stream_leaves_nothing_to_the_garbage_collector() -> None:
    """Half-closed, reset or failed: its processor is gone as soon as it has heard of the end."""
    fake = Fake()
    gc.collect()
    gc.disable()
    try:
        with (
            running(completion_queue.Server, fake, Endpoint("127.0.0.1:0")) as server,
            connected(server.address) as channel,
        ):
            for end in (Talk.half_close, Talk.cancel, lambda talk: talk.say(b"boom")):
                talk = Talk(channel)
                talk.ask(b"one")
                processor = weakref.ref(fake.processors.pop())
                end(talk)
                assert fake.next()[0] == "closed"
                talk.status()
                other = Talk(channel)  # the event of the end is dropped before the next one is handled
                other.ask(b"one")
                other.half_close()
                assert fake.next() == ("closed", CloseReason.CLOSED)
                fake.processors.clear()
                assert processor() is None
    finally:
        gc.enable()


def test_a_batch_that_cannot_be_started_ends_the_stream() -> None:
    """Whichever thread tried: the polling thread takes the stream up again and ends it."""
    fake = Fake()
    with (
        running(completion_queue.Server, fake, Endpoint("127.0.0.1:0")) as server,
        connected(server.address) as channel,
    ):
        talk = Talk(channel)
        talk.say(b"gate")
        stream = fake.gate().__self__  # type: ignore[attr-defined]  # `send` is a method of the stream
        start = stream._start
        stream._start = lambda *batch: 1
        stream.send(b"reply")
        stream._start = start
        assert talk.status() == grpc.StatusCode.INTERNAL
        assert fake.next() == ("closed", CloseReason.CANCELLED)
