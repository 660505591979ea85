"""One span an exchange, named and filled after the GenAI conventions, with the ids that the recorder chose.

The span is a child of Envoy's own for the ext_proc call where Envoy traces, else of the client's, else a root. Since it
is made when the exchange is final, it is ended exactly once, and its outcome is known; made again after a crash it has
the same id. The parent's sampling decision holds; roots of our own are sampled by `OTEL_TRACES_SAMPLER`.

What a person has written or a model has answered is never in it, unless
`OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says `SPAN_ONLY` or `SPAN_AND_EVENT`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Self, TypeGuard

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from extproc import __version__
from extproc.config import Config
from extproc.core import dialects, encoding
from extproc.core.joined import NO_LLM, NO_RESPONSE, ExchangeResponse
from extproc.core.records import AnyRecord
from extproc.history.join import Exchange
from extproc.telemetry import otlp, semconv
from extproc.telemetry.export import Exporter
from extproc.telemetry.wire import QuickExporter

CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
MAX_CONTENT: Final = 64 * 1024
MAX_TEXT: Final = 256
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_HEX_TRACE: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
SCOPE: Final = InstrumentationScope("extproc", __version__)

_LONGEST_MS: Final = 1e12
"""Thirty years: more than an exchange lasts, and less than what a timestamp of OTLP can be later by."""
_FAULTS: Final = frozenset({"upstream", "sidecar", "unknown"})
"""Classes of outcomes that make a span an error: the client's own leaving or mistake is none, nor is a limit."""

Attributes = dict[str, Any]


class Tracing:
    """The consumer that exports spans. `sample_ratio` below 1 leaves traces out, whole ones, by their ids."""

    def __init__(self, exporter: Exporter, resource: Resource, environ: Mapping[str, str]) -> None:
        self.sample_ratio = 1.0
        self.unsampled = 0
        """Exchanges without a span, because nobody wanted one."""
        self.overloaded = 0
        """Spans that were left out by `sample_ratio`."""
        self.captures_content = environ.get(CAPTURE, "").upper() in {"SPAN_ONLY", "SPAN_AND_EVENT"}
        self._exporter = exporter
        self._resource = resource
        self._latest = semconv.is_latest(environ)
        self._root_ratio = _root_ratio(environ)

    @classmethod
    def create(cls, config: Config, environ: Mapping[str, str], exporter: SpanExporter | None = None) -> Self | None:
        """What the settings and variables ask for; None where no collector is named."""
        url = otlp.endpoint(config, environ)
        if url is None:
            return None
        # Without a path, and without a word on TLS but the scheme's, as the exporter wants it.
        made = exporter or QuickExporter(
            endpoint=url, insecure=url.startswith("http://"), timeout=otlp.timeout_seconds(environ)
        )
        return cls(Exporter(made, environ), _resource(), environ)

    @property
    def exported(self) -> int:
        return self._exporter.exported

    @property
    def failed(self) -> int:
        return self._exporter.failed

    @property
    def dropped(self) -> int:
        return self._exporter.dropped + self.overloaded

    @property
    def queued(self) -> int:
        return self._exporter.queued

    def exchange(self, exchange: Exchange) -> None:
        """Make its span, when its trace is sampled, and send it on its way."""
        ids = _ids(exchange)
        if ids is None or not self._is_wanted(ids):
            self.unsampled += 1
        elif not _within(ids.trace_id, self.sample_ratio):
            self.overloaded += 1
        else:
            content = self.captures_content
            self._exporter.add(span_of(exchange, self._resource, latest=self._latest, content=content))

    def record(self, record: AnyRecord) -> None:
        """There is no span without an exchange."""

    def incident(self, fields: Mapping[str, Any], at: float, trace_id: str, *, over: bool = False) -> None:
        """A span for an incident, in the trace of its first suspect where there is one; `over`: another one beneath it,
        when a hang that was told has ended. For any thread."""
        self._exporter.add(span_of_incident(fields, at, trace_id, self._resource, over=over))

    def sequence(self) -> int:
        return self._exporter.added

    def flushed_to(self, sequence: int) -> bool:
        return self._exporter.flushed >= sequence

    def close(self, timeout: float) -> None:
        """Export what is queued, within so many seconds."""
        self._exporter.close(timeout)

    def _is_wanted(self, ids: _Ids) -> bool:
        if not ids.trace_flags & TraceFlags.SAMPLED:
            return False
        return self._root_ratio is None or not ids.is_root or _within(ids.trace_id, self._root_ratio)


