"""Who hears of an incident: each of them, and nobody of what a client has sent."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.exchanges import record
from support.receiver import Receiver
from support.stack import eventually
from support.worlds import World

from extproc.follow.reports import Reports
from extproc.incidents.incident import Incident
from extproc.incidents.kept import FILE_NAME, Kept, Report
from extproc.incidents.webhook import Webhook
from extproc.quarantine import entries
from extproc.quarantine.entries import Mode, Quarantine
from extproc.telemetry.export import Exporter
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tracing import Tracing

SECRET_WORD = "Rosalind-Franklin"


def death() -> tuple[World, Incident, Report]:
    """One by a request with a word of its own."""
    world = World()
    world.traffic(0, 30)
    world.streams(26, 30, "upstream_error_frame")
    world.add(29.8, 30.4, "upstream_error_status", status=500, response_format={"type": SECRET_WORD})
    world.refused(33, 40)
    (found,) = world.incidents()
    at = found.sighting.at
    return world, found, Report(found.id, "gpu-1:8000", at, at, found.fields(), found.redacted().fields(), False)


def silence(known: tuple[float, float] | None) -> tuple[Incident, Report]:
    """One that lasts, or of which the end is known."""
    world = World()
    world.traffic(0, 30)
    world.traffic(0, 60, upstream="gpu-2:8000")
    for number in range(6):
        last = 30 if known is None else 58
        world.add(27 + number / 10, None, None, first=27.4 + number / 10, last=last, silence=known)
    (found,) = world.incidents()
    at, until = found.sighting.at, found.sighting.until
    return found, Report(found.id, "gpu-1:8000", at, until, found.fields(), found.redacted().fields(), trace="ab" * 16)


def reports(directory: Path, webhook: Webhook | None = None, **options: Any) -> tuple[Reports, Metrics, Kept]:
    """Those of a directory."""
    metrics, kept = Metrics((), {}), Kept(directory / FILE_NAME, 0.0)
    return Reports(directory, kept, metrics, None, webhook, **options), metrics, kept


@pytest.mark.parametrize("redacts", [True, False])
def test_everybody_hears_of_an_incident(tmp_path: Path, caplog: pytest.LogCaptureFixture, redacts: bool) -> None:
    """A line of the log without what a client has sent, the metric, the webhook: that with it only where asked for."""
    world, found, report = death()
    with Receiver() as receiver, caplog.at_level(logging.INFO):
        hook = Webhook(receiver.url, None)
        all_of, metrics, kept = reports(tmp_path, hook, redacts=redacts)
        kept.put(report)
        all_of.found(found, report, world.flights())
        eventually(lambda: [each.delivered for each in kept] == [True], "the delivery")
        (post,) = receiver.posts
        all_of.close(20.0)
    (line,) = (each for each in caplog.records if each.message == "a backend died")
    assert vars(line)["incident"] == found.id
    assert vars(line)["suspect"] == found.suspects[0].flight.id
    assert SECRET_WORD not in str(vars(line))
    assert json.loads(post.body)["id"] == found.id
    assert (SECRET_WORD in post.body.decode()) is not redacts
    assert 'extproc_incidents_total{class="death",upstream="gpu-1:8000"} 1.0' in metrics.text().decode()


def test_a_hang_that_goes_on_is_corrected_and_not_counted_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the id under which it was told: in the log, by the webhook, and by a metric of its own."""
    (hang, first), (freeze, second) = silence(None), silence((30, 48.1))
    with Receiver() as receiver, caplog.at_level(logging.INFO):
        all_of, metrics, _ = reports(tmp_path, Webhook(receiver.url, None))
        all_of.found(hang, first, [])
        all_of.changed(freeze, second, first)
        eventually(lambda: len(receiver.posts) == 2, "both posts")
        all_of.close(20.0)
    assert [each.message for each in caplog.records if "a backend" in each.message] == [
        "a backend hangs",
        "a backend froze, and went on",
    ]
    told = [(post.headers["x-extproc-event"], json.loads(post.body)) for post in receiver.posts]
    assert [(event, body["id"], body["class"], body["ended_at"]) for event, body in told] == [
        ("incident", hang.id, "hang", None),
        ("ended", hang.id, "freeze", "2025-11-21T03:12:48.100000Z"),
    ]
    text = metrics.text().decode()
    assert [line for line in text.splitlines() if line.startswith("extproc_incident") and "_created" not in line] == [
        'extproc_incidents_total{class="hang",upstream="gpu-1:8000"} 1.0',
        'extproc_incident_changes_total{class="freeze",counted_as="hang",upstream="gpu-1:8000"} 1.0',
    ]


