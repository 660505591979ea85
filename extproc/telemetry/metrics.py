"""Metrics of what passed, counted from final exchanges: the same words and numbers as the journal's.

The GenAI metrics are those of the conventions (`semconv.py`); a proxy is a client of the model's server, so they are
the `client` ones. Of tokens only what the server counted is reported. Names that come from clients and servers become
labels only up to a bound: those of the settings, then the first `MAX_MODELS` (and the like) met, then `other`.

A chunk has no time of its own in a record, so "between chunks" is the mean of an answer, observed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from extproc.core.joined import NO_LLM, NO_RESPONSE, Llm
from extproc.core.outcome import REFUSED_DETAILS, Outcome, broke_off, outcome_class
from extproc.core.records import Access, AnyRecord, Gap
from extproc.history import alone
from extproc.history.join import Exchange
from extproc.telemetry import families, kinds, openmetrics, semconv
from extproc.telemetry.families import LONG_BUCKETS
from extproc.telemetry.kinds import OTHER
from extproc.telemetry.series import Counters, Histograms

Exemplar = dict[str, str] | None

MAX_MODELS: Final = 50
MAX_UPSTREAMS: Final = 200
MAX_LABEL: Final = 100


DIRECTIONS: Final = ("request", "response")
UNMATCHED: Final = ("bypass", "refused", "malformed", "malformed_body", "local", "unrecorded")

_HEX: Final = frozenset("0123456789abcdef")
_NO_STATUS: Final = "none"
_BEFORE_THE_FILTERS: Final = (
    "http1.",
    "http2.",
    "http3.",
    "codec_error",
    "route_not_found",
    "missing_host",
    "low_version",
)


class Spans(Protocol):
    """What is known of the spans, for the metrics about them."""

    @property
    def exported(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def unsampled(self) -> int: ...
    @property
    def queued(self) -> int: ...


class Bounded:
    """Names as labels: those that are named, the first few others, then `other`."""

    def __init__(self, most: int, named: Sequence[str] = ()) -> None:
        self._most = most + len(named)
        self._known = {name: name for name in named}

    def label(self, name: Any) -> str:
        """The label that stands for a name; empty where there is none."""
        if name is None or name == "":
            return ""
        text = str(name)[:MAX_LABEL]
        known = self._known.get(text)
        if known is not None:
            return known
        if len(self._known) >= self._most:
            return OTHER
        clean = "".join(character if character.isprintable() else "?" for character in text)
        self._known[text] = clean
        return clean


class Metrics:
    """The consumer that counts. `text` may be called by another thread."""

    def __init__(self, models: Sequence[str], environ: Mapping[str, str], spans: Spans | None = None) -> None:
        self._registry = CollectorRegistry()
        self._latest = semconv.is_latest(environ)
        self._models = Bounded(MAX_MODELS, models)
        self._response_models = Bounded(MAX_MODELS, models)
        self._upstreams = Bounded(MAX_UPSTREAMS)  # one backend has one label, in every metric: alerts compare them
        self._clusters = Bounded(MAX_UPSTREAMS)
        self._define_own()
        self._define_genai()
        self._registry.register(_SpanFigures(spans))

    def text(self, *, open_metrics: bool = False) -> bytes:
        """Everything in Prometheus's text format, or in OpenMetrics', which alone has the exemplars."""
        return openmetrics.text(self._registry) if open_metrics else generate_latest(self._registry)

    # -- a consumer -------------------------------------------------------------------------------------------------

    def exchange(self, exchange: Exchange) -> None:
        """Count a final exchange."""
        outcome = exchange.outcome or Outcome.UNKNOWN.value
        kind = exchange.class_ or Outcome.UNKNOWN.value
        shown = exemplar(exchange)
        self._counters[families.EXCHANGES].labels(outcome).inc()
        self._counters[families.RESULTS].labels(kind, outcome, _status_class(exchange.status)).inc(1, shown)
        upstream = self._upstreams.label(exchange.upstream)
        if upstream:
            cluster = self._clusters.label(exchange.cluster)
            self._counters[families.UPSTREAM_EXCHANGES].labels(upstream, cluster, kind).inc()
            # There from now on, so that the first of each is an increase.
            self._counters[families.UPSTREAM_EXCHANGES].labels(upstream, cluster, "upstream")
            self._counters[families.FAILED_ATTEMPTS].labels(upstream, cluster)
        for attempt in exchange.failed_attempts or ():
            self._counters[families.FAILED_ATTEMPTS].labels(
                self._upstreams.label(attempt.upstream), self._clusters.label(attempt.cluster)
            ).inc()
        self._count_bodies(exchange)
        self._count_protocol(exchange)
        self._observe_lifecycle(exchange, kind, shown)
        self._observe_envoy(exchange)
        llm = exchange.llm
        if llm:
            self._observe_genai(exchange, llm, outcome, kind, shown)

    def record(self, record: AnyRecord) -> None:
        """Count what belongs to no exchange."""
        match record:
            case Gap():
                label = record.direction if record.direction in DIRECTIONS else OTHER
                self._counters[families.GAPS].labels(label).inc(max(record.count, 0))
            case Access():
                self._counters[families.UNMATCHED].labels(unmatched(record)).inc()

    def incident(self, kind: str, upstream: str) -> None:
        """Count an incident. For any thread."""
        self._counters[families.INCIDENTS].labels(kind, self._upstreams.label(upstream)).inc()

    def incident_changed(self, counted_as: str, kind: str, upstream: str) -> None:
        """Count one that is of another class than it was counted as. For any thread."""
        self._counters[families.INCIDENT_CHANGES].labels(kind, counted_as, self._upstreams.label(upstream)).inc()

    def repeat(self, upstream: str) -> None:
        """Count a request like one that may have killed a backend. For any thread."""
        self._counters[families.REPEATS].labels(self._upstreams.label(upstream)).inc()

    def sequence(self) -> int:
        return 0

    def flushed_to(self, sequence: int) -> bool:
        return True

    # -- our own ----------------------------------------------------------------------------------------------------

    def _define_own(self) -> None:
        own = families.OWN
        self._counters = {each: self._counter(each.name, each.text, *each.labels) for each in own if not each.buckets}
        self._times = {
            each: self._histogram(each.name, each.text, each.buckets, *each.labels) for each in own if each.buckets
        }
        # What may never happen is there from the start, so that its first time is an increase.
        for outcome in Outcome:
            self._counters[families.EXCHANGES].labels(outcome.value)
            self._counters[families.RESULTS].labels(outcome_class(outcome), outcome.value, _NO_STATUS)
        for direction in DIRECTIONS:
            for counter in (
                self._counters[families.CHUNKS],
                self._counters[families.BYTES],
                self._counters[families.GAPS],
            ):
                counter.labels(direction)
        for kind in kinds.PARSE_ERRORS:
            self._counters[families.PARSE_ERRORS].labels(kind)
        for kind in kinds.LATE:
            self._counters[families.LATE].labels(kind)
        for reason in UNMATCHED:
            self._counters[families.UNMATCHED].labels(reason)

    def _count_bodies(self, exchange: Exchange) -> None:
        for direction in DIRECTIONS:
            passed = exchange.request if direction == "request" else exchange.response
            if passed is not None:
                self._counters[families.CHUNKS].labels(direction).inc(_positive(passed.chunks) or 0)
                self._counters[families.BYTES].labels(direction).inc(_positive(passed.bytes) or 0)

    def _count_protocol(self, exchange: Exchange) -> None:
        for kind, count in exchange.protocol.late.items():
            self._counters[families.LATE].labels(kinds.of_late(kind)).inc(_positive(count) or 0)
        duplicates = _positive(exchange.protocol.duplicate_end_of_stream)
        if duplicates:
            self._counters[families.DUPLICATES].labels().inc(duplicates)
        error = (exchange.llm or NO_LLM).parse_error
        if error:
            self._counters[families.PARSE_ERRORS].labels(kinds.of_parse_error(error)).inc()
        if exchange.integrity:
            self._counters[families.INTEGRITY].labels().inc(len(exchange.integrity))
        if exchange.parent_span_id is None and set(exchange.records) != {"access"}:
            self._counters[families.UNTRACED].labels().inc()
        if exchange.access_log == "missing":
            self._counters[families.MISSING].labels().inc()

    def _observe_lifecycle(self, exchange: Exchange, kind: str, shown: Exemplar) -> None:
        response = exchange.response or NO_RESPONSE
        first, last = _positive(response.first_byte_ms), _positive(response.last_byte_ms)
        _observe(self._times[families.REQUEST_END], kind, _request_end_ms(exchange))
        _observe(self._times[families.FIRST_BYTE], kind, first, shown)
        _observe(self._times[families.FIRST_TOKEN], kind, _positive((exchange.llm or NO_LLM).ttft_ms), shown)
        _observe(self._times[families.CHUNK_INTERVAL], kind, _interval(first, last, _positive(response.chunks)))
        _observe(self._times[families.DURATION], kind, _positive(exchange.duration_ms), shown)

    def _observe_envoy(self, exchange: Exchange) -> None:
        times = (exchange.envoy and exchange.envoy.times_ms) or {}
        uploaded = _positive(times.get("last_request_byte"))
        if uploaded is not None:
            self._times[families.UPLOAD].labels().observe(uploaded / 1000)
        sent = _positive(times.get("last_upstream_request_byte"))
        answered = _positive(times.get("first_upstream_response_byte"))
        if sent is not None and answered is not None:
            self._times[families.BACKEND].labels().observe(max(0.0, answered - sent) / 1000)
        lag = _access_lag(exchange.access)
        if lag is not None:
            self._times[families.ACCESS_LAG].labels().observe(lag)

    # -- the conventions' -------------------------------------------------------------------------------------------

    def _define_genai(self) -> None:
        names = semconv.metric_names(self._latest)
        labels = tuple(map(_prometheus, _GENAI_LABELS))
        with_error = (*labels, _prometheus(semconv.ERROR_TYPE))
        duration = self._histogram(
            _seconds(names.duration), "Duration of operations on a model.", LONG_BUCKETS, *with_error
        )
        self._genai_duration = duration
        self._embeddings_duration = duration
        if names.embeddings_duration != names.duration:
            self._embeddings_duration = self._histogram(
                _seconds(names.embeddings_duration), "Duration of embeddings.", LONG_BUCKETS, *with_error
            )
        self._genai_first = self._histogram(
            _seconds(names.time_to_first_chunk), "To the first chunk of a streamed answer.", LONG_BUCKETS, *labels
        )
        self._genai_chunk = self._histogram(
            _seconds(names.time_per_output_chunk),
            "Between chunks of a streamed answer: its mean.",
            LONG_BUCKETS,
            *labels,
        )
        self._usage: Callable[[str, tuple[str, ...], int], None]
        self._define_usage(names, labels)

    def _define_usage(self, names: semconv.MetricNames, labels: tuple[str, ...]) -> None:
        if names.token_usage is not None:
            usage = self._histogram(
                _prometheus(names.token_usage),
                "Tokens of an operation, as the server counted them.",
                semconv.TOKEN_BUCKETS,
                *labels,
                _prometheus(semconv.TOKEN_TYPE),
            )
            self._usage = lambda type, values, count: usage.labels(*values, type).observe(count)
            return
        counters = {
            type: self._counter(
                _prometheus(name), "Tokens, as the server counted them.", *labels, _prometheus(semconv.TOKEN_MODALITY)
            )
            for type, name in semconv.USAGE_COUNTERS.items()
        }
        histograms = {
            type: self._histogram(_prometheus(name), "Tokens of an operation.", semconv.TOKEN_BUCKETS, *labels)
            for type, name in semconv.USAGE_HISTOGRAMS.items()
        }

        def use(type: str, values: tuple[str, ...], count: int) -> None:
            counters[type].labels(*values, semconv.UNKNOWN_MODALITY).inc(count)
            histograms[type].labels(*values).observe(count)

        self._usage = use

    def _observe_genai(self, exchange: Exchange, llm: Llm, outcome: str, kind: str, shown: Exemplar) -> None:
        operation = semconv.OPERATIONS.get(llm.api or "")
        if operation is None:
            return
        values = (
            operation,
            semconv.PROVIDERS.get(llm.api or "", semconv.PROVIDER),
            self._models.label(llm.model),
            self._response_models.label(llm.response_model),
            *self._server(exchange),
        )
        duration = _positive(exchange.duration_ms)
        histogram = self._embeddings_duration if operation == "embeddings" else self._genai_duration
        if duration is not None:
            histogram.labels(*values, "" if kind == "ok" else outcome).observe(duration / 1000, shown)
        if llm.stream:
            response = exchange.response or NO_RESPONSE
            first, last = _positive(response.first_byte_ms), _positive(response.last_byte_ms)
            _observe_with(self._genai_first, values, first, shown)
            _observe_with(self._genai_chunk, values, _interval(first, last, _positive(response.chunks)))
        tokens = semconv.usage(llm.usage)
        for type in ("input", "output"):
            if type in tokens:
                self._usage(type, values, tokens[type])

    def _server(self, exchange: Exchange) -> tuple[str, str]:
        known = self._upstreams.label(exchange.upstream)
        return (OTHER, "") if known == OTHER else semconv.server(exchange)

    # -- making them ------------------------------------------------------------------------------------------------

    def _counter(self, name: str, text: str, *labels: str) -> Counters:
        made = Counters(name, text, labels)
        self._registry.register(made)
        return made

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histograms:
        made = Histograms(name, text, labels, buckets)
        self._registry.register(made)
        return made


_GENAI_LABELS: Final = (
    semconv.OPERATION_NAME,
    semconv.PROVIDER_NAME,
    semconv.REQUEST_MODEL,
    semconv.RESPONSE_MODEL,
    semconv.SERVER_ADDRESS,
    semconv.SERVER_PORT,
)


class _SpanFigures:
    """What became of the spans, asked when somebody scrapes."""

    def __init__(self, spans: Spans | None) -> None:
        self._spans = spans

    def collect(self) -> Sequence[Metric]:
        spans = self._spans
        results = CounterMetricFamily("extproc_spans", "Exchanges by what became of their span.", labels=["result"])
        for result in ("exported", "dropped", "failed", "unsampled"):
            results.add_metric([result], 0 if spans is None else getattr(spans, result))
        queue = GaugeMetricFamily("extproc_span_queue", "Spans that wait to be exported.")
        queue.add_metric([], 0 if spans is None else spans.queued)
        enabled = GaugeMetricFamily("extproc_tracing_enabled", "1 where a collector is configured.")
        enabled.add_metric([], 0 if spans is None else 1)
        return [results, queue, enabled]


def exemplar(exchange: Exchange) -> Exemplar:
    """What leads from a figure to this exchange: its trace, where that is sampled, and its id."""
    flags = None if exchange.begun is None else exchange.begun.trace_flags
    trace_id, span_id = exchange.trace_id, exchange.span_id
    if flags is None or not flags & 1 or not _is_hex(trace_id, 32) or not _is_hex(span_id, 16):
        return None
    return {"trace_id": str(trace_id), "span_id": str(span_id), "exchange_id": exchange.id[:36]}


def _is_hex(text: object, length: int) -> bool:
    return isinstance(text, str) and len(text) == length and _HEX.issuperset(text)


def unmatched(record: Access) -> str:
    """Why an access entry has no exchange: `bypass` by a route's rule, `refused` by us, `malformed` before any filter
    saw it, `malformed_body` where its headers were in order and what followed was no HTTP, `local` where Envoy ended it
    for another reason and no backend had it, else `unrecorded`, which should not be."""
    if record.bypass:
        return "bypass"
    details = record.response_code_details or ""
    if REFUSED_DETAILS in details:
        return "refused"
    if broke_off(record.response_flags, record.method):
        return "malformed_body"
    if details.startswith(_BEFORE_THE_FILTERS):
        return "malformed"
    return "local" if alone.stands_alone(alone.as_own(record)) else "unrecorded"


def _status_class(status: Any) -> str:
    return f"{status // 100}xx" if isinstance(status, int) and 100 <= status < 600 else _NO_STATUS


def _prometheus(name: str) -> str:
    return name.replace(".", "_")


def _seconds(name: str) -> str:
    return f"{_prometheus(name)}_seconds"


def _positive(value: Any) -> float | None:
    """A number that can be counted or observed."""
    kind = type(value)
    return value if (kind is float or kind is int) and value >= 0 else None


def _observe(histogram: Histograms, label: str, milliseconds: float | None, shown: Exemplar = None) -> None:
    _observe_with(histogram, (label,), milliseconds, shown)


def _observe_with(
    histogram: Histograms, labels: tuple[str, ...], milliseconds: float | None, shown: Exemplar = None
) -> None:
    if milliseconds is not None:
        histogram.labels(*labels).observe(milliseconds / 1000, shown)


def _interval(first: float | None, last: float | None, chunks: float | None) -> float | None:
    if first is None or last is None or chunks is None or chunks < 2:
        return None
    return max(0.0, last - first) / (chunks - 1)


def _request_end_ms(exchange: Exchange) -> float | None:
    record = exchange.records.get("request")
    return None if record is None else _between(exchange.started_at, record.at, 0.0)


def _access_lag(access: Access | None) -> float | None:
    """Seconds from the end, by Envoy's clock, to the arrival here; both are this machine's, or a near one's."""
    duration = None if access is None else _positive(access.duration_ms)
    if access is None or duration is None:
        return None
    lag = _between(access.started_at, access.at, duration)
    return None if lag is None else lag / 1000


def _between(start: Any, end: Any, less: float) -> float | None:
    try:
        span = datetime.fromisoformat(str(end)) - datetime.fromisoformat(str(start))
    except (ValueError, TypeError):
        return None
    return max(0.0, span.total_seconds() * 1000 - less)
