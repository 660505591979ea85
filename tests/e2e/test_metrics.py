"""A real Prometheus scrapes a running stack, and everything that the dashboard and the alerts ask has an answer."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from support.prometheus import Prometheus
from support.raw import Connection
from support.stack import RunningStack, eventually

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "rules.yml"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack with its demo backends."""
    with RunningStack(tmp_path_factory.mktemp("measured"), "--envoy-concurrency", "1", "--workers", "2") as stack:
        yield stack


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, stack: RunningStack) -> Iterator[Prometheus]:
    """A Prometheus that has scraped it before and after all kinds of traffic."""
    with Prometheus(tmp_path_factory.mktemp("prometheus"), stack.admin, RULES) as running:
        eventually(lambda: running.query("extproc_build_info"), "the first scrape")
        first = traffic_everywhere(stack)  # a rate needs a scrape between two rounds
        _scraped(running, first)
        _scraped(running, first + traffic_everywhere(stack))
        yield running


def traffic_everywhere(stack: RunningStack) -> int:
    """Traffic until both backends have had each kind of it: a backend's first request begins a series, and only the
    next one can be seen as a rate. How many requests that took."""
    rounds = [traffic(stack)]
    while any(len(set(upstreams)) < 2 for upstreams in zip(*rounds, strict=True)):
        rounds.append(traffic(stack))
    return sum(map(len, rounds))


def traffic(stack: RunningStack) -> list[str | None]:
    """Whole and streamed answers, an error, a client that leaves; the backend that each was sent to."""
    upstreams: list[str | None] = []
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": True}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/chat/completions", {"messages": "none"}),
    ):
        request = urllib.request.Request(stack.url + path, json.dumps({"model": "demo"} | body).encode())
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=150) as answer:
                answer.read()
                upstreams.append(answer.headers["x-upstream"])
        except urllib.error.HTTPError as error:
            assert error.code == 400  # noqa: PT017 - the one that asks for it
            upstreams.append(error.headers["x-upstream"])
    with Connection.to(stack.port) as client:
        long = b'{"model":"demo","stream":true,"messages":[{"role":"user","content":"x"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(long)
        client.send(head + long)
        upstreams.append(client.read_head().get("x-upstream"))
        client.read_chunk()
    return upstreams


def _scraped(prometheus: Prometheus, requests: int) -> None:
    """Wait until it knows of so many, by what is counted last for each."""

    def known() -> bool:
        result = prometheus.query("sum(extproc_access_log_lag_seconds_count)")
        return bool(result) and float(result[0]["value"][1]) >= requests

    eventually(known, f"a scrape after {requests} requests")


NOT_HERE = {
    "extproc_incidents_total",  # its labels name a backend, so that a series begins with the first incident
    "extproc_incident_changes_total",
    "extproc_incident_repeats_total",
    "extproc_ship_up",  # for who ships
    "extproc_ship_lag_seconds",
}


def queries() -> list[str]:
    """Every query of the dashboard, its variables filled in."""
    dashboard: dict[str, Any] = json.loads((DEPLOY / "grafana" / "extproc.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    variables = {"__rate_interval": "1m"} | {
        each["name"]: each["allValue"] for each in dashboard["templating"]["list"] if each["type"] == "query"
    }
    return list(dict.fromkeys(re.sub(r"\$(\w+)", lambda match: variables[match[1]], query) for query in found))


@pytest.mark.parametrize("query", queries())
def test_every_query_of_the_dashboard_has_an_answer(prometheus: Prometheus, query: str) -> None:
    """None is empty, and none is about a metric that does not exist."""
    values = [each["value"][1] for each in prometheus.query(query)]
    assert [each for each in values if each != "NaN"] != []


@pytest.mark.parametrize("metric", ["extproc_exchange_duration_seconds_bucket", "extproc_exchange_results_total"])
def test_a_figure_leads_to_an_exchange_and_its_trace(stack: RunningStack, prometheus: Prometheus, metric: str) -> None:
    """Prometheus has asked for exemplars and got them; their ids are those of recorded exchanges."""
    found = eventually(lambda: prometheus.exemplars(metric), "an exemplar")
    recorded = {each.trace_id: each for each in stack.exchanges()}
    for labels in found:
        exchange = recorded[labels["trace_id"]]
        assert (exchange.id, exchange.span_id) == (labels["exchange_id"], labels["span_id"])


def test_every_alert_is_evaluated(prometheus: Prometheus) -> None:
    """Without an error, against what the stack really says; none of them fires for it but the one it provokes."""
    eventually(lambda: set(prometheus.rules().values()) == {"ok"}, "the evaluation of all rules")
    names = set(re.findall(r"(extproc_\w+)", RULES.read_text()))
    for name in names - NOT_HERE:
        # Named alone where a description points to it; a histogram has no series of that name.
        family = re.sub(r"_bucket$", "_count", name)
        family = f"{family}_count" if family.endswith("_seconds") and "lag" not in family else family
        assert prometheus.query(family), f"{family} has no series"
    firing = {each["metric"]["alertname"] for each in prometheus.query('ALERTS{alertstate="firing"}')}
    assert firing <= {"ExtprocManyErrors"}


def test_the_live_metrics(stack: RunningStack) -> None:
    """Counted by the workers themselves: gates and syncs of both."""
    for name in (
        "extproc_gate_wait_seconds_count",
        "extproc_journal_sync_seconds_count",
        "extproc_access_entries_total",
    ):
        eventually(lambda name=name: value(scrape(stack), name) > 0, name)  # type: ignore[misc]
    # A worker tells its figures once a second: those of just after the last request may still count it.
    eventually(lambda: value(scrape(stack), "extproc_exchanges_in_flight") == 0, "the end of all exchanges")
    assert value(scrape(stack), 'extproc_worker_up{worker="1"}') == 1


def test_only_get(stack: RunningStack) -> None:
    """Nothing can be changed there."""
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(urllib.request.Request(f"{stack.admin}/metrics", b"x", method="POST"))


def test_counters_never_go_back(tmp_path: Path) -> None:
    """A worker that is killed takes nothing with it that it had told, and the restart is counted."""
    with RunningStack(tmp_path, "--envoy-concurrency", "1") as stack:
        traffic(stack)
        name = "extproc_gate_wait_seconds_count"
        before = eventually(lambda: value(scrape(stack), name) or None, name)
        os.kill(stack.workers()[0], signal.SIGKILL)
        eventually(lambda: value(scrape(stack), 'extproc_worker_restarts_total{worker="0"}') == 1, "the restart")
        assert value(scrape(stack), name) >= before
        eventually(lambda: value(scrape(stack), 'extproc_worker_up{worker="0"}') == 1, "its return")


def test_a_follower_that_dies_is_started_again(tmp_path: Path) -> None:
    """Traffic goes on meanwhile, and what passed is counted afterwards."""
    with RunningStack(tmp_path, "--envoy-concurrency", "1") as stack:
        traffic(stack)
        pid = stack.process_of("follower")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        traffic(stack)
        eventually(lambda: value(scrape(stack), "extproc_follower_restarts_total") == 1, "the restart")
        # It counts from where its position was kept, so at least what came after that.
        eventually(lambda: value(scrape(stack), 'extproc_chunks_total{direction="request"}') >= 5, "the count")
        assert stack.stop() == 0
        assert stack.findings() == []


def scrape(stack: RunningStack) -> str:
    """What Prometheus would get."""
    with urllib.request.urlopen(f"{stack.admin}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def value(text: str, name: str) -> float:
    """One sample; 0 where there is none."""
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)
