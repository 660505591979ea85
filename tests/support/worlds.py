"""Small worlds of exchanges, as a journal gives them, for what is told of the deaths of backends."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from support.exchanges import made

from extproc.core.times import timestamp
from extproc.history.join import Exchange
from extproc.incidents import evidence
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Incident, incidents

START: Final = 1_763_694_720
"""2025-11-21T03:12:00Z: second 0 of a world."""
ENGINE_ERROR: Final = "The engine is gone"

CHAT: Final[Mapping[str, Any]] = {"messages": [{"role": "user", "content": "Tell me about rivers."}], "max_tokens": 64}
SCHEMA: Final = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
JSON_SCHEMA: Final[dict[str, Any]] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
}


class World:
    """Exchanges that are added one by one, at seconds from its start."""

    def __init__(self, seed: int = 1) -> None:
        self.exchanges: list[dict[str, Any]] = []
        self._bodies: dict[str, bytes] = {}
        self._answers: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self.random = random.Random(seed)

    def add(
        self,
        start: float,
        end: float | None,
        outcome: str | None = "ok",
        *,
        status: int | None = 200,
        headers: float | None = None,
        first: float | None = None,
        last: float | None = None,
        silence: tuple[float, float] | None = None,
        upstream: str = "gpu-1:8000",
        model: str = "m",
        stream: bool = True,
        error: str = "",
        path: str = "/v1/chat/completions",
        body: bytes | None = None,
        answer: bytes | None = None,
        failed_attempts: Sequence[tuple[float, float, str, str]] = (),
        **params: Any,
    ) -> str:
        """One exchange; its id. `headers`: when its answer began, where that is known to be before its first token;
        `first`, `last`: when its first token and its last byte came; `silence`: its longest one, from and to;
        `failed_attempts`: from, to, where, and Envoy's flag."""
        document = {**CHAT, "model": model, **({"stream": True} if stream else {}), **params}
        content = _content(document) if body is None else body
        id, number = self._next_id(start)
        self._bodies[id] = content
        if answer is not None:
            self._answers[id] = answer
        last = last if last is not None else end if outcome in ("ok", "upstream_error_frame") else first or headers
        begun = headers if headers is not None else first if first is not None else end if last is not None else None
        self.exchanges.append(
            {
                "id": id,
                "started_at": _moment(start),
                "ended_at": None if end is None else _moment(end),
                "outcome": outcome,
                "status": status,
                "upstream": upstream,
                "cluster": "llm",
                "path": path,
                "client": "192.0.2.9:50123",
                "trace_id": f"{number:032x}",
                "failed_attempts": [_attempt(*each) for each in failed_attempts],
                "request": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
                "response": {
                    "bytes": 100 if answer is None else len(answer),
                    "content_type": "text/event-stream" if stream and status == 200 else "application/json",
                    "first_byte_ms": _after(start, begun),
                    "last_byte_ms": _after(start, last),
                    **_silence(start, silence),
                },
                "llm": {
                    "api": "chat.completions",
                    "model": model,
                    "stream": stream,
                    "params": {},
                    "ttft_ms": _after(start, first),
                    "fingerprint": _shape(document),
                    "error": {"message": error} if error else None,
                },
            }
        )
        return id

    def _next_id(self, start: float) -> tuple[str, int]:
        number = next(self._numbers)
        milliseconds = int((START + start) * 1000)
        return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-{number:012x}", number

    def traffic(
        self, start: float, end: float, *, count: int = 10, upstream: str = "gpu-1:8000", **params: Any
    ) -> list[str]:
        """Clients who ask again and again from one second to another, each ended well, a few with a schema."""
        ids = []
        for client in range(count):
            at = start + client * 0.05
            while at < end - 3:
                lasts = self.random.uniform(1, 3)
                kind = JSON_SCHEMA if client % 5 == 4 else {}
                seed = self.random.randrange(10**6, 10**9)
                one = {"seed": seed, **kind, **params}
                ids.append(self.add(at, at + lasts, first=at + 0.2, upstream=upstream, **one))
                at += lasts + 0.01
        return ids

    def streams(
        self,
        start: float,
        at: float,
        outcome: str,
        *,
        count: int = 10,
        spread: float = 0.5,
        last: float | None = None,
        upstream: str = "gpu-1:8000",
        **params: Any,
    ) -> list[str]:
        """Streams with tokens that all end so, from a moment on."""
        return [
            self.add(
                start + 0.1 * number,
                at + spread * number / max(count - 1, 1),
                outcome,
                first=start + 0.1 * number + 0.3,
                last=last if last is not None or "reset" not in outcome else at - 0.05,
                upstream=upstream,
                seed=self.random.randrange(10**6, 10**9),
                **params,
            )
            for number in range(count)
        ]

    def refused(self, start: float, end: float, *, count: int = 10, upstream: str = "gpu-1:8000") -> None:
        """Clients who find no connection."""
        for number in range(count):
            at = start + (end - start) * number / count
            self.add(at, at + 0.01, "upstream_connect_fail", status=503, upstream=upstream)

    def flights(self) -> list[Flight]:
        """What the search sees of them."""
        return [flight for each in self.exchanges for flight in evidence.flights(made(each), self._body)]

    @property
    def bodies(self) -> dict[str, bytes]:
        """The requests, by their digests."""
        return {hashlib.sha256(each).hexdigest(): each for each in self._bodies.values()}

    def incidents(self) -> list[Incident]:
        """What is found."""
        return incidents(self.flights())

    def _body(self, exchange: Exchange, direction: str) -> bytes | None:
        return self._bodies[exchange.id] if direction == "request" else self._answers.get(exchange.id)


def kinds(found: Sequence[Incident]) -> list[str]:
    """The classes of incidents."""
    return [each.kind.value for each in found]


def moments(found: Sequence[Incident]) -> list[float]:
    """Their moments, in seconds of the world."""
    return [round(each.sighting.at - START, 3) for each in found]


def suspects(incident: Incident, count: int = 3) -> list[str]:
    """The ids of its first suspects."""
    return [each.flight.id for each in incident.suspects[:count]]


def _content(document: Mapping[str, Any]) -> bytes:
    """A request's body; `...` takes a parameter away."""
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def _attempt(began: float, over: float, where: str, flag: str) -> dict[str, Any]:
    return {
        "upstream": where,
        "cluster": "llm",
        "status": None,
        "response_flags": [flag],
        "started_at": _moment(began),
        "duration_ms": (over - began) * 1000,
    }


def _silence(start: float, span: tuple[float, float] | None) -> dict[str, float | None]:
    if span is None:
        return {"silence_at_ms": None, "max_silence_ms": None}
    return {"silence_at_ms": _after(start, span[0]), "max_silence_ms": (span[1] - span[0]) * 1000}


def _moment(second: float) -> str:
    return timestamp(START * 10**9 + round(second * 1e6) * 1000)


def _after(start: float, at: float | None) -> float | None:
    return None if at is None else (at - start) * 1000


def _shape(document: Mapping[str, Any]) -> str:
    """As the fingerprint does it: the names and types, not the values."""
    shape = sorted((name, type(value).__name__) for name, value in document.items())
    return hashlib.sha256(repr(shape).encode()).hexdigest()[:16]
