"""Metrics from exchanges: counted right, bounded, and not to be broken by what clients say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support.exchanges import access, made

from extproc.core.outcome import Outcome
from extproc.core.records import Gap
from extproc.history.join import Exchange
from extproc.telemetry import semconv
from extproc.telemetry.metrics import MAX_MODELS, MAX_UPSTREAMS, Bounded, Metrics, unmatched


def exchange(flags: int = 0, **more: Any) -> Exchange:
    """A streamed chat completion that went well; further fields replace its own."""
    fields: dict[str, Any] = {
        "started_at": "2026-11-21T03:12:00.000000Z",
        "outcome": "ok",
        "duration_ms": 2000.0,
        "upstream": "10.0.0.7:8000",
        "cluster": "llm",
        "parent_span_id": "a",
        "request": {"bytes": 10, "chunks": 1},
        "response": {"bytes": 20, "chunks": 5, "first_byte_ms": 100.0, "last_byte_ms": 500.0},
        "llm": {
            "api": "chat.completions",
            "model": "m",
            "response_model": "m-1",
            "stream": True,
            "ttft_ms": 150.0,
            "usage": {"prompt_tokens": 3, "completion_tokens": 4},
        },
        "protocol": {"late": {}, "duplicate_end_of_stream": 0},
        "access_log": "received",
        "envoy": {
            "times_ms": {
                "last_request_byte": 5.0,
                "last_upstream_request_byte": 10.0,
                "first_upstream_response_byte": 90.0,
            }
        },
        "integrity": [],
    }
    access = {"started_at": "2026-11-21T03:12:00.000000Z", "duration_ms": 2000.0, "at": "2026-11-21T03:12:02.250000Z"}
    request = {"at": "2026-11-21T03:12:00.020000Z", "trace_flags": flags}
    return made(fields | more, {"access": access, "request": request})


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels."""
    # A line ends with a line feed and nothing else: a label may hold every other character.
    lines = (line for line in metrics.text().decode().split("\n") if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def counted(*exchanges: Exchange, environ: dict[str, str] | None = None) -> dict[str, float]:
    """The samples after these exchanges."""
    metrics = Metrics((), environ or {})
    for each in exchanges:
        metrics.exchange(each)
    return samples(metrics)


GENAI = (
    'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="m",gen_ai_response_model="m-1",'
)
SERVER = 'server_address="10.0.0.7",server_port="8000"'


def test_the_lifecycle_of_an_exchange() -> None:
    """Each step in seconds, by whose doing the end was; Envoy's times tell client from backend."""
    found = counted(exchange())
    for name, value in {
        'extproc_request_end_seconds_sum{class="ok"}': 0.02,
        'extproc_first_byte_seconds_sum{class="ok"}': 0.1,
        'extproc_first_token_seconds_sum{class="ok"}': 0.15,
        'extproc_chunk_interval_seconds_sum{class="ok"}': 0.1,
        'extproc_exchange_duration_seconds_sum{class="ok"}': 2.0,
        "extproc_client_upload_seconds_sum": 0.005,
        "extproc_backend_first_byte_seconds_sum": 0.08,
        "extproc_access_log_lag_seconds_sum": 0.25,
        'extproc_chunks_total{direction="response"}': 5,
        'extproc_body_bytes_total{direction="request"}': 10,
        'extproc_upstream_exchanges_total{class="ok",cluster="llm",upstream="10.0.0.7:8000"}': 1,
        "extproc_untraced_exchanges_total": 0,
        "extproc_access_log_missing_total": 0,
    }.items():
        assert found[name] == pytest.approx(value), name


def test_attempts_that_another_one_followed() -> None:
    """Counted at the backend that was asked, where no outcome tells of them."""
    failed = [{"upstream": "10.0.0.8:8000", "cluster": "llm"}] * 2 + [{"upstream": None, "cluster": None}]
    found = counted(exchange(attempts=4, failed_attempts=failed), exchange(failed_attempts=None))
    assert found['extproc_failed_attempts_total{cluster="llm",upstream="10.0.0.8:8000"}'] == 2
    assert found['extproc_failed_attempts_total{cluster="",upstream=""}'] == 1
    assert found['extproc_failed_attempts_total{cluster="llm",upstream="10.0.0.7:8000"}'] == 0
    assert found['extproc_upstream_exchanges_total{class="ok",cluster="llm",upstream="10.0.0.7:8000"}'] == 2


def exemplars(*exchanges: Exchange) -> dict[str, set[str]]:
    """The trace ids that lead on from each metric, after these exchanges."""
    metrics = Metrics((), {})
    for each in exchanges:
        metrics.exchange(each)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text(open_metrics=True).decode()):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if sample.exemplar is not None:
                assert sum(len(key) + len(value) for key, value in sample.exemplar.labels.items()) <= 128
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


