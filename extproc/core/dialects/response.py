"""What a model answered, read while it passes: usage, finish reasons, errors, the time of the first token, the end."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from msgspec import UNSET

from extproc.core import jsondoc, media
from extproc.core.dialects.answer import Dialect, ResponseSummary
from extproc.core.dialects.anthropic import Messages
from extproc.core.dialects.errors import is_error, is_error_name, is_error_text, message_of
from extproc.core.dialects.openai import Chat, Embeddings, Responses
from extproc.core.encoding import Decoder, may_be_text
from extproc.core.jsondoc import Digest, Document, Summary
from extproc.core.records import ResponseLlm
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
_NOTHING = (b"", b"null")
"""Data that says nothing. llama.cpp begins the stream of several prompts with `null`."""
_BAD_STATUS = 400
_FIRST_BYTES = _LAST_BYTES = 64


class ResponseReading:
    """Reads one response body as it passes: `feed` its bytes as they are on the wire, then `finish`.

    Only `first_token_at` depends on how the body is cut into chunks, so once `wants_chunks` is False the caller
    may gather them. Whether the body is a stream is told by `media`.

    `cut` in what is found: the body ended cleanly, and yet within an event, within its JSON, or without what ends an
    answer of this API. Nothing odd that came before hides that; only what we could not read to its end does, for a
    coding that we do not know or a cap of ours.
    """

    def __init__(
        self, api: str | None, content_type: str | None, content_encoding: str | None, status: int | None
    ) -> None:
        self.first_token_at: int | None = None
        """When the chunk came that completed the first event with output; None for an answer in one piece."""
        self.wants_chunks = api is not None
        self._api = api
        self._dialect = None if api is None else DIALECTS.get(api)
        self._is_bad = status is not None and status >= _BAD_STATUS
        self._content_type = content_type
        self._decoder = Decoder(content_encoding)
        self._head = b""
        self._begun = False
        self._parser: Parser | None = None
        self._document: Document | None = None
        self._first_bytes = self._last_bytes = b""
        self._answer = ResponseSummary()
        self._events = 0
        self._last_at = 0
        self._parse_error: str | None = None
        self._ended_inside = False

    def feed(self, data: bytes, at: int) -> None:
        """Take the next bytes of the body, which came at `at`."""
        if self._dialect is None or not data:
            return
        self._last_at = at
        for piece in self._decoder.pieces(data):
            self._take(piece)

    def finish(self, complete: bool) -> ResponseLlm | None:
        """The `llm` part of the response record; `complete` is False when the body was cut off."""
        if self._api is None or self._dialect is None:
            return None
        rest = self._decoder.finish()
        if rest:
            self._take(rest)
        if self._parser is not None:
            self._events_read(self._parser.finish())
        elif self._document is not None:
            self._read_document(self._document)
        answer = self._answer
        return ResponseLlm(
            api=self._api,
            response_model=answer.response_model,
            response_id=answer.response_id,
            finish_reasons=answer.finish_reasons,
            usage=answer.usage,
            output_chars=answer.output_chars,
            done=answer.done,
            error=answer.error,
            cut=self._is_cut(self._dialect),
            parse_error="; ".join(filter(None, (self._decoder.error, self._parse_error))) or UNSET,
        )

    def _is_cut(self, dialect: Dialect) -> bool:
        if self._decoder.gave_up or self._answer.error is not None:
            return False  # an error ends an answer
        if self._parser is not None:
            inside = self._ended_inside or self._parser.ended_inside
            return not self._answer.done and (inside or not dialect.is_whole(self._answer))
        if self._document is not None:
            return self._ended_inside
        # Nothing came out: a stream without an event, or a coded body without its end.
        return media.is_stream_type(self._content_type) or (self._decoder.truncated and not self._begun)

    def _take(self, piece: bytes) -> None:
        if self._parser is not None:
            self._stream(piece)
        elif self._document is not None:
            self._document.feed(piece)
            if len(self._first_bytes) < _FIRST_BYTES:
                self._first_bytes += piece[: _FIRST_BYTES - len(self._first_bytes)]
            self._last_bytes = (self._last_bytes + piece[-_LAST_BYTES:])[-_LAST_BYTES:]
        elif not self._begun:
            self._begin(piece)

    def _begin(self, piece: bytes) -> None:
        self._head += piece
        stream = media.is_stream(self._content_type, self._head)
        if stream is None:
            return
        self._begun = True
        head, self._head = self._head, b""
        if stream:
            self._parser = Parser()
            self._stream(head)
            return
        self.wants_chunks = False
        begins = head.lstrip(_BOM + _SPACE).startswith((b"{", b"["))
        is_json = begins and not media.is_binary_type(self._content_type)
        if is_json or media.is_json_type(self._content_type):
            content = self._dialect.content if self._dialect else frozenset()
            self._document = Document(content, elements_of="choices")
            self._take(head)

    # -- a stream -------------------------------------------------------------------------------------------------

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
        if event.event != "message" and is_error_name(event.event):
            self._answer.fail(_decoded(event))
            return False
        if event.data.strip() in _NOTHING:
            return False
        if event.outside:
            return self._outside(event)
        if event.truncated:
            return self._skimmed(event)
        try:
            return self._dialect.event(self._answer, event.event, event.data)
        except jsondoc.Malformed as problem:
            self._odd(event, problem)
            return False

    def _odd(self, event: ServerSentEvent, problem: jsondoc.Malformed) -> None:
        """Data that is not what this API sends."""
        value = _decoded(event)
        if is_error(value) or (isinstance(value, str) and is_error_text(event.data)):
            self._answer.fail(value)
        elif event.unterminated:
            self._ended_inside = True
            self._note(f"cut off at byte {len(event.data)}")
        else:
            self._note(f"{problem.kind} at byte {problem.at}")

    def _outside(self, event: ServerSentEvent) -> bool:
        """What stands in a stream without being of its format: JSON is read, anything else is an error by its place."""
        assert self._dialect is not None
        data = event.skimmed if event.truncated else event.data
        value = _decoded(event)
        if isinstance(value, dict) and not self._is_bad and not is_error(value):
            self._answer.is_skimmed = event.truncated
            with contextlib.suppress(jsondoc.Malformed):
                token = self._dialect.event(self._answer, "message", data)
                self._answer.is_skimmed = False
                return token
            return False
        if event.unterminated and isinstance(value, str) and data.lstrip()[:1] in (b"{", b"["):
            self._ended_inside = True
            self._note(f"cut off at byte {len(data)}")
        elif isinstance(value, str | dict) or is_error(value):
            self._answer.fail(value)
        return False

    def _skimmed(self, event: ServerSentEvent) -> bool:
        """An event that was too long to be held: what was kept of it."""
        assert self._dialect is not None
        self._note(f"too long at byte {len(event.data)}")
        self._answer.is_skimmed = True
        try:
            return self._dialect.event(self._answer, event.event, event.skimmed)
        except jsondoc.Malformed:
            self._ended_inside |= event.unterminated
            return False
        finally:
            self._answer.is_skimmed = False

    def _note(self, problem: str) -> None:
        if self._parse_error is None:
            self._parse_error = f"event {self._events}: {problem}"

    def _first_token(self) -> None:
        if self.first_token_at is None:
            self.first_token_at = self._last_at
            self.wants_chunks = False

    # -- a document -----------------------------------------------------------------------------------------------

    def _read_document(self, document: Document) -> None:
        assert self._dialect is not None
        held = document.held()
        if held is not None and not self._is_bad and self._dialect.usual_document(self._answer, held):
            self._answer.done = True
            return
        summary = document.finish()
        if summary.error is not None and held is not None and self._is_otherwise(held):
            return
        self._parse_error = summary.parse_error
        self._ended_inside = _may_be_json(self._first_bytes) and _is_unended(summary, held, self._last_bytes)
        body = _without_digests(summary)
        if summary.elements:
            body["choices"] = [_without_digests(element) for element in summary.elements]
        if summary.error is None:
            self._answer.done = bool(body)
            if body and held is not None and self._api != "embeddings":
                body = self._decoded(held) or body
        self._dialect.document(self._answer, body)
        if self._is_bad and body:
            self._answer.fail(body)

    def _is_otherwise(self, held: bytes) -> bool:
        """Whether JSON that is no object is understood all the same: a list with an error, or a value a line."""
        assert self._dialect is not None
        try:
            value = jsondoc.decode_leniently(held.strip())
        except jsondoc.Malformed:
            return self._read_lines(held)
        if isinstance(value, dict):
            return False
        if is_error(value) or (self._is_bad and isinstance(value, str | list) and value):
            self._answer.fail(value)
            return True
        return False

    def _read_lines(self, held: bytes) -> bool:
        lines = [line for line in held.removeprefix(_BOM).splitlines() if line.strip()]
        if len(lines) < 2 or any(line.lstrip()[:1] != b"{" for line in lines):
            return False
        with contextlib.suppress(jsondoc.Malformed):
            jsondoc.decode(lines[0])
            self._parser = Parser()
            self._events_read(self._parser.feed(held) + self._parser.finish())
            self.first_token_at = None  # it was not read while it passed
            return True
        return False

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


def _decoded(event: ServerSentEvent) -> Any:
    """The event's JSON, or its text for a person where it is none."""
    data = event.skimmed if event.truncated else event.data
    try:
        return jsondoc.decode_leniently(data)
    except jsondoc.Malformed:
        return message_of(event.data)