class _Ids:
    """The ids of a span, as numbers."""

    __slots__ = ("is_root", "parent", "span_id", "trace_flags", "trace_id")

    def __init__(self, trace_id: int, span_id: int, parent: int | None, trace_flags: int) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent = parent
        self.trace_flags = trace_flags
        self.is_root = parent is None


def span_of(exchange: Exchange, resource: Resource, *, latest: bool = False, content: bool = False) -> ReadableSpan:
    """The span of an exchange that has one. Times are nanoseconds of the wall clock, from its records."""
    ids = _ids(exchange)
    assert ids is not None
    flags = TraceFlags(ids.trace_flags & 0xFF)
    parent = None if ids.parent is None else SpanContext(ids.trace_id, ids.parent, is_remote=True, trace_flags=flags)
    began = _nanoseconds(exchange.started_at) or 0
    ended = max(began, _nanoseconds(exchange.ended_at) or began)
    attributes = _attributes(exchange, latest=latest)
    if content:
        attributes |= _content(exchange)
    return ReadableSpan(
        name(exchange),
        context=SpanContext(ids.trace_id, ids.span_id, is_remote=False, trace_flags=flags),
        parent=parent,
        resource=resource,
        attributes=attributes,
        events=_events(exchange, began, ended),
        kind=SpanKind.CLIENT,
        status=_status(exchange),
        start_time=began,
        end_time=ended,
        instrumentation_scope=SCOPE,
    )


def span_of_incident(
    fields: Mapping[str, Any], at: float, trace_id: str, resource: Resource, *, over: bool = False
) -> ReadableSpan:
    """A span with one event, which says what befell a backend: from its moment to its end, as far as that is known.
    `fields`: as `incidents --json` has it; `over`: the span beneath the first one, which says that it has ended."""
    digest = hashlib.sha256(str(fields["id"]).encode()).digest()
    trace = int(trace_id, 16) if _HEX_TRACE.fullmatch(trace_id) else int.from_bytes(digest[:16])
    first = SpanContext(trace, int.from_bytes(digest[16:24]), is_remote=False, trace_flags=_SAMPLED)
    later = SpanContext(trace, int.from_bytes(digest[24:]), is_remote=False, trace_flags=_SAMPLED)
    suspects = fields["suspects"]
    attributes = {
        "extproc.incident.id": fields["id"],
        "extproc.incident.class": fields["class"],
        "extproc.incident.confidence": fields["confidence"],
        "extproc.incident.evidence": [str(line)[:MAX_TEXT] for line in fields["evidence"]],
        "extproc.incident.suspect": suspects[0]["exchange"] if suspects else "",
        "extproc.upstream.address": fields["upstream"],
        "extproc.upstream.cluster": fields["cluster"] or "",
    }
    moment, ended_at = int(at * 1e9), fields.get("ended_at")
    if ended_at is not None:
        attributes["extproc.incident.ended_at"] = ended_at
    ended = max(_nanoseconds(ended_at) or moment, moment)
    event = (
        Event("extproc.incident.ended", attributes, ended) if over else Event("extproc.incident", attributes, moment)
    )
    return ReadableSpan(
        f"incident {fields['class']} ended" if over else f"incident {fields['class']}",
        context=later if over else first,
        parent=first if over else None,
        resource=resource,
        events=[event],
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR),
        start_time=moment,
        end_time=ended,
        instrumentation_scope=SCOPE,
    )


def name(exchange: Exchange) -> str:
    """`{operation} {model}` for what is known as an LLM's API, else the HTTP method."""
    llm = exchange.llm or NO_LLM
    operation = semconv.OPERATIONS.get(llm.api or "")
    if operation is None:
        return _text(exchange.method) or "HTTP"
    model = _text(llm.model)
    return f"{operation} {model}" if model else operation


def _attributes(exchange: Exchange, *, latest: bool) -> Attributes:
    found: Attributes = {}
    for pairs in (_about(exchange), _asked(exchange), _answered(exchange, latest=latest)):
        for key, value in pairs:
            if value is not None and value != "":
                found[key] = value
    return found


