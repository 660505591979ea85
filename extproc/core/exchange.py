"""One HTTP request and its response, from the first message to the records.

Events go in, effects come out; the caller carries the effects out and, where one of them is gated, answers the
message only then. What an exchange promises:

* Each direction that began yields one record, made at the first of: `end_of_stream`, the announced last byte,
  trailers, the close of the stream. Nothing after that is processed; it is counted.
* The `response` record is the exchange's terminal record. There is exactly one, also when no answer began.
* Nothing that a body or a header contains raises.

An early answer may end before the request does; then the `request` record follows the terminal one. Messages that
are late even for the terminal record, and trailers behind an announced last byte, are reported in a `late` record
when the stream closes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from extproc.core import dialects, records, response_flags
from extproc.core.direction import DirectionContent
from extproc.core.effects import Append, Effect, Spool, SpoolEnd
from extproc.core.events import Body, CloseReason, Direction, Event, Headers, Trailers
from extproc.core.head import Head, read
from extproc.core.media import is_stream, is_stream_type
from extproc.core.reading import RequestReader, ResponseReader
from extproc.core.records import Body as BodyField
from extproc.core.records import (
    Late,
    Open,
    Protocol,
    Request,
    RequestDirection,
    RequestLlm,
    Response,
    ResponseDirection,
    ResponseLlm,
    Routing,
)
from extproc.core.redact import Redactor
from extproc.core.stream import LATE, Input, State
from extproc.core.times import timestamp
from extproc.core.trace import TraceContext, under

# Looked up once: a member of an enum costs more on its class than a call does (Python 3.11).
_REQUEST, _RESPONSE = Direction
_HEADERS, _HEADERS_END, _BODY, _BODY_END = Input.HEADERS, Input.HEADERS_END, Input.BODY, Input.BODY_END
_TRAILERS, _CLOSE = Input.TRAILERS, Input.CLOSE
_OPEN, _ABORTED = State.OPEN, State.ABORTED

NOTHING: Sequence[Effect] = ()
NOTHING_LATE = Protocol()


class Received(msgspec.Struct, frozen=True, gc=False):
    """What a message did. `effects` are in the order in which they must happen; a gated one holds the reply."""

    effects: Sequence[Effect] = NOTHING
    late: bool = False
    """It came after the end of its direction, and changed nothing."""
    over: bool = False
    """It ended its direction, which has its record among the effects."""


TAKEN = Received()
LATE_ONE = Received(late=True)


class RecorderSettings(msgspec.Struct, frozen=True):
    """What all exchanges of a sidecar share."""

    redactor: Redactor
    inline_body_bytes: int = 64 * 1024
    """A body up to this size stands in its record; a larger one in a file of its own."""
    open_record_bytes: int = 64 * 1024
    """An unfinished request gets an `open` record once so much of its body is here."""


class ExchangeRecorder:
    """One exchange. Its owner calls `receive` for each message and `close` once, never two at a time."""

    __slots__ = (
        "_attributes",
        "_duplicate_ends",
        "_late",
        "_late_bytes",
        "_late_count",
        "_new_trace",
        "_opened",
        "_parent",
        "_reads_spool",
        "_rejected",
        "_reported",
        "_request",
        "_request_reader",
        "_response",
        "_response_reader",
        "_settings",
        "_started",
        "_started_at",
        "_started_ns",
        "_terminal",
        "_trace",
        "_trailers_after",
        "best_effort",
        "held",
        "id",
        "routing",
    )

    def __init__(
        self,
        id: str,
        settings: RecorderSettings,
        *,
        started_ns: int,
        started_at: int,
        trace: TraceContext,
        parent: str | None,
    ) -> None:
        """`started_ns` is the wall clock at the moment `started_at`, both in nanoseconds.

        `trace` is a new root span; `parent` is the `traceparent` of Envoy's own span, if it sent one.
        """
        self.id = id
        self.held = False
        """Envoy keeps the whole request back until its body is answered."""
        self.best_effort = False
        """Nobody waits for the records (observability mode)."""
        self.routing: Routing | None = None
        """What Envoy was told to route by, where its configuration asks us (see `routing`)."""
        self._settings = settings
        self._started_ns = started_ns
        self._started = timestamp(started_ns)
        self._started_at = started_at
        self._new_trace = self._trace = trace
        self._parent = parent
        self._request = DirectionContent(_REQUEST, settings.inline_body_bytes)
        self._response = DirectionContent(_RESPONSE, settings.inline_body_bytes)
        self._request_reader: RequestReader | None = None
        self._response_reader: ResponseReader | None = None
        self._attributes: dict[str, Any] = {}
        """Envoy's, by Envoy's names: all are texts, but for `response.flags`."""
        self._late: Counter[str] | None = None
        self._late_bytes: Counter[str] | None = None
        self._late_count = 0
        self._duplicate_ends = 0
        self._reported = 0
        self._opened = self._terminal = self._rejected = self._trailers_after = self._reads_spool = False

    # -- what comes in ------------------------------------------------------------------------------------------

    def receive(self, event: Event) -> Received:
        """Take one message."""
        if self._rejected:
            return TAKEN  # our own refusal on its way to the client is not an answer of the backend
        direction = self._request if event.direction is _REQUEST else self._response
        # By exact type, bodies first: a class pattern goes through the metaclass, for every chunk of every stream.
        if type(event) is Body:
            return self._on_body(direction, event)
        if type(event) is Headers:
            return self._on_headers(direction, event)
        assert type(event) is Trailers
        return self._on_trailers(direction, event)

    def open_record(self, at: int) -> Sequence[Effect]:
        """The request as it stands, for one that is long in coming. Made once, and only while it is unfinished."""
        if self._opened or self._rejected or self._request.stream.state is not _OPEN:
            return NOTHING
        body = self._request.body
        if body.spooled:
            return [self._open(at, self._file(self._request))]
        held = body.so_far()
        return [self._open(at, BodyField.of(held) if records.fits(held) else None)]

    def reject(self, *, recorded: bool) -> bool:
        """Our own refusal takes the place of an answer. `recorded`: the request may be in the journal all the same.

        What the journal has of this exchange gets its terminal record at `close`; what it has not needs none.
        Returns whether there is or will be one.
        """
        will_end = self._terminal or recorded or self._opened
        self._rejected = True
        self._terminal = self._terminal or not will_end
        return will_end

    def close(self, reason: CloseReason, at: int) -> Sequence[Effect]:
        """The stream is over: end what is unfinished. Nothing comes after this."""
        effects: list[Effect] = []
        for direction in (self._request, self._response):
            was_over = direction.stream.over
            if direction.stream.move(_CLOSE) is _ABORTED and not was_over:
                effects += self._abort(direction, reason, at)
        began = self._request.stream.began or self._response.stream.began
        if began and not self._terminal:
            effects.append(self._terminal_record(at, reason, gate=False))
        elif not self._rejected and (self._late_count > self._reported or self._trailers_after):
            effects.append(Append(self._late_record(at), gate=False))
        return effects

    @property
    def rejected(self) -> bool:
        """It was refused by us."""
        return self._rejected

    @property
    def unfinished(self) -> list[Direction]:
        """The directions that have begun and have no record yet."""
        streams = (self._request.stream, self._response.stream)
        return [stream.direction for stream in streams if stream.began and not stream.over]

    @property
    def request_began(self) -> bool:
        """Anything of the request was seen."""
        return self._request.stream.began

    @property
    def request_over(self) -> bool:
        """The request direction has its record."""
        return self._request.stream.over

    @property
    def request_head(self) -> Head:
        """The request's headers."""
        return self._request.head

    @property
    def announced_request_bytes(self) -> int | None:
        """The request's `content-length`."""
        return self._request.head.content_length

    def progress(self) -> tuple[int, ...]:
        """How far it has come. Nanoseconds from the start to the last chunk, the first byte and the first token of the
        answer, and to the beginning and the end of its longest silence, -1 for none; bytes of the request and of the
        response, chunks likewise; status, 0 for none; flags: 1 the request is over, 2 the response has begun, 4 it is
        over. In the order of `extproc.journal.live.HOT`.
        """
        request, response, reader, started = self._request, self._response, self._response_reader, self._started_at
        sent, got, answer = request.body, response.body, response.stream
        last = response.last_at if got.chunks else request.last_at if sent.chunks else 0
        first, token = response.first_at, None if reader is None else reader.first_token_at
        lasted, silent, offset = response.silence
        return (
            last - started if last else -1,
            first - started if first else -1,
            -1 if token is None else token - started,
            silent - started if offset else -1,
            silent + lasted - started if offset else -1,
            sent.length,
            got.length,
            sent.chunks,
            got.chunks,
            response.head.status or 0,
            request.stream.over | answer.began << 1 | answer.over << 2,
        )

    @property
    def upstream(self) -> str | None:
        """The backend's address, once it has answered."""
        return self._attributes.get("upstream.address")

    @property
    def response_code_details(self) -> str | None:
        """Why Envoy or the backend has answered so, in Envoy's words."""
        return self._attributes.get("response.code_details")

    @property
    def cluster(self) -> str | None:
        """Envoy's cluster, once it is known."""
        return self._attributes.get("xds.cluster_name")

    @property
    def started_ns(self) -> int:
        """When it began, by the wall clock."""
        return self._started_ns

    def log_fields(self) -> dict[str, str]:
        """What names this exchange in the operators' log."""
        return {"exchange_id": self.id, "trace_id": self._trace.trace_id, "span_id": self._trace.span_id}

    # -- one message ----------------------------------------------------------------------------------------------

    def _on_headers(self, direction: DirectionContent, event: Headers) -> Received:
        end = event.end_of_stream
        if direction.stream.move(_HEADERS_END if end else _HEADERS) is LATE:
            return self._count_late(direction, "headers")
        direction.first_at = direction.last_at = event.at
        direction.head = read(event.headers, self._settings.redactor)
        if event.attributes:
            self._attributes.update(event.attributes)
        if direction is self._request:
            self._begin_request()
        elif is_stream_type(direction.head.content_type):
            self._response_reader = self._new_response_reader()  # its tokens have times
        return self._ended(direction, "headers", event.at) if end else TAKEN

    def _on_body(self, direction: DirectionContent, event: Body) -> Received:
        if direction.stream.over:
            return self._on_body_after_the_last_byte(direction, event)
        effects = self._take(direction, event.data, event.at)
        input, ended_by = direction.classify(event)
        direction.stream.move(input)
        direction.truncated |= event.cut and not direction.has_all
        if ended_by is None:
            effects = self._open_if_long(direction, effects, event.at)
            return Received(effects) if effects else TAKEN
        return self._ended(direction, ended_by, event.at, effects)

    def _on_body_after_the_last_byte(self, direction: DirectionContent, event: Body) -> Received:
        input = _BODY_END if event.end_of_stream else _BODY
        if direction.stream.move(input) is LATE:
            self._duplicate_ends += event.end_of_stream
        elif not event.data:
            return TAKEN  # the empty end that Envoy owed us
        return self._count_late(direction, "body", event.data)

    def _on_trailers(self, direction: DirectionContent, event: Trailers) -> Received:
        was_over = direction.stream.over
        if direction.stream.move(_TRAILERS) is LATE:
            return self._count_late(direction, "trailers")
        direction.trailers = read(event.trailers, self._settings.redactor)
        if was_over:
            self._trailers_after = True
            return TAKEN
        return self._ended(direction, "trailers", event.at)

    def _ended(
        self, direction: DirectionContent, ended_by: str, at: int, before: Sequence[Effect] = NOTHING
    ) -> Received:
        """The direction is over by this message, whose other effects come `before`."""
        return Received([*before, *self._finish(direction, ended_by, at)], over=True)

    def _begin_request(self) -> None:
        head, new = self._request.head, self._new_trace
        self._trace = under(self._parent, new) or under(head.traceparent, new) or new

    def _take(self, direction: DirectionContent, data: bytes, at: int) -> Sequence[Effect]:
        if not data:
            return NOTHING
        if direction is self._response:
            if not direction.body.length:
                self._begin_response_body(data)
            elif at - direction.last_at > direction.silence[0]:
                direction.silence = (at - direction.last_at, direction.last_at, direction.body.length)
            direction.first_at = direction.first_at or at
            if self._response_reader is not None and not self._reads_spool:
                self._response_reader.feed(data, at)
        direction.last_at = at
        pieces = direction.body.feed(data)
        return self._spool(direction, pieces) if pieces else NOTHING

    def _begin_response_body(self, first: bytes) -> None:
        """A body whose type does not say that it is a stream may be one by its first bytes, or by those that follow."""
        if self._response_reader is None and is_stream(self._response.head.content_type, first) is not False:
            self._response_reader = self._new_response_reader()

    def _spool(self, direction: DirectionContent, pieces: list[bytes]) -> Sequence[Effect]:
        """These bytes will not stand in the record, so what they say has to be read now (see `llm.py`).

        A request's file never comes before an `open` record of ours, so that we know that the exchange needs an end
        even when the file cannot be written.
        """
        effects: list[Effect] = []
        if direction is self._request:
            if not self._opened:
                effects.append(self._open(direction.last_at, self._file(direction)))
            if self._request_reader is None:
                self._request_reader = self._new_request_reader()
            if self._request_reader is not None:
                for piece in pieces:
                    self._request_reader.feed(piece)
        else:
            if self._response_reader is None:
                self._response_reader = self._new_response_reader()
                self._reads_spool = True
            if self._response_reader is not None and self._reads_spool:
                for piece in pieces:
                    self._response_reader.feed(piece, direction.last_at)
        return [*effects, Spool(self.id, direction.stream.direction, pieces)]

    def _new_request_reader(self) -> RequestReader | None:
        head = self._request.head
        api = dialects.api_of(head.method, head.path or "")
        if api is None:
            return None
        return RequestReader(dialects.RequestReading(api, head.content_type, head.content_encoding))

    def _new_response_reader(self) -> ResponseReader | None:
        head = self._response.head
        api = dialects.api_of(self._request.head.method, self._request.head.path or "")
        if api is None:
            return None
        reading = dialects.ResponseReading(api, head.content_type, head.content_encoding, head.status)
        return ResponseReader(reading)

    def _open_if_long(self, direction: DirectionContent, effects: Sequence[Effect], at: int) -> Sequence[Effect]:
        if (
            direction is self._request
            and not self._opened
            and direction.body.length >= self._settings.open_record_bytes
        ):
            return [*self.open_record(at), *effects]
        return effects

    def _count_late(self, direction: DirectionContent, kind: str, data: bytes | None = None) -> Received:
        """What comes after the end changes nothing. It is counted, and its bytes are held against the body's own."""
        if self._late is None or self._late_bytes is None:
            self._late, self._late_bytes = Counter(), Counter()
        self._late_count += 1
        self._late[f"{direction.stream.direction.value}.{kind}"] += 1
        if data is not None:
            self._late_bytes[direction.body.compare(data)] += 1
        return LATE_ONE

    # -- the records ----------------------------------------------------------------------------------------------

    def _open(self, at: int, body: BodyField | None) -> Append:
        self._opened = True
        return Append(self._request_record(Open, at, None, body, None), gate=False)

    def _finish(self, direction: DirectionContent, ended_by: str, at: int, *, gate: bool = True) -> Sequence[Effect]:
        """The one place where a direction ends."""
        direction.end(ended_by)
        whole, rest, sha256 = direction.body.finish()
        if whole is not None and not records.fits(whole):
            rest, whole = [whole], None
        body = self._file(direction) if whole is None else BodyField.of(whole)
        spool = self._spool(direction, rest) if rest else NOTHING
        last = self._end_request if direction is self._request else self._end_response
        append = last(at, body, sha256, gate=gate)
        if whole is not None:
            return [append]
        return [*spool, SpoolEnd(self.id, direction.stream.direction), append]

    def _abort(self, direction: DirectionContent, reason: CloseReason, at: int) -> Sequence[Effect]:
        if not self._rejected:
            return self._finish(direction, reason.value, at, gate=False)
        return [SpoolEnd(self.id, direction.stream.direction)] if direction.body.spooled else NOTHING

    def _end_request(self, at: int, body: BodyField, sha256: str, *, gate: bool) -> Append:
        llm = None
        if self._request_reader is not None:
            llm = self._request_reader.finish(complete=not self._request.truncated)
            self._request_reader = None
        return Append(self._request_record(Request, at, sha256, body, llm), gate=gate)

    def _end_response(self, at: int, body: BodyField, sha256: str, *, gate: bool) -> Append:
        direction = self._response
        lasted, began, offset = direction.silence
        answer = ResponseDirection(
            bytes=direction.body.length,
            sha256=sha256,
            chunks=direction.body.chunks,
            ended_by=direction.ended_by,
            truncated=direction.truncated,
            content_type=direction.head.content_type,
            headers=direction.head.fields,
            body=body,
            trailers=direction.recorded_trailers,
            max_silence_ms=lasted // 1000 / 1000 if offset else None,
            silence_at_ms=self._ms(began) if offset else None,
            silence_at_byte=offset or None,
            first_byte_ms=self._ms(direction.first_at),
            last_byte_ms=self._ms(direction.last_at),
        )
        reason = CloseReason(direction.ended_by or "") if direction.stream.state is _ABORTED else None
        return self._terminal_record(at, reason, answer, self._response_llm(), gate=gate)

    def _response_llm(self) -> ResponseLlm | None:
        reader, direction = self._response_reader, self._response
        if reader is None:
            return None
        self._response_reader = None
        llm = reader.finish(direction.last_at, complete=not direction.truncated)
        if llm is None:
            return None
        first = reader.first_token_at
        if first is None and llm.output_chars:
            first = direction.first_at  # an answer in one piece has its first token where its body begins
        return llm if first is None else msgspec.structs.replace(llm, ttft_ms=self._ms(first))

    def _request_record(
        self,
        kind: type[Request | Open],
        at: int,
        sha256: str | None,
        body: BodyField | None,
        llm: RequestLlm | None,
    ) -> Request | Open:
        direction, trace = self._request, self._trace
        head = direction.head
        return kind(  # by position, in the order of the type: to name so many costs a microsecond
            self.id,
            self._time(at),
            self._started,
            head.method,
            head.path,
            head.authority,
            head.scheme,
            self._attributes.get("source.address"),
            head.request_id,
            trace.trace_id,
            trace.span_id,
            trace.parent_span_id,
            trace.trace_flags,
            self.held,
            self.best_effort,
            self.routing,
            RequestDirection(
                bytes=direction.body.length,
                sha256=sha256,
                chunks=direction.body.chunks,
                ended_by=direction.ended_by,
                truncated=direction.truncated,
                content_type=head.content_type,
                headers=head.fields,
                body=body,
                trailers=direction.recorded_trailers,
            ),
            llm,
            self._protocol(),
        )

    def _terminal_record(
        self,
        at: int,
        reason: CloseReason | None,
        answer: ResponseDirection | None = None,
        llm: ResponseLlm | None = None,
        *,
        gate: bool,
    ) -> Append:
        self._terminal = True
        self._reported = self._late_count
        head, trailers, attributes = self._response.head, self._response.trailers, self._attributes
        ended_at = self._time(at)
        fields = Response(  # by position, as above
            self.id,
            ended_at,
            self._started,
            ended_at,
            self._ms(at),
            self._request.head.method,
            self._request.head.path,
            head.status,
            attributes.get("upstream.address"),
            attributes.get("xds.cluster_name"),
            attributes.get("xds.route_name"),
            response_flags.names(attributes.get("response.flags", 0)),
            attributes.get("response.code_details"),
            (trailers and trailers.grpc_status) or head.grpc_status,
            reason,
            self._rejected,
            answer,
            llm,
            self._protocol(),
        )
        return Append(fields, gate=gate)

    def _late_record(self, at: int) -> Late:
        directions = (self._request, self._response)
        trailers = {
            direction.stream.direction.value: direction.trailers.fields
            for direction in directions
            if direction.trailers is not None
        }
        return Late(id=self.id, at=self._time(at), protocol=self._protocol(), trailers=trailers or UNSET)

    def _protocol(self) -> Protocol:
        if self._late is None and not self._duplicate_ends:
            return NOTHING_LATE
        return Protocol(
            late=dict(self._late or {}),
            duplicate_end_of_stream=self._duplicate_ends,
            late_bytes=dict(self._late_bytes) if self._late_bytes else UNSET,
        )

    def _file(self, direction: DirectionContent) -> BodyField:
        return BodyField(file=f"bodies/{self.id}.{direction.stream.direction.value}")

    def _time(self, at: int) -> str:
        return timestamp(self._started_ns + at - self._started_at)

    def _ms(self, at: int) -> float:
        return (at - self._started_at) // 1000 / 1000
