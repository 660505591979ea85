"""One ext_proc stream: message in, reply out, now or when the gate opens. No gRPC in it.

`Processor` ties one exchange to one stream. `Recorder` is what all streams of a worker share: settings, journal,
clocks, ids, timers and counters.

A message follows one path: bytes -> `wire.read` -> `Exchange.receive` -> effects -> `Journal.submit` -> reply. Where
an effect has to be on disk first, `receive` answers None, and the stream belongs to the gate: whoever settles it, the
journal's thread when the record is durable or failed, or `tick` when it took too long, sends the reply.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from time import monotonic, monotonic_ns, time_ns
from typing import Protocol

from extproc.config import Config
from extproc.core import routing
from extproc.core.effects import Append, Effect
from extproc.core.events import Body, CloseReason, Direction, Event
from extproc.core.exchange import ExchangeRecorder, Received, RecorderSettings
from extproc.core.records import Routing
from extproc.core.redact import Redactor
from extproc.core.routing import RoutingHeaders
from extproc.errors import JournalError, Postponed
from extproc.journal.live import LiveTable, Slot
from extproc.journal.timing import Times
from extproc.quarantine.entries import Mode
from extproc.quarantine.guard import Guard
from extproc.service import ids, wire
from extproc.service.accesslog import AccessLog
from extproc.service.gate import Gate
from extproc.service.holding import TOO_LARGE, Holding
from extproc.service.transport import LATER, NO_REPLY, Reply
from extproc.service.wire import Kind, Message, Modes

log = logging.getLogger("extproc.service")

# Looked up once: a member of an enum costs more on its class than a call does (Python 3.11).
_REQUEST = Direction.REQUEST
_REQUEST_HEADERS, _RESPONSE_HEADERS, _REQUEST_BODY = Kind.REQUEST_HEADERS, Kind.RESPONSE_HEADERS, Kind.REQUEST_BODY
_HEADERS = frozenset({_REQUEST_HEADERS, _RESPONSE_HEADERS})


class Journal(Protocol):
    """The journal as the service uses it; `extproc.journal.writer` has the contract."""

    @property
    def failure(self) -> JournalError | None: ...

    def submit(self, effects: Sequence[Effect], done: Callable[[JournalError | None], None] | None) -> None: ...

    def gap(self, direction: Direction, why: str, at_ns: int) -> None: ...


class Recorder:
    """What the streams of one worker share. All methods are for the transport's loop thread, but where noted."""

    def __init__(self, config: Config, journal: Journal, redaction_key: bytes, live: LiveTable | None = None) -> None:
        self.journal = journal
        self.live = live
        self.guard = Guard(config.data_dir, Mode(config.quarantine_mode))
        self.deny = config.on_audit_failure == "deny"
        self.names_answers = config.set_audit_id
        self.in_flight = 0
        """Exchanges that have begun and not ended."""
        self.unaudited = 0
        """Requests and answers that passed without a record."""
        self.refused = 0
        """Requests that were refused because they could not be recorded."""
        self.gate_times = Times()
        self.ticked_at = monotonic()
        """When the transport's loop last came round."""
        redactor = Redactor(redaction_key, config.redact_headers, config.redact_query)
        self.access_log = AccessLog(journal, redactor)
        self._settings = RecorderSettings(
            redactor,
            config.inline_body_bytes,
            config.open_record_bytes,
        )
        self.holding = Holding(config.hold_request_bytes, config.hold_total_bytes)
        self._gate_timeout = config.gate_timeout_seconds
        self._open_delay = config.open_record_ms / 1000
        # Each queue has one delay for all, so that the order of arrival is the order of the deadlines.
        self._gates: deque[Gate] = deque()
        self._unfinished: deque[tuple[float, ExchangeRecorder]] = deque()
        self._draining = False
        # The texts stand in Envoy's configuration, so there are few.
        self._asked = lru_cache(maxsize=64)(_asked)

    def processor(self, metadata: Iterable[tuple[str, str | bytes]], send: Callable[[bytes], None]) -> Processor:
        """The processor of a new stream with this gRPC metadata."""
        return Processor(self, metadata, send)

    def drain(self) -> None:
        """Streams that end from now on are ended by us."""
        self._draining = True

    # -- timers -----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, in seconds of the monotonic clock."""
        gate = self._gates[0].deadline if self._gates else None
        unfinished = self._unfinished[0][0] if self._unfinished else None
        if gate is None or unfinished is None:
            return unfinished if gate is None else gate
        return min(gate, unfinished)

    def tick(self) -> None:
        """Do what is due: `open` records, and gates that nobody opened."""
        now = self.ticked_at = monotonic()
        while self._unfinished and self._unfinished[0][0] <= now:
            _, exchange = self._unfinished.popleft()
            self._note(exchange.open_record(monotonic_ns()))
        while self._gates and self._gates[0].deadline <= now:
            self._gates.popleft().give_up(JournalError(f"no answer from the disk in {self._gate_timeout:g} s"))

    # -- for processors -----------------------------------------------------------------------------------------------

    def read(self, metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str | None, RoutingHeaders | None]:
        """What the call's metadata says: the `traceparent` of Envoy's span, and which headers the route asks for."""
        parent = asked = None
        for key, value in metadata:
            if key == "traceparent":
                parent = _text(value)
            elif key == routing.METADATA:
                asked = self._asked(_text(value))
        return parent, asked

    def begin(self, parent: str | None, at: int) -> ExchangeRecorder:
        """A new exchange, whose first message came at this moment of the monotonic clock."""
        self.in_flight += 1
        now_ns = time_ns()
        id = ids.exchange_id(now_ns)
        return ExchangeRecorder(
            id,
            self._settings,
            started_ns=now_ns,
            started_at=at,
            trace=ids.root_span(),
            parent=parent,
        )

    def end(self, exchange: ExchangeRecorder, reason: CloseReason) -> None:
        self.in_flight -= 1
        self.access_log.expect(exchange.id)
        unfinished = exchange.unfinished
        effects = exchange.close(CloseReason.DRAIN if self._draining else reason, monotonic_ns())
        if effects:
            self.journal.submit(effects, partial(self._closed, unfinished, exchange.rejected))

    def watch_unfinished(self, exchange: ExchangeRecorder) -> None:
        """Give the exchange an `open` record, should its request be long in coming."""
        queue = self._unfinished
        while queue and queue[0][1].request_over:
            queue.popleft()
        queue.append((monotonic() + self._open_delay, exchange))

    def watch_gate(self, gate: Gate) -> None:
        queue = self._gates
        while queue and queue[0].settled:
            queue.popleft()
        gate.deadline = monotonic() + self._gate_timeout
        queue.append(gate)

    def gate_opened(self, gate: Gate) -> None:
        """A reply has waited for the disk. From any thread, but for one gate at a time as good as always."""
        self.gate_times.observe(monotonic() - gate.deadline + self._gate_timeout)

    def passed_unrecorded(self, direction: Direction, error: JournalError) -> None:
        """What passed and is not in the journal, nor will be: count it, leave a gap behind. From any thread."""
        if not isinstance(error, Postponed):
            self.unaudited += 1
            self.journal.gap(direction, f"passed unrecorded: {error}", time_ns())

    def left_no_record(self, error: JournalError) -> None:
        """A request that was refused, and so counted, has no record at all. From any thread."""
        self.journal.gap(_REQUEST, f"refused: {error}", time_ns())

    def _closed(self, unfinished: Sequence[Direction], rejected: bool, error: JournalError | None) -> None:
        """The journal's word on what a close left to write: the records of directions that were cut off."""
        if error is None or isinstance(error, Postponed):
            return
        if rejected:
            self.left_no_record(error)
        else:
            for direction in unfinished:
                self.passed_unrecorded(direction, error)

    def _note(self, effects: Sequence[Effect]) -> None:
        """What nobody waits for, and whose loss is none: the record of the whole request follows."""
        if effects:
            self.journal.submit(effects, None)