def traced(number: int, *, flags: int = 1, **more: Any) -> Exchange:
    """An exchange with a trace."""
    fields = {"id": f"01a1fbeb-d42c-7169-a8c4-{number:012x}", "trace_id": f"{number:032x}", "span_id": f"{number:016x}"}
    return exchange(flags, **(fields | more))


def test_figures_lead_to_traces() -> None:
    """With OpenMetrics: the times and the results have the last trace that fell there; the plain text has none."""
    found = exemplars(traced(1), traced(2, duration_ms=60_000.0, outcome="upstream_timeout"))
    one, two = f"{1:032x}", f"{2:032x}"
    for name in ("extproc_exchange_duration_seconds", "extproc_exchange_results"):
        assert found[name] == {one, two}, name
    for name in ("extproc_first_byte_seconds", "extproc_first_token_seconds"):
        assert found[name] == {one, two}, name
    assert {"gen_ai_client_operation_duration_seconds", "gen_ai_client_operation_time_to_first_chunk_seconds"} <= set(
        found
    )
    metrics = Metrics((), {})
    metrics.exchange(traced(1))
    assert one not in metrics.text().decode()


@pytest.mark.parametrize(
    "odd", [traced(1, flags=0), traced(1, trace_id=None), traced(1, trace_id='"x"'), traced(1, span_id="b"), exchange()]
)
def test_what_has_no_trace_leads_nowhere(odd: Exchange) -> None:
    """Not sampled, or never traced: a link would find nothing."""
    assert exemplars(odd) == {}


def test_the_conventions_metrics() -> None:
    """With version 1.41's names by default."""
    found = counted(exchange())
    assert found[f'gen_ai_client_operation_duration_seconds_sum{{error_type="",{GENAI}{SERVER}}}'] == 2.0
    assert found[f"gen_ai_client_operation_time_to_first_chunk_seconds_sum{{{GENAI}{SERVER}}}"] == 0.1
    token = f'gen_ai_client_token_usage_sum{{{GENAI}gen_ai_token_type="output",{SERVER}}}'
    assert found[token] == 4


def test_a_backends_first_failure_is_an_increase() -> None:
    """Its failures are there at 0 with the first exchange that it gets."""
    found = counted(exchange())
    assert found['extproc_upstream_exchanges_total{class="upstream",cluster="llm",upstream="10.0.0.7:8000"}'] == 0
    assert found['extproc_failed_attempts_total{cluster="llm",upstream="10.0.0.7:8000"}'] == 0


def test_the_newest_names() -> None:
    """Counters and histograms for each direction in the place of one for both."""
    environ = {semconv.OPT_IN: semconv.LATEST}
    embedding = exchange(llm={"api": "embeddings", "model": "m", "usage": {"prompt_tokens": 5}})
    found = counted(exchange(), embedding, environ=environ)
    assert any(name.startswith("gen_ai_client_inference_duration_seconds_count{") for name in found)
    assert any(name.startswith("gen_ai_client_embeddings_duration_seconds_count{") for name in found)
    usage = [name for name in found if name.startswith("gen_ai_client_inference_usage_output_tokens_total{")]
    assert [found[name] for name in usage] == [4]
    assert not any(name.startswith("gen_ai_client_token_usage") for name in found)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_counted_from_the_start(outcome: Outcome) -> None:
    """At 0, so that its first time is an increase."""
    name = f'extproc_exchanges_total{{outcome="{outcome}"}}'
    assert counted()[name] == 0
    assert counted(exchange(outcome=outcome.value))[name] == 1


