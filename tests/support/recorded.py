"""A journal with known exchanges in it, written by the real core and the real writer."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from support.journals import appended

from extproc.core.effects import Effect
from extproc.core.events import Body, CloseReason, Direction, Headers
from extproc.core.exchange import ExchangeRecorder, RecorderSettings
from extproc.core.record import encode
from extproc.core.redact import Redactor
from extproc.core.times import timestamp
from extproc.core.trace import TraceContext
from extproc.errors import JournalError
from extproc.journal.writer import Journal

MS = 1_000_000
SECOND = 1_000_000_000
START_NS = 1_763_694_720 * SECOND
"""2025-11-21T03:12:00Z: when the first exchange begins."""

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2028next\x7f"
"""What must not reach a terminal: ESC, BEL, C1's CSI, a direction override, a line separator, DEL."""

CHAT = b'{"model":"llama-3","messages":[{"role":"user","content":"hi"}],"temperature":0.5}'
ANSWER = (
    b'{"id":"c1","object":"chat.completion","model":"llama-3-8b","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"Hello there"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,'
    b'"total_tokens":11}}'
)

Fields = Sequence[tuple[str, str | bytes]]


class Recording:
    """Writes exchanges into a directory, one a minute from START_NS on. A context manager: closes the journal."""

    def __init__(
        self, directory: Path, *, worker: int = 0, boot_id: str = "b00t", inline_body_bytes: int = 1000
    ) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.journal = Journal(directory, worker=worker, boot_id=boot_id, durability="write", free_space_floor_bytes=0)
        self.journal.start()
        self._settings = RecorderSettings(Redactor(b"k" * 32), inline_body_bytes=inline_body_bytes)
        self._worker = worker
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.journal.close(10)

    def add(
        self,
        body: bytes | None = CHAT,
        answer: bytes | Sequence[bytes] | None = ANSWER,
        *,
        method: str = "POST",
        path: str = "/v1/chat/completions",
        scheme: str = "http",
        headers: Fields = (("content-type", "application/json"),),
        status: int = 200,
        answer_headers: Fields = (("content-type", "application/json"),),
        upstream: str = "10.0.0.7:8000",
        minute: float | None = None,
        finished: bool = True,
        cut: bool = False,
        pause_ms: int = 50,
    ) -> str:
        """Record one exchange and return its id. Without `body` only the answer was seen; without `answer` only the
        request, and with `finished` false not the end of that; `cut`: the answer broke off; its pieces come
        `pause_ms` apart."""
        number = next(self._numbers)
        start = START_NS + int((number - 1 if minute is None else minute) * 60 * SECOND)
        id = f"{start // MS >> 16:08x}-{start // MS & 0xFFFF:04x}-7000-{0x8000 + self._worker:04x}-{number:012x}"
        trace = TraceContext("a" * 32, f"{number:016x}")
        exchange = ExchangeRecorder(id, self._settings, started_ns=start, started_at=start, trace=trace, parent=None)
        if body is not None:
            pseudo = [(":method", method), (":path", path), (":authority", "llm.test"), (":scheme", scheme)]
            self._play_request(exchange, start, body, [*pseudo, *headers], finished=finished)
        if answer is not None:
            pieces = [answer] if isinstance(answer, bytes) else answer
            head = Headers(
                Direction.RESPONSE,
                _raw([(":status", str(status)), *answer_headers]),
                False,
                start + 100 * MS,
                {"upstream.address": upstream, "xds.cluster_name": "llm", "xds.route_name": "default"},
            )
            self._carry_out(exchange.receive(head).effects)
            self._play_answer(exchange, start, pieces, cut=cut, pause_ms=pause_ms)
            self._carry_out(exchange.close(CloseReason.CLOSED, start + 900 * MS))
        return id

    def add_access(self, id: str | None, **fields: Any) -> None:
        """Record Envoy's access entry of an exchange; None: of one that passed without the recorder."""
        start = START_NS if id is None else int(id.replace("-", "")[:12], 16) * MS
        head = {"type": "access", "id": id, "at": timestamp(start + 2 * SECOND), "started_at": timestamp(start)}
        said = {"response_flags": [], "response_code_details": "via_upstream", "cluster": "llm", "route": "default"}
        self._carry_out([appended(encode(head | said | fields), gate=False)])

    def _play_request(
        self, exchange: ExchangeRecorder, at: int, body: bytes, headers: Fields, *, finished: bool
    ) -> None:
        attributes = {"source.address": "192.0.2.9:50123"}
        self._carry_out(exchange.receive(Headers(Direction.REQUEST, _raw(headers), not body, at, attributes)).effects)
        if body:
            self._carry_out(exchange.receive(Body(Direction.REQUEST, body, finished, at + MS)).effects)
        if not finished:
            self._carry_out(exchange.open_record(at + 200 * MS))

    def _play_answer(
        self, exchange: ExchangeRecorder, at: int, pieces: Sequence[bytes], *, cut: bool, pause_ms: int
    ) -> None:
        for number, piece in enumerate(pieces, 1):
            last = number == len(pieces) and not cut
            self._carry_out(
                exchange.receive(Body(Direction.RESPONSE, piece, last, at + (100 + pause_ms * number) * MS)).effects
            )

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        if not effects:
            return
        answer: SimpleQueue[JournalError | None] = SimpleQueue()
        self.journal.submit(effects, answer.put)
        error = answer.get(timeout=20)
        if error is not None:
            raise error


def as_a_crash_leaves_it(directory: Path, copy: Path) -> Path:
    """A copy of a journal that is being written: what is on disk at this moment, and nobody who writes it."""
    shutil.copytree(directory, copy)
    return copy


def _raw(fields: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, bytes]]:
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in fields]
