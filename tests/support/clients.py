"""The network side of the official client packages: what they sent, and what they got, byte for byte.

watching = Watching()
client = openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=watching), ...)
watching.seen[0].response
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator

import httpx2


@dataclasses.dataclass
class Seen:
    """One exchange as the client's side of the connection saw it."""

    request: bytes
    status: int
    headers: httpx2.Headers
    response: bytearray = dataclasses.field(default_factory=bytearray)

    @property
    def id(self) -> str:
        return self.headers["x-audit-id"]


class Watching(httpx2.HTTPTransport):
    """Keeps what passes between a client package and the network."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        seen = Seen(request.read(), response.status_code, response.headers)
        self.seen.append(seen)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Copy(response.stream, seen.response)
        return response


class _Copy(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, copy: bytearray) -> None:
        self._stream = stream
        self._copy = copy

    def __iter__(self) -> Iterator[bytes]:
        for data in self._stream:
            self._copy += data
            yield data

    def close(self) -> None:
        self._stream.close()


class AsyncWatching(httpx2.AsyncHTTPTransport):
    """The same for asynchronous clients."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        seen = Seen(await request.aread(), response.status_code, response.headers)
        self.seen.append(seen)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _AsyncCopy(response.stream, seen.response)
        return response


class _AsyncCopy(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, copy: bytearray) -> None:
        self._stream = stream
        self._copy = copy

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            self._copy += data
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()
