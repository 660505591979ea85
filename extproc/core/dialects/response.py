"""What a model answered, read while it passes: usage, finish reasons, errors, the time of the first token."""

from __future__ import annotations

import contextlib
from typing import Any

from extproc.core import jsondoc
from extproc.core.dialects.answer import Answer, Dialect
from extproc.core.dialects.anthropic import Messages
from extproc.core.dialects.openai import Chat, Embeddings, Responses
from extproc.core.encoding import Decoder
from extproc.core.jsondoc import Digest, Document, Summary
from extproc.core.sse import Parser, ServerSentEvent

DIALECTS: dict[str, Dialect] = {
    "chat.completions": Chat(),
    "completions": Chat(),
    "embeddings": Embeddings(),
    "responses": Responses(),
    "messages": Messages(),
}

_BOM = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"


class ResponseReading:
    """Reads one response body as it passes: `feed` its bytes as they are on the wire, then `finish`.

    Only `first_token_at` depends on how the body is cut into chunks, so once `wants_chunks` is False the caller
    may gather them. Whether the body is a stream is told by its first byte, because servers answer `stream: true`
    with a JSON error under either content type.
    """

    def __init__(
        self, api: str | None, content_type: str | None, content_encoding: str | None, status: int | None
    ) -> None:
        self.first_token_at: int | None = None
        """When the chunk came that completed the first event with output; None for an answer in one piece."""
        self.wants_chunks = api is not None
        self._api = api
        self._dialect = None if api is None else DIALECTS.get(api)
        self._status = status
        self._typed_as_json = _is_json(content_type)
        self._decoder = Decoder(content_encoding)
        self._head = b""
        self._begun = False
        self._parser: Parser | None = None
        self._document: Document | None = None
        self._answer = Answer()
        self._events = 0
        self._last_at = 0
        self._parse_error: str | None = None

    def feed(self, data: bytes, at: int) -> None:
        """Take the next bytes of the body, which came at `at`."""
        if self._dialect is None or not data:
            return
        self._last_at = at
        for piece in self._decoder.pieces(data):
            if self._parser is not None:
                self._stream(piece)
            elif self._document is not None:
                self._document.feed(piece)
            elif not self._begun:
                self._begin(piece)

    def finish(self, complete: bool) -> dict[str, Any] | None:
        """The `llm` part of the response record; `complete` is False when the body was cut off."""
        if self._api is None or self._dialect is None:
            return None
        self._decoder.finish()
        if self._parser is not None:
            self._events_read(self._parser.finish())
        elif self._document is not None:
            self._read_document(self._document)
        answer = self._answer
        found: dict[str, Any] = {
            "api": self._api,
            "response_model": answer.response_model,
            "response_id": answer.response_id,
            "finish_reasons": answer.finish_reasons,
            "usage": answer.usage,
            "output_chars": answer.output_chars,
            "done": answer.done,
            "error": answer.error,
        }
        problem = "; ".join(filter(None, (self._decoder.error, self._parse_error)))
        if problem:
            found["parse_error"] = problem
        return found

    def _begin(self, piece: bytes) -> None:
        self._head += piece
        stream = is_stream(self._head)
        if stream is None:
            return
        self._begun = True
        if stream:
            self._parser = Parser()
            self._stream(self._head)
        else:
            self.wants_chunks = False
            if self._typed_as_json or self._head.lstrip(_BOM + _SPACE).startswith((b"{", b"[")):
                content = self._dialect.content if self._dialect else frozenset()
                self._document = Document(content, elements_of="choices")
                self._document.feed(self._head)
        self._head = b""

    def _stream(self, piece: bytes) -> None:
        parser, dialect = self._parser, self._dialect
        assert parser is not None
        assert dialect is not None
        lines = parser.plain(piece)
        if lines is None:
            self._events_read(parser.feed(piece))
            return
        token = dialect.lines(self._answer, lines)
        if token is None:
            self._events_read([ServerSentEvent(line) for line in lines.split(b"\n")])
            return
        self._events += lines.count(b"\n") + 1
        if token:
            self._first_token()

    def _events_read(self, events: list[ServerSentEvent]) -> None:
        for event in events:
            if self._event(event):
                self._first_token()
            self._events += 1

    def _event(self, event: ServerSentEvent) -> bool:
        assert self._dialect is not None
        if not event.data.strip():
            return False
        if event.truncated:
            self._note(f"too long at byte {len(event.data)}")
            self._dialect.overlong(self._answer, event.event, event.data, event.tail)
            return False
        try:
            return self._dialect.event(self._answer, event.event, event.data)
        except jsondoc.Malformed as problem:
            if event.unterminated:
                self._note(f"cut off at byte {len(event.data)}")
            else:
                self._note(f"{problem.kind} at byte {problem.at}")
            return False

    def _note(self, problem: str) -> None:
        if self._parse_error is None:
            self._parse_error = f"event {self._events}: {problem}"

    def _first_token(self) -> None:
        if self.first_token_at is None:
            self.first_token_at = self._last_at
            self.wants_chunks = False

    def _read_document(self, document: Document) -> None:
        assert self._dialect is not None
        held = document.held()
        summary = document.finish()
        self._parse_error = summary.parse_error
        body = _without_digests(summary)
        if summary.elements:
            body["choices"] = [_without_digests(element) for element in summary.elements]
        if summary.error is None:
            self._answer.done = bool(body)
            if body and held is not None and self._api != "embeddings":
                body = self._decoded(held) or body
        self._dialect.document(self._answer, body)
        if self._status is not None and self._status >= 400 and body:
            self._answer.fail(body)

    def _decoded(self, held: bytes) -> Any:
        """The whole body. Its top level is fine, but bytes deep inside may not be text."""
        document = held.removeprefix(_BOM)
        try:
            return jsondoc.decode(document)
        except jsondoc.Malformed as problem:
            self._parse_error = f"{problem.kind} at byte {len(held) - len(document) + problem.at}"
        with contextlib.suppress(jsondoc.Malformed):
            return jsondoc.decode_leniently(document)
        return None


def _without_digests(summary: Summary) -> dict[str, Any]:
    return {key: value for key, value in summary.values.items() if not isinstance(value, Digest)}


def is_stream(head: bytes) -> bool | None:
    """Whether a body that begins so is an event stream; None while that cannot be told."""
    first = head.removeprefix(_BOM).lstrip(_SPACE)[:1]
    if (not first and len(head) < 1024) or head == _BOM[: len(head)]:
        return None
    # No JSON value begins with one of these, and every field or comment of an event stream does.
    return first in (b"d", b"e", b"i", b"r", b":")


def _is_json(content_type: str | None) -> bool:
    """Whether a body of this type is meant to be JSON; one without a type may be."""
    kind = (content_type or "application/json").partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json")) or kind == "text/event-stream"