def _asked(text: str) -> RoutingHeaders | None:
    try:
        return routing.parse(text)
    except ValueError as error:
        log.warning("Envoy's configuration asks for headers in %s: %s", routing.METADATA, error)
        return None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("ascii", "replace")


def _why_not_held(exchange: ExchangeRecorder) -> str:
    """Why the body has no say in where the request goes."""
    if exchange.announced_request_bytes is None:
        return "no content-length"
    return "not held: over hold_request_bytes, or over hold_total_bytes with the others"


class Processor:
    """One stream. `receive` and `closed` are called by the stream's owner, `settle` by the gate's."""

    __slots__ = ("_asked", "_exchange", "_held", "_held_since", "_modes", "_parent", "_recorder", "_send", "_slot")

    def __init__(
        self, recorder: Recorder, metadata: Iterable[tuple[str, str | bytes]], send: Callable[[bytes], None]
    ) -> None:
        self._recorder = recorder
        self._send = send
        self._parent, self._asked = recorder.read(metadata)
        self._exchange: ExchangeRecorder | None = None
        self._modes: Modes | None = None
        self._held = 0
        self._held_since = 0.0
        self._slot: Slot | None = None

    def receive(self, data: bytes) -> Reply:
        """The reply to a message; `LATER`, when it has to wait: then `send` is called once with it.

        Raises google.protobuf's DecodeError for bytes that are no ProcessingRequest.
        """
        message = wire.read(data, self._modes, monotonic_ns())
        if message is None:
            return NO_REPLY
        exchange = self._exchange or self._begin(message)
        headers = self._route_by_body(exchange, message) if self._held and self._asked is not None else None
        received = exchange.receive(message.event)
        if self._slot is not None:
            self._show(self._slot, exchange, message.kind)
        if self._held:
            reply = self._reply_to_held(exchange, message, received, headers)
        else:
            reply = self._reply(exchange, message, received)
        if not received.effects:
            return reply
        return self._carry_out(message.event.direction, received.effects, reply)

    def closed(self, reason: CloseReason) -> None:
        """The stream is over; nothing is under way on it."""
        if self._exchange is not None:
            if self._held:
                self._recorder.holding.release(self._held)
                self._recorder.holding.was_left(self._held, self._held_since)
            self._recorder.end(self._exchange, reason)
            self._exchange = None
            if self._slot is not None:
                self._slot.free()

    def settle(self, gate: Gate, error: JournalError | None) -> None:
        self._recorder.gate_opened(gate)
        reply = gate.reply if error is None else self._after_failure(gate, error)
        self._send(reply)

    def after_all(self, gate: Gate, error: JournalError) -> None:
        """The journal's word on what went on without waiting for it any longer: there is no record. A refused request
        gets its terminal record at the close, or a gap then."""
        if gate.has_record and not self._refuses(gate):
            self._recorder.passed_unrecorded(gate.direction, error)

    def _begin(self, message: Message) -> ExchangeRecorder:
        self._modes = modes = message.modes or wire.SHIPPED
        exchange = self._exchange = self._recorder.begin(self._parent, message.event.at)
        exchange.best_effort = modes.observability
        if self._recorder.live is not None:
            self._slot = self._recorder.live.take()
            if self._slot is not None and message.kind not in _HEADERS:
                self._describe(self._slot, exchange)
        return exchange

    def _show(self, slot: Slot, exchange: ExchangeRecorder, kind: Kind) -> None:
        """Let those who look see how far it has come."""
        if kind in _HEADERS:
            self._describe(slot, exchange)
        else:
            slot.advance(exchange.progress())

    def _describe(self, slot: Slot, exchange: ExchangeRecorder) -> None:
        head, upstream, cluster = exchange.request_head, exchange.upstream, exchange.cluster
        progress, started_ns = exchange.progress(), exchange.started_ns
        slot.describe(progress, started_ns, exchange.id, head.method, head.path, upstream, cluster)

    def _reply(self, exchange: ExchangeRecorder, message: Message, received: Received) -> bytes:
        modes, kind = self._modes, message.kind
        assert modes is not None
        if kind in _HEADERS and not modes.observability:
            if kind is _RESPONSE_HEADERS:
                name = wire.named(exchange.id) if self._recorder.names_answers and not received.late else b""
                if not exchange.request_began:  # so that Envoy's entry, which knows the request, is joined to it
                    return name + wire.answered(exchange.id)
                if name:
                    return name
            elif not received.late:
                return self._accept(exchange, modes, over=received.over)
        return wire.neutral(message, modes, late=received.late)

    def _accept(self, exchange: ExchangeRecorder, modes: Modes, *, over: bool) -> bytes:
        """The reply to request headers: whether Envoy holds the request, and what it is told to route by."""
        if not over:
            if modes.may_hold:
                self._held = self._recorder.holding.take(exchange.announced_request_bytes)
                self._held_since = monotonic()
            self._recorder.watch_unfinished(exchange)
        exchange.held = self._held > 0
        reply = wire.accepted(exchange.id, hold=exchange.held)
        return reply if self._asked is None else self._prepare_routing(exchange, self._asked, reply)

    def _prepare_routing(self, exchange: ExchangeRecorder, asked: RoutingHeaders, reply: bytes) -> bytes:
        key = routing.client_key(exchange.request_head) if asked.client else None
        if not exchange.request_over:
            why = None if exchange.held else _why_not_held(exchange)
            exchange.routing = Routing(by="headers", why=why, set={} if key is None else {routing.CLIENT: key})
        return wire.with_client_key(reply, key) if asked.client else reply

    def _route_by_body(self, exchange: ExchangeRecorder, message: Message) -> dict[str, str] | None:
        """What a held body tells of where it should go; the record of the request says so, too."""
        asked, event = self._asked, message.event
        if message.kind is not _REQUEST_BODY or exchange.request_over:
            return None
        if asked is None or not asked.body or exchange.routing is None:
            return None
        assert isinstance(event, Body)
        if not (event.end_of_stream or len(event.data) >= self._held):
            return None
        headers, why = routing.of_body(asked, event.data, exchange.request_head.content_encoding)
        by = "body" if headers else "headers"
        exchange.routing = Routing(by=by, why=why, set=exchange.routing.set | headers)
        return headers

    def _reply_to_held(
        self, exchange: ExchangeRecorder, message: Message, received: Received, headers: dict[str, str] | None
    ) -> bytes:
        """The reply to what comes while Envoy holds a request: its body in one message, or Envoy's own answer."""
        reply = wire.routed(headers) if headers else self._reply(exchange, message, received)
        if message.kind is _REQUEST_BODY:
            if received.over and self._recorder.guard.active:
                reply = self._guarded(exchange, message.event, headers, reply)
            self._came(exchange, over=exchange.request_over)
        elif message.kind is _RESPONSE_HEADERS and exchange.response_code_details == TOO_LARGE:
            self._recorder.holding.was_refused(self._held)
            self._release()
        return reply

    def _guarded(self, exchange: ExchangeRecorder, event: Event, headers: dict[str, str] | None, reply: bytes) -> bytes:
        """The reply to a held request, which may be in quarantine."""
        assert isinstance(event, Body)
        found = self._recorder.guard.look_up(exchange.request_head, event.data, exchange.cluster)
        if found is None or found.mode is Mode.SHADOW:
            return reply
        fields = {**exchange.log_fields(), "entry": found.entry.id, "mode": found.mode.value}
        log.warning("a request is in quarantine: %s", found.entry.what, extra=fields)
        if found.mode is Mode.ROUTE:
            return wire.routed({**(headers or {}), wire.QUARANTINE: found.entry.id})
        exchange.reject(recorded=True)
        return self._named(wire.quarantined(found.entry.incident or found.entry.id), exchange)

    def _came(self, exchange: ExchangeRecorder, *, over: bool) -> None:
        """The body of a held request. If this was not all of it, our override had no effect."""
        exchange.held = over
        if over:
            self._recorder.holding.came(self._held)
        self._release()

    def _release(self) -> None:
        self._recorder.holding.release(self._held)
        self._held = 0

    def _carry_out(self, direction: Direction, effects: Sequence[Effect], reply: bytes) -> Reply:
        last = effects[-1]
        if type(last) is Append and not last.gate and len(effects) == 1:
            self._recorder.journal.submit(effects, None)  # an `open` record: that of the whole request follows
            return reply
        gate = Gate(self, direction, reply, has_record=type(last) is Append)
        self._recorder.watch_gate(gate)
        self._recorder.journal.submit(effects, gate)
        return LATER

    def _after_failure(self, gate: Gate, error: JournalError) -> bytes:
        """`on_audit_failure`. Only a request can be refused: to cut a good answer off would help nobody."""
        refuse, exchange = self._refuses(gate), self._exchange
        if exchange is not None and (refuse or gate.has_record):
            what = "refused" if refuse else "passed unrecorded"
            log.error("the %s was %s: %s", gate.direction.value, what, error, extra=exchange.log_fields())
        if not refuse:
            if gate.has_record and not gate.late:
                self._recorder.passed_unrecorded(gate.direction, error)
            return gate.reply
        self._recorder.refused += 1
        if exchange is None or not exchange.reject(recorded=gate.late):
            self._recorder.left_no_record(error)
        return self._named(wire.REFUSED, exchange)

    def _named(self, immediate: bytes, exchange: ExchangeRecorder | None) -> bytes:
        """Our own answer, which Envoy does not show us."""
        return (
            wire.with_id(immediate, exchange.id) if exchange is not None and self._recorder.names_answers else immediate
        )

    def _refuses(self, gate: Gate) -> bool:
        assert self._modes is not None
        return gate.direction is _REQUEST and self._recorder.deny and not self._modes.observability