@pytest.mark.parametrize(
    ("status", "kind", "label"),
    [(400, "client", "4xx"), (429, "limited", "4xx"), (503, "upstream", "5xx"), (None, "upstream", "none")],
)
def test_a_backends_error_is_counted_by_whose_it_is(status: int | None, kind: str, label: str) -> None:
    """Under one outcome, in a class of its own, for the alerts; at the backend and in every time as well."""
    found = counted(exchange(outcome="upstream_error_status", status=status))
    assert found['extproc_exchanges_total{outcome="upstream_error_status"}'] == 1
    results = f'extproc_exchange_results_total{{class="{kind}",outcome="upstream_error_status",status="{label}"}}'
    assert found[results] == 1
    upstream = f'extproc_upstream_exchanges_total{{class="{kind}",cluster="llm",upstream="10.0.0.7:8000"}}'
    assert found[upstream] == 1
    assert found[f'extproc_exchange_duration_seconds_count{{class="{kind}"}}'] == 1


def test_an_error_has_its_type() -> None:
    """On the duration."""
    found = counted(exchange(outcome="upstream_timeout"))
    assert (
        found[f'gen_ai_client_operation_duration_seconds_count{{error_type="upstream_timeout",{GENAI}{SERVER}}}'] == 1
    )


def test_tokens_are_not_invented() -> None:
    """Without a count by the server there is none."""
    found = counted(exchange(llm={"api": "chat.completions", "model": "m", "usage": None}))
    assert not any(name.startswith("gen_ai_client_token_usage_count") for name in found)


def test_integrity() -> None:
    """Late messages by kind, duplicate ends, differing bytes, parse errors, missing entries, untraced ones."""
    odd = exchange(
        protocol={"late": {"response.body": 2, "request.headers": 1}, "duplicate_end_of_stream": 3},
        integrity=[{"direction": each, "envoy": 1, "recorded": 2} for each in ("request", "response")],
        access_log="missing",
        parent_span_id=None,
        llm={"api": "chat.completions", "parse_error": "malformed JSON at byte 3"},
    )
    found = counted(odd)
    assert found['extproc_late_messages_total{kind="response.body"}'] == 2
    assert found["extproc_duplicate_end_of_stream_total"] == 3
    assert found["extproc_integrity_findings_total"] == 2
    assert found["extproc_access_log_missing_total"] == 1
    assert found["extproc_untraced_exchanges_total"] == 1
    assert found['extproc_parse_errors_total{kind="malformed JSON"}'] == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"bypass": "upgrade"}, "bypass"),
        ({"response_code_details": "extproc_not_recorded"}, "refused"),
        ({"response_code_details": "http1.codec_error", "response_flags": ["DPE"], "method": None}, "malformed"),
        ({"response_code_details": "http1.codec_error", "response_flags": ["DPE"], "method": "POST"}, "malformed_body"),
        (
            {"response_code_details": "http2.x", "response_flags": ["DPE"], "method": "POST"},
            "malformed_body",
        ),
        ({"response_code_details": "http2.remote_reset", "response_flags": ["DR"], "method": "POST"}, "malformed"),
        ({"response_code_details": "ext_proc_error_gRPC_error_14{}"}, "local"),
        ({"response_code_details": "rbac_access_denied"}, "local"),
        ({"response_code_details": "via_upstream"}, "unrecorded"),
        ({}, "unrecorded"),
    ],
)
def test_entries_without_an_exchange(record: dict[str, Any], reason: str) -> None:
    """By the reason; what has none should not have passed."""
    assert unmatched(access(record)) == reason
    metrics = Metrics((), {})
    metrics.record(access(record))
    assert samples(metrics)[f'extproc_unmatched_access_entries_total{{reason="{reason}"}}'] == 1


