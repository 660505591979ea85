"""The bench's backend and its SSE client, on uvloop and raw protocols, so that neither is the bottleneck.

`traffic.py` prints `ready PORT` and then obeys one JSON object a line on stdin, answering each with one on stdout:

    {"do": "open", "port": P, "streams": N}   open N SSE streams through the Envoy at P; answered when each has a chunk
    {"do": "pace", "rate": R}                 R chunks a second, spread evenly over time and over the streams
    {"do": "loop"}                            each stream gets its next chunk as soon as its last one has arrived
    {"do": "count"}                           {"chunks": how many have reached the clients so far}
    {"do": "close"}                           let each stream end as an LLM server ends it; answered when all have
    {"do": "check", "port": P}                one short POST; {"status": S}

Being both ends of a stream makes the closed loop possible: with one chunk of each stream under way, nothing is
gathered on the way, and what comes through is what Envoy and the server behind it can do with single chunks.
A POST without `"stream":true` (a proxy may have written it anew) is answered with a short completion; that is all that
the request measurements need.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
from collections.abc import Callable
from typing import Any, ClassVar, cast

import uvloop

MODEL = "demo-model"
PROMPT = "Say in one sentence why a record that is written at the end of a request misses the requests that matter."
SHORT_BODY = json.dumps(
    {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}],
        "max_tokens": 64,
        "temperature": 0.2,
        "stream": False,
    },
    separators=(",", ":"),
)


def completion() -> bytes:
    """The whole HTTP answer to a short POST."""
    answer = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1790000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Because the request that kills the server never ends."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 31, "completion_tokens": 10, "total_tokens": 41},
    }
    body = json.dumps(answer, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    """One chat.completion.chunk as an SSE event in an HTTP chunk of its own."""
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }
    return http_chunk(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")


def http_chunk(data: bytes) -> bytes:
    """A chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


COMPLETION = completion()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = event({"role": "assistant", "content": ""})
CHUNK = event({"content": " token"})
STREAMS = re.compile(rb'"stream": ?true')
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
LAST = event({}, "stop") + http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Backend(asyncio.Protocol):
    """Answers short POSTs; keeps the transport of each SSE stream by the number that its client sent as `user`."""

    streams: ClassVar[dict[int, asyncio.WriteTransport]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.pending = b""

    def data_received(self, data: bytes) -> None:
        self.pending += data
        while (head := self.pending.find(b"\r\n\r\n")) >= 0:
            announced = LENGTH.search(self.pending, 0, head)
            end = head + 4 + (int(announced[1]) if announced else 0)
            if len(self.pending) < end:
                return
            body, self.pending = self.pending[head + 4 : end], self.pending[end:]
            if STREAMS.search(body):
                self.streams[int(json.loads(body)["user"])] = self.transport
                self.transport.write(HEAD + FIRST)
            else:
                self.transport.write(COMPLETION)


class Client(asyncio.Protocol):
    """One request and its answer: counts the SSE events, and says when the first has come and when all is over."""

    def __init__(self, request: bytes, on_events: Callable[[int], None]) -> None:
        self.request = request
        self.on_events = on_events
        self.status = 0
        self.head = b""
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.head += data
            head, end, data = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            self.status = int(head[9:12])
        if data and not self.started.done():
            self.started.set_result(None)
        self.on_events(data.count(b"\n\n"))
        if data.endswith(b"0\r\n\r\n"):
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.started, self.ended):
            if not future.done():
                future.set_result(None)


def post(body: str) -> bytes:
    """A whole HTTP request."""
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


class Traffic:
    """The open streams and what drives them."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.chunks = 0
        self.looping = False
        self.pacer: asyncio.Task[None] | None = None

    async def open(self, port: int, streams: int) -> dict[str, int]:
        loop = asyncio.get_running_loop()
        Backend.streams.clear()
        self.clients = []
        # In portions: a thousand connections at once overflow Envoy's listen backlog.
        for start in range(0, streams, 50):
            portion = []
            for number in range(start, min(start + 50, streams)):
                body = json.dumps(
                    {**json.loads(SHORT_BODY), "stream": True, "user": str(number)}, separators=(",", ":")
                )
                client = Client(post(body), functools.partial(self.arrived, number))
                await loop.create_connection(functools.partial(lambda made: made, client), "127.0.0.1", port)
                portion.append(client)
            await asyncio.gather(*(client.started for client in portion))
            self.clients += portion
        return {"open": len(Backend.streams), "refused": sum(client.status != 200 for client in self.clients)}

    def arrived(self, number: int, events: int) -> None:
        self.chunks += events
        if self.looping and events:
            Backend.streams[number].write(CHUNK)

    async def pace(self, rate: int) -> dict[str, int]:
        await self.quiet()
        self.pacer = asyncio.create_task(self.write_at(rate))
        return {"rate": rate}

    async def write_at(self, rate: int) -> None:
        loop = asyncio.get_running_loop()
        transports = list(Backend.streams.values())
        start, sent = loop.time(), 0
        while True:
            due = int((loop.time() - start) * rate)
            for number in range(sent, due):
                transports[number % len(transports)].write(CHUNK)
            sent = due
            await asyncio.sleep(0.001)

    async def loop(self) -> dict[str, int]:
        await self.quiet()
        self.looping = True
        for transport in Backend.streams.values():
            transport.write(CHUNK)
        return {}

    async def quiet(self) -> None:
        """Stop sending, and let what is under way arrive."""
        self.looping = False
        if self.pacer:
            self.pacer.cancel()
            self.pacer = None
        seen = -1
        while seen != self.chunks:
            seen = self.chunks
            await asyncio.sleep(0.1)

    async def close(self) -> dict[str, int]:
        await self.quiet()
        for transport in Backend.streams.values():
            transport.write(LAST)
        await asyncio.gather(*(client.ended for client in self.clients))
        return {"closed": len(self.clients)}

    async def check(self, port: int) -> dict[str, int]:
        answered = asyncio.Event()
        client = Client(post(SHORT_BODY), lambda events: answered.set())
        try:
            await asyncio.get_running_loop().create_connection(lambda: client, "127.0.0.1", port)
        except OSError:
            return {"status": 0}
        await asyncio.wait([client.started], timeout=5)
        client.transport.close()
        return {"status": client.status}

    async def obey(self, order: dict[str, Any]) -> dict[str, int]:
        match order:
            case {"do": "open", "port": port, "streams": streams}:
                return await self.open(port, streams)
            case {"do": "pace", "rate": rate}:
                return await self.pace(rate)
            case {"do": "loop"}:
                return await self.loop()
            case {"do": "count"}:
                return {"chunks": self.chunks}
            case {"do": "close"}:
                return await self.close()
            case {"do": "check", "port": port}:
                return await self.check(port)
        raise ValueError(order)


async def main() -> None:
    """Listen, and obey."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Backend, "127.0.0.1", 0, backlog=2048)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    traffic = Traffic()
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    while line := await orders.readline():
        print(json.dumps(await traffic.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