def _about(exchange: Exchange) -> Iterator[tuple[str, Any]]:
    outcome = exchange.outcome
    host, port = semconv.server(exchange)
    yield semconv.HTTP_METHOD, _text(exchange.method)
    yield semconv.URL_PATH, _text(str(exchange.path or "").partition("?")[0])
    yield semconv.HTTP_STATUS, _typed(exchange.status, int)
    yield semconv.SERVER_ADDRESS, host
    yield semconv.SERVER_PORT, int(port) if port.isascii() and port.isdigit() else None
    yield semconv.CLIENT_ADDRESS, str(exchange.client or "").rpartition(":")[0].strip("[]")
    yield semconv.ERROR_TYPE, None if exchange.class_ == "ok" else outcome
    yield "extproc.exchange.id", exchange.id
    yield "extproc.outcome", outcome
    yield "extproc.worker", _typed(exchange.worker, int)
    yield "extproc.upstream.cluster", _text(exchange.cluster)
    yield "extproc.route", _text(exchange.route)
    yield "extproc.attempts", _typed(exchange.attempts, int)
    yield "extproc.response_flags", [str(flag) for flag in exchange.response_flags or ()] or None
    yield "extproc.response_code_details", _text(exchange.response_code_details)
    for direction, passed in (("request", exchange.request), ("response", exchange.response)):
        yield f"http.{direction}.body.size", _typed(passed and passed.bytes, int)


def _asked(exchange: Exchange) -> Iterator[tuple[str, Any]]:
    llm = exchange.llm or NO_LLM
    api = llm.api or ""
    if api not in semconv.OPERATIONS:
        return
    params = llm.params or {}
    yield semconv.OPERATION_NAME, semconv.OPERATIONS[api]
    yield semconv.PROVIDER_NAME, semconv.PROVIDERS.get(api, semconv.PROVIDER)
    yield semconv.REQUEST_MODEL, _text(llm.model)
    yield semconv.REQUEST_STREAM, True if llm.stream else None
    for parameter, (attribute, type) in semconv.PARAMETERS.items():
        yield attribute, _typed(params.get(parameter), type)
    choices = _typed(params.get("n"), int)
    yield semconv.CHOICE_COUNT, None if choices == 1 else choices
    stop = params.get("stop", params.get("stop_sequences"))
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    yield semconv.STOP_SEQUENCES, [_text(each) or "" for each in stops[:8]] or None
    yield semconv.REASONING_LEVEL, _text(params.get("reasoning_effort"))
    form = params.get("response_format")
    asked_for = form.get("type") if isinstance(form, Mapping) else None
    yield semconv.OUTPUT_TYPE, {"json_object": "json", "json_schema": "json", "text": "text"}.get(str(asked_for))
    yield "extproc.fingerprint", _text(llm.fingerprint)


def _answered(exchange: Exchange, *, latest: bool) -> Iterator[tuple[str, Any]]:
    llm = exchange.llm or NO_LLM
    yield semconv.RESPONSE_MODEL, _text(llm.response_model)
    yield semconv.RESPONSE_ID, _text(llm.response_id)
    reasons = llm.finish_reasons
    if isinstance(reasons, list) and reasons:
        # The conventions want `error` where a reason was to be expected and never came.
        yield semconv.FINISH_REASONS, [_text(reason) or "error" for reason in reasons]
    if llm.stream:
        first = _typed(llm.ttft_ms, float)
        yield semconv.TIME_TO_FIRST_CHUNK, None if first is None else first / 1000
    tokens = semconv.usage(llm.usage)
    yield semconv.INPUT_TOKENS, tokens.get("input")
    yield semconv.OUTPUT_TOKENS, tokens.get("output")
    yield semconv.CACHE_READ_TOKENS, tokens.get("cache_read")
    yield semconv.cache_write_tokens(latest), tokens.get("cache_write")
    yield semconv.REASONING_TOKENS, tokens.get("reasoning")


def _events(exchange: Exchange, began: int, ended: int) -> list[Event]:
    response = exchange.response or NO_RESPONSE
    late = exchange.protocol.late
    times = (
        ("first byte", response.first_byte_ms),
        ("first token", (exchange.llm or NO_LLM).ttft_ms),
        ("end of stream", response.last_byte_ms if _ended_by_itself(response) else None),
    )
    events = [Event(text, {}, timestamp=began + int(at * 1_000_000)) for text, at in times if _is_span_of_time(at)]
    # When late messages came is not recorded: after the end.
    events += [
        Event("late message", {"extproc.late.kind": _text(kind) or "", "extproc.late.count": count}, timestamp=ended)
        for kind, count in list(late.items())[:16]
    ]
    return events