def test_gaps() -> None:
    """As many as the record says."""
    metrics = Metrics((), {})
    metrics.record(Gap(direction="request", count=7))
    assert samples(metrics)['extproc_gaps_total{direction="request"}'] == 7


def test_names_of_clients_are_bounded() -> None:
    """Ten thousand models and as many backends give no more labels than were meant."""
    metrics = Metrics(("named",), {})
    for number in range(10_000):
        llm = {"api": "chat.completions", "model": f"model-{number}"}
        metrics.exchange(exchange(llm=llm, upstream=f"10.0.{number >> 8}.{number & 255}:1"))
    metrics.exchange(exchange(llm={"api": "chat.completions", "model": "named"}))
    text = metrics.text().decode()
    models = {
        line.split('gen_ai_request_model="')[1].split('"')[0] for line in text.splitlines() if "request_model" in line
    }
    upstreams = {line.split('upstream="')[1].split('"')[0] for line in text.splitlines() if 'upstream="' in line}
    assert len(models) == MAX_MODELS + 2
    assert {"named", "other"} <= models
    assert len(upstreams) == MAX_UPSTREAMS + 1


def test_what_never_came_to_the_recorder_is_not_called_untraced() -> None:
    """There was nothing that a trace could have come with."""
    metrics = Metrics((), {})
    metrics.exchange(made({"outcome": "local_reply", "status": 404}, {"access": {}}))
    found = samples(metrics)
    assert found["extproc_untraced_exchanges_total"] == 0
    assert found['extproc_exchange_results_total{class="local",outcome="local_reply",status="4xx"}'] == 1


def test_texts_of_records_are_no_labels() -> None:
    """A thousand places of a malformed event, and kinds that nobody knows, make no series; no bound is shared with
    another metric, so that nothing of it is used up."""
    metrics = Metrics((), {})
    before = len(samples(metrics))
    for number in range(1000):
        llm = {"parse_error": f"event {number}: malformed at byte {number}"}
        metrics.exchange(exchange(llm=llm, protocol={"late": {f"odd.{number}": 1}}, outcome="ok"))
        metrics.record(Gap(direction=f"sideways {number}", count=1))
    metrics.exchange(exchange(protocol={"late": {"response.trailers": 2}}))
    found = samples(metrics)
    assert found['extproc_parse_errors_total{kind="malformed JSON"}'] == 1000
    assert found['extproc_late_messages_total{kind="other"}'] == 1000
    assert found['extproc_late_messages_total{kind="response.trailers"}'] == 2
    assert len(found) < before + 400


def test_one_backend_is_one_of_the_bounded() -> None:
    """However its address is written in a metric: an IPv6 address takes no second place."""
    metrics = Metrics((), {})
    for number in range(MAX_UPSTREAMS):
        metrics.exchange(exchange(upstream=f"[fd00::{number:x}]:8000"))
    text = metrics.text().decode()
    assert 'upstream="other"' not in text
    assert f'server_address="fd00::{MAX_UPSTREAMS - 1:x}"' in text


@pytest.mark.parametrize("name", ["x" * 9999, "a\nb", 'quo"te', "\ud800", "\x00", "é"])
def test_odd_names(name: str) -> None:
    """They are labels that Prometheus can read."""
    metrics = Metrics((), {})
    metrics.exchange(exchange(llm={"api": "chat.completions", "model": name}))
    metrics.text().decode()
    assert len(Bounded(3).label(name)) <= 100


values: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just({}), st.just([])
)


@given(st.dictionaries(st.sampled_from(sorted(Exchange.__struct_encode_fields__)), values))
def test_odd_exchanges(fields: dict[str, Any]) -> None:
    """Scalars of any kind where others are meant, and what is missing: counted as far as they can be."""
    dicts = {"request", "response", "llm", "protocol", "envoy", "integrity"}
    odd = {name: None if name in dicts and not isinstance(value, dict) else value for name, value in fields.items()}
    counted(exchange(0, **odd))
