"""What a dialect makes of a body, at arm's length: fed in batches, and unable to harm the traffic.

A dialect only looks on. Should one fail, which is a fault of ours, the failure becomes the `parse_error` of the
record, the body is recorded as always, and the exchange goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from extproc.core.dialects import RequestReading, ResponseReading
from extproc.core.records import RequestLlm, ResponseLlm

L = TypeVar("L", RequestLlm, ResponseLlm)

READ_BATCH = 16 * 1024
"""Once chunk times no longer matter, a dialect gets so many bytes at a time: nothing per chunk but an append."""


class RequestReader:
    """Reads a request body. `finish` gives the request part of `llm`."""

    __slots__ = ("_failure", "_reading")

    def __init__(self, reading: RequestReading) -> None:
        self._reading = reading
        self._failure: str | None = None

    def feed(self, data: bytes) -> None:
        if self._failure is None:
            try:
                self._reading.feed(data)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the traffic
                self._failure = _describe(error)

    def finish(self, *, complete: bool) -> RequestLlm | None:
        return _finish(RequestLlm, self._reading.finish, self._failure, complete=complete)


class ResponseReader:
    """Reads a response body. `finish` gives the response part of `llm`, all but its times."""

    __slots__ = ("_failure", "_reading", "_unread", "_unread_bytes")

    def __init__(self, reading: ResponseReading) -> None:
        self._reading = reading
        self._failure: str | None = None
        self._unread: list[bytes] = []
        self._unread_bytes = 0

    @property
    def first_token_at(self) -> int | None:
        """When the chunk arrived that held the first token; None where the answer is not a stream."""
        return self._reading.first_token_at

    def feed(self, data: bytes, at: int) -> None:
        if self._reading.wants_chunks:
            self._feed(data, at)
            return
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes >= READ_BATCH:
            self._feed(self._take_unread(), at)

    def finish(self, at: int, *, complete: bool) -> ResponseLlm | None:
        if self._unread:
            self._feed(self._take_unread(), at)
        return _finish(ResponseLlm, self._reading.finish, self._failure, complete=complete)

    def _feed(self, data: bytes, at: int) -> None:
        if self._failure is None:
            try:
                self._reading.feed(data, at)
            except Exception as error:  # noqa: BLE001 - as in RequestReader
                self._failure = _describe(error)

    def _take_unread(self) -> bytes:
        data = b"".join(self._unread)
        self._unread, self._unread_bytes = [], 0
        return data


def _finish(kind: type[L], finish: Callable[[bool], L | None], failure: str | None, *, complete: bool) -> L | None:
    if failure is None:
        try:
            return finish(complete)
        except Exception as error:  # noqa: BLE001 - as above
            failure = _describe(error)
    return kind(parse_error=failure)


def _describe(error: Exception) -> str:
    return f"the reader failed: {type(error).__name__}"  # its text could quote the body