def test_the_span_is_in_the_trace_of_the_first_suspect() -> None:
    """With one event, which says what befell which backend."""
    _, found, report = death()
    exporter = InMemorySpanExporter()
    tracing = Tracing(Exporter(exporter, {}), Resource({}), {})
    suspect = found.suspects[0].flight
    tracing.incident(report.redacted, found.sighting.at, suspect.trace)
    tracing.incident(report.redacted, found.sighting.at, "")
    tracing.close(20.0)
    span, alone = exporter.get_finished_spans()
    (event,) = span.events
    assert f"{span.get_span_context().trace_id:032x}" == suspect.trace  # type: ignore[union-attr]
    assert alone.get_span_context().trace_id not in (0, int(suspect.trace, 16))  # type: ignore[union-attr]
    assert (span.name, event.name) == ("incident death", "extproc.incident")
    assert dict(event.attributes or {})["extproc.incident.suspect"] == suspect.id


def test_the_end_of_a_hang_is_a_span_beneath_the_first(tmp_path: Path) -> None:
    """From its moment to its end, with what it turned out to be."""
    (hang, first), (freeze, second) = silence(None), silence((30, 48.1))
    exporter = InMemorySpanExporter()
    tracing = Tracing(Exporter(exporter, {}), Resource({}), {})
    kept = Kept(tmp_path / FILE_NAME, 0.0)
    all_of = Reports(tmp_path, kept, Metrics((), {}), tracing, None)
    all_of.found(hang, first, [])
    all_of.changed(freeze, second, first)
    all_of.close(20.0)
    tracing.close(20.0)
    told, over = exporter.get_finished_spans()
    (event,) = over.events
    assert over.parent == told.get_span_context()
    assert over.start_time == told.start_time == told.end_time
    assert (told.name, over.name, event.name) == ("incident hang", "incident freeze ended", "extproc.incident.ended")
    assert dict(event.attributes or {})["extproc.incident.ended_at"] == freeze.ended_at == "2025-11-21T03:12:48.100000Z"
    assert over.end_time == event.timestamp == 1_763_694_768_100_000_000
    assert "extproc.incident.ended_at" not in dict(told.events[0].attributes or {})


def test_a_suspect_who_comes_again_is_counted_and_posted(tmp_path: Path) -> None:
    """For the backend that it may have killed."""
    world, found, report = death()
    with Receiver() as receiver:
        hook = Webhook(receiver.url, None)
        all_of, metrics, _ = reports(tmp_path, hook)
        all_of.found(found, report, world.flights())
        body = {"sha256": found.suspects[0].flight.body}
        repeat = all_of.repeats.of(
            record({"type": "request", "id": "new", "at": "2025-11-21T03:12:31Z", "request": body})
        )
        assert repeat is not None
        all_of.repeat(repeat)
        eventually(lambda: len(receiver.posts) == 2, "both posts")
        all_of.close(20.0)
    assert [post.headers["x-extproc-event"] for post in receiver.posts] == ["incident", "repeat"]
    assert json.loads(receiver.posts[1].body)["incident"] == found.id
    assert 'extproc_incident_repeats_total{upstream="gpu-1:8000"} 1.0' in metrics.text().decode()


@pytest.mark.parametrize(
    ("mode", "held", "kept"), [(Mode.REFUSE, None, 1), (None, None, 0), (Mode.REFUSE, Mode.OFF, 0)]
)
def test_a_suspects_body_is_kept_away_for_a_minute(
    tmp_path: Path, mode: Mode | None, held: Mode | None, kept: int
) -> None:
    """Only where that is asked for, and not where quarantine was switched off."""
    world, found, report = death()
    entries.save(tmp_path, Quarantine(mode=held))
    all_of, _, _ = reports(tmp_path, mode=mode)
    all_of.found(found, report, world.flights())
    there = entries.load(tmp_path).entries
    assert len(there) == kept
    for each in there:
        assert (each.body, each.mode, each.incident) == (found.suspects[0].flight.body, mode, found.id)
        assert each.is_over(datetime.now(UTC) + timedelta(seconds=61))
        assert not each.is_over(datetime.now(UTC))