def _without_digests(summary: Summary) -> dict[str, Any]:
    return {key: value for key, value in summary.values.items() if not isinstance(value, Digest)}


_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


def _may_be_json(head: bytes) -> bool:
    """Whether a document begins as JSON does. What is none, or no text at all, cannot have been cut within it."""
    return head.lstrip(_BOM + _SPACE)[:1] in (b"{", b"[") and may_be_text(head)


def _is_unended(summary: Summary, held: bytes | None, last: bytes) -> bool:
    """Whether a document ended before its brackets closed, whatever else is wrong with it."""
    if summary.error is None:
        return False
    if held is None:
        # Too long to be looked at again: by its last byte.
        return summary.error[0] == "cut off" or last.rstrip()[-1:] not in (b"}", b"]")
    depth = 0
    for token in _TOKENS.finditer(held):
        found = token.group()
        if found[:1] == b'"':
            if len(found) == 1 or found[-1:] != b'"' or _ends_escaped(found):
                return True
        else:
            depth += 1 if found in (b"[", b"{") else -1
    return depth > 0


def _ends_escaped(string: bytes) -> bool:
    """Whether the last quote of a string is escaped, so that the string is not over."""
    inside = string[1:-1]
    return (len(inside) - len(inside.rstrip(b"\\"))) % 2 == 1
