"""A bounded load on an LLM server: so many requests, so many at a time, each measured.

    run = Run(Plan(url, ...))
    await run.go(progress)       # `run.stop()` from a signal handler ends it early; what runs is cut off
    run.results                  # what came of each request that ended

The client is aiohttp's, so that it needs the extra `stack`. Answers are read by the same dialects as the recorder's.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp

from extproc.core import dialects
from extproc.core.reading import ResponseReader
from extproc.core.records import ResponseLlm

COMPLETIONS = "completions"
_BREATH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. `url` with its path; the API is told by it."""

    url: str
    requests: int
    concurrency: int
    stream: bool = False
    model: str = "demo"
    prompt: str = "Hello"
    max_tokens: int = 32
    timeout_seconds: float = 600.0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def api(self) -> str | None:
        """`chat.completions` or `completions`; None for a path that is neither."""
        path = self.url.partition("://")[2].partition("/")[2]
        api = dialects.api_of("POST", "/" + path)
        return api if api in {"chat.completions", COMPLETIONS} else None

    def body(self) -> bytes:
        """The request, the same each time."""
        fields: dict[str, Any] = {"model": self.model, "max_tokens": self.max_tokens}
        if self.api == COMPLETIONS:
            fields["prompt"] = self.prompt
        else:
            fields["messages"] = [{"role": "user", "content": self.prompt}]
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(fields).encode()


@dataclass(slots=True)
class Result:
    """What came of one request. `error`: what went wrong, in a few words; None for a whole answer with status 200."""

    seconds: float
    status: int | None = None
    upstream: str | None = None
    first_token_seconds: float | None = None
    output_tokens: int | None = None
    error: str | None = None


class Run:
    """One load."""

    def __init__(self, plan: Plan) -> None:
        self.results: list[Result] = []
        self.seconds = 0.0
        """How long it has taken, from the first request to the last answer."""
        self._plan = plan
        self._body = plan.body()
        self._left = plan.requests
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Send no more, and wait no longer for what was sent."""
        self._stop.set()

    async def go(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Send everything. `progress` hears now and then how far it is."""
        plan = self._plan
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=plan.timeout_seconds)
        connector = aiohttp.TCPConnector(limit=plan.concurrency)
        headers = {"content-type": "application/json", **plan.headers}
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
            senders = [asyncio.create_task(self._send(session)) for _ in range(min(plan.concurrency, plan.requests))]
            stop = asyncio.create_task(self._stop.wait())
            while not all(sender.done() for sender in senders) and not stop.done():
                await asyncio.wait(
                    [*(each for each in senders if not each.done()), stop],
                    timeout=_BREATH_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                progress(f"{len(self.results)} of {plan.requests}")
            for task in (*senders, stop):
                task.cancel()
            for outcome in await asyncio.gather(*senders, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome
        self.seconds = time.monotonic() - began

    async def _send(self, session: aiohttp.ClientSession) -> None:
        while self._left > 0:
            self._left -= 1
            began = time.monotonic_ns()
            result = Result(0.0)
            try:
                await self._exchange(session, result, began)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                result.error = _failure(error)
            result.seconds = (time.monotonic_ns() - began) / 1e9
            self.results.append(result)

    async def _exchange(self, session: aiohttp.ClientSession, result: Result, began: int) -> None:
        async with session.post(self._plan.url, data=self._body) as answer:
            result.status = answer.status
            result.upstream = answer.headers.get("x-upstream")
            reading = dialects.ResponseReading(
                self._plan.api, answer.headers.get("content-type"), None, status=answer.status
            )
            reader = ResponseReader(reading)
            first_at = at = began
            async for data in answer.content.iter_any():
                at = time.monotonic_ns()
                first_at = at if first_at == began else first_at
                reader.feed(data, at)
            llm = reader.finish(at, complete=True) or ResponseLlm()
        result.error = _what_is_wrong(answer.status, llm, stream=self._plan.stream)
        if llm.output_chars:
            result.first_token_seconds = ((reader.first_token_at or first_at) - began) / 1e9
        result.output_tokens = (llm.usage or {}).get("completion_tokens")


def _failure(error: Exception) -> str:
    """The kind of failure, with the system's words where it has any."""
    if not isinstance(error, aiohttp.ClientConnectorError):
        return type(error).__name__
    number = error.os_error.errno or 0
    reason = os.strerror(number) if number > 0 else error.os_error.strerror  # those below are of the name's resolver
    return f"{type(error).__name__} ({reason})"


def _what_is_wrong(status: int, llm: ResponseLlm, *, stream: bool) -> str | None:
    if status != HTTPStatus.OK:
        return f"status {status}"
    if llm.error:
        return "error in the stream"
    if llm.parse_error:
        return "not the format"
    return "stream without its end" if stream and not llm.done else None