def _ended_by_itself(answer: ExchangeResponse) -> bool:
    return answer.ended_by in {"headers", "end_of_stream", "content_length", "trailers"}


def _content(exchange: Exchange) -> Attributes:
    """What was asked and answered, as the conventions' JSON, where it was asked for."""
    llm = exchange.llm or NO_LLM
    found: Attributes = {}
    asked = _body(exchange, "request")
    try:
        document = json.loads(asked) if asked else {}
    except (ValueError, RecursionError):
        document = {}
    messages = document.get("messages") or document.get("prompt") or document.get("input")
    if messages:
        found[semconv.INPUT_MESSAGES] = json.dumps(messages, ensure_ascii=False)[:MAX_CONTENT]
    answer, response = _body(exchange, "response"), exchange.response or NO_RESPONSE
    if answer:
        coding = encoding.of_headers(response.headers or ())
        output = dialects.assemble(llm.api or "", response.content_type, coding, answer)
        if output:
            found[semconv.OUTPUT_MESSAGES] = json.dumps(output, ensure_ascii=False)[:MAX_CONTENT]
    return found


def _body(exchange: Exchange, direction: str) -> bytes:
    body = exchange.body(direction)
    return ((body and body.text) or "").encode("utf-8", "surrogatepass")


def _is_span_of_time(milliseconds: object) -> TypeGuard[float]:
    """Whether it is a number of milliseconds that a timestamp can be later by."""
    return isinstance(milliseconds, int | float) and 0 <= milliseconds < _LONGEST_MS


def _status(exchange: Exchange) -> Status:
    return Status(StatusCode.ERROR if exchange.class_ in _FAULTS else StatusCode.UNSET)


def _ids(exchange: Exchange) -> _Ids | None:
    begun = exchange.begun
    if begun is None or begun.trace_flags is None:
        return None  # an answer without a request: there was nothing to choose ids for
    try:
        trace_id, span_id = int(str(exchange.trace_id), 16), int(str(exchange.span_id), 16)
        parent = exchange.parent_span_id
        return _Ids(trace_id, span_id, None if parent is None else int(str(parent), 16), begun.trace_flags)
    except ValueError:
        return None


def _within(trace_id: int, ratio: float) -> bool:
    """Whether a trace is among so many of all, by the lower half of its id, as OpenTelemetry's samplers do it."""
    return ratio >= 1.0 or (trace_id & 0xFFFF_FFFF_FFFF_FFFF) < int(ratio * (1 << 64))


def _root_ratio(environ: Mapping[str, str]) -> float | None:
    """How many of our own roots are wanted; None: all."""
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    if sampler == "always_off":
        return 0.0
    if sampler != "traceidratio":
        return None
    try:
        return min(1.0, max(0.0, float(environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))))
    except ValueError:
        return None


def _resource() -> Resource:
    """Who we are; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have the last word."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {"service.version": __version__, "host.name": socket.gethostname()}
    return Resource(ours | ({} if named else {"service.name": "extproc"})).merge(_from_environment(named=named))


def _from_environment(*, named: bool) -> Resource:
    made = Resource.create()
    if named:
        return made
    return Resource({key: value for key, value in made.attributes.items() if key != "service.name"})


def _nanoseconds(at: Any) -> int | None:
    try:
        moment = datetime.fromisoformat(str(at))
    except ValueError:
        return None
    # Not through a float, which has no room for the microseconds of a nanosecond's count.
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _text(value: Any) -> str | None:
    """A client's or a server's word, short enough for a span."""
    if not isinstance(value, str):
        return None
    return value[:MAX_TEXT] if value.isascii() else value[:MAX_TEXT].encode("utf-8", "replace").decode()


def _typed(value: Any, type: type) -> Any:
    """A number of the type that the conventions want; None for anything else, and for what OTLP has no room for."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if type is int:
        return value if isinstance(value, int) and -(1 << 63) <= value < 1 << 63 else None
    try:
        return float(value)
    except OverflowError:
        return None
