"""An incident as one page for a person."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
from support.worlds import World

from extproc.cli import output
from extproc.history.filters import glob
from extproc.incidents import evidence, html, report
from extproc.incidents.incident import Class, Incident, incidents


def death(**request: object) -> tuple[Incident, str]:
    """A death by one request among streams."""
    world = World()
    world.traffic(0, 30)
    world.streams(26, 30, "upstream_error_frame")
    killer = world.add(29.8, 30.4, "upstream_error_status", status=500, **request)  # type: ignore[arg-type]
    world.refused(33, 40)
    (found,) = world.incidents()
    return found, killer


def text(incident: Incident) -> str:
    """The page."""
    return "\n".join(report.page(incident, lambda at: at, "http://jaeger"))


def test_the_page_names_the_first_suspect_and_what_to_run_next() -> None:
    """With its place, its score, its reasons, and the trace."""
    found, killer = death(guided_choice=[])
    page = text(found)
    assert f"1 of {len(found.in_flight)}  {found.suspects[0].score:.2f}  {killer}" in page
    assert f"extproc show {killer}" in page
    assert "http://jaeger/trace/" in page


def test_those_that_had_ended_before_are_counted_too() -> None:
    """No suspect is the third of two."""
    world = World()
    world.traffic(0, 30)
    world.streams(26, 30, "upstream_reset_mid_stream", spread=0.05, count=3)
    world.add(29.5, 29.8, "upstream_error_status", status=400, guided_choice=[])
    world.refused(31, 35)
    (found,) = world.incidents()
    places = re.findall(r"^  (\d+) of (\d+)  0", text(found), re.MULTILINE)
    assert places
    assert all(int(place) <= int(count) for place, count in places)
    assert len(found.in_flight) < len(places) + 1


def test_the_page_says_when_no_request_is_to_blame() -> None:
    """And why, and where else to look."""
    world = World()
    world.traffic(0, 30)
    world.streams(26, 30, "upstream_reset_mid_stream", spread=0.05)
    (found,) = world.incidents()
    page = text(found)
    assert "No request is to blame" in page
    assert "Suspects" not in page
    assert "the backend's own log" in page


def test_the_chart_has_a_bar_for_each_with_the_moment_in_it() -> None:
    """Under each other, and the suspect marked."""
    found, killer = death(guided_choice=[])
    bars = [line for line in report.chart(found) if "|" in line and "the moment" not in line]
    assert len(bars) == len(found.in_flight)
    assert len({line.index("|") for line in bars}) == 1
    assert [line.split()[1] for line in bars if line.lstrip().startswith("1>")] == [killer[-12:]]


def test_a_large_chart_is_cut_and_says_so() -> None:
    """No page has a thousand lines."""
    world = World()
    world.traffic(0, 30)
    world.streams(20, 30, "upstream_reset_mid_stream", count=90, spread=0.05)
    (found,) = world.incidents()
    lines = list(report.chart(found))
    assert len(lines) < 50
    assert any("more" in line for line in lines)


@pytest.mark.parametrize(
    ("confidence", "words"), [(0.99, "almost certain"), (0.85, "likely"), (0.7, "probable"), (0.3, "possible")]
)
def test_a_confidence_in_words(confidence: float, words: str) -> None:
    """From the surest to the least sure."""
    assert report.sure(confidence) == words


def test_every_class_has_its_words() -> None:
    """None is left out."""
    assert set(report.WORDS) == set(Class)


def test_the_page_fits_a_terminal() -> None:
    """The chart in 80 columns, however each has ended; what was silent is not shown as giving tokens."""
    world = World()
    world.traffic(0, 30)
    world.streams(26, 50, "upstream_reset_mid_stream", last=30.02, spread=0.05)
    world.add(29.9, 50, "upstream_reset_before_headers", status=503, guided_choice=[])
    for number, outcome in enumerate(("client_cancel_before_first_byte", "sidecar_restart_orphan", "unknown")):
        world.add(29 + number / 10, 49, outcome, status=None)
    world.refused(51, 55)
    (found,) = world.incidents()
    lines = [line for line in report.chart(found) if "|" in line]
    assert max(map(len, lines)) <= 80
    after = [line.partition("|")[2] for line in lines if "reset_mid_stream" in line]
    assert len(after) == 10
    assert not any("=" in each for each in after)
    assert all(". waiting or silent   = giving tokens   | the moment" in line for line in lines[-1:])


def test_the_page_says_when_a_hang_was_over() -> None:
    """And that it is not known, where it is not."""
    hung, heads = "At 03:12:30 the backend gpu-1:8000 (llm) hung: it gave nothing more to anybody", []
    for last in (50.0, None):
        world = World()
        world.traffic(0, 30)
        world.streams(26, 60, "client_cancel_mid_stream", last=30.02, spread=0.05)
        if last is not None:
            world.traffic(last, last + 20)
        (found,) = world.incidents()
        heads.append(report.headline(found, lambda at: at[11:19]))
    assert heads == [
        f"{hung}, until 03:12:50 (20.2 s).",
        f"{hung} since then, as far as is known.",
    ]


def test_what_an_engine_says_of_itself_stands_between_commas() -> None:
    """By its message, where it was not asked."""
    world = World()
    world.traffic(0, 30)
    world.streams(26, 30, "upstream_error_frame", error="EngineCore encountered an issue")
    (found,) = world.incidents()
    assert report.headline(found, lambda _: "12:00").startswith(
        "At 12:00 the backend gpu-1:8000 (llm), vLLM by its message, was stopped or killed"
    )


UPSTREAM = "10.0.0.7:8000</td><script>\u202e\x00'\"$(touch owned) `id`;&|\n"


@pytest.mark.parametrize("upstream", ["[::1]:8000", UPSTREAM])
def test_what_to_run_next_is_for_a_shell(upstream: str) -> None:
    """Each line is one command, whatever a backend is called, and finds that backend in the same journal."""
    found, killer = death(guided_choice=[])
    found = replace(found, sighting=replace(found.sighting, upstream=upstream))
    lines = list(report.next_steps(found, None, ("--data-dir", "/a journal")))
    assert all(output.escape(line) == line for line in lines)
    commands = [shlex.split(line) for line in lines]
    assert [each[1] for each in commands] == ["show", "replay", "quarantine", "inflight"]
    assert all(each[0] == "extproc" and each[-2:] == ["--data-dir", "/a journal"] for each in commands)
    assert commands[0][2] == killer
    assert glob(upstream, commands[-1][commands[-1].index("--upstream") + 1])


def test_who_waits_for_a_hang_is_in_flight_when_that_is_asked() -> None:
    """Where nobody streamed, all of them came after its moment."""
    found, _ = death(guided_choice=[])
    later = replace(found.in_flight[0], started=found.sighting.at + 9)
    found = replace(found, sighting=replace(found.sighting, in_flight=(later,)))
    command = shlex.split(list(report.next_steps(found, None))[-1])
    assert evidence.seconds(command[command.index("--at") + 1]) == pytest.approx(later.started + 0.001, abs=0.0005)
    assert max(map(len, report.chart(found))) <= 80


HOSTILE = "</script><b>\"'\u202e\x00\u2028"
SECRET = "sk-canary"
BODIES: dict[str, dict[str, Any]] = {
    "a model": {"model": f'model"{SECRET}"x{HOSTILE}'},
    "a role": {"messages": [{"role": SECRET, "content": f"{SECRET} {HOSTILE}"}]},
    "a member of a message": {"messages": [{"role": "user", "content": "x", f"{SECRET} <b>": SECRET}]},
    "a part": {"messages": [{"role": "user", "content": [{"type": SECRET, "image_url": {"url": SECRET}}]}]},
    "the beginning of data": {"messages": [{"role": "user", "content": [{"type": "image", "data": "sk-ca"}]}]},
    "a parameter's name in quotes": {f'evil"{SECRET}"{HOSTILE}': []},
    "a parameter's name with one quote": {f'a"b {SECRET}': []},
    "an address as a name": {f"{SECRET}@example.com": None},
    "a member's name": {"metadata": {f"patient {SECRET}": None}},
    "a value": {"metadata": {"plain": SECRET}},
    "a format": {"response_format": {"type": SECRET, "json_schema": {"name": SECRET, "schema": {"type": SECRET}}}},
    "a schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "schema": {"properties": {SECRET: {"const": SECRET, "pattern": f"{SECRET}(", "enum": [SECRET]}}}
            },
        }
    },
    "a regex": {"guided_regex": f"{SECRET}("},
    "a grammar": {"guided_grammar": f"root ::= {SECRET}"},
    "a choice": {"guided_choice": [SECRET]},
    "a stop": {"stop": [SECRET, HOSTILE]},
    "a tool": {"tools": [{"type": SECRET, "function": {"name": SECRET, "description": SECRET, "parameters": {}}}]},
    "a user": {"user": SECRET},
    "a lone surrogate": {"lone": f"\ud800 {SECRET}"},
    "a long value": {"l" * 300: SECRET + "v" * 3000},
    "a path": {"path": f"/v1/{SECRET}"},
    "a path in quotes": {"path": f'/v1/x"{SECRET}"y<b>'},
    "a query": {"path": f"/v1/chat/completions?key={SECRET}"},
}


@pytest.fixture(scope="module")
def others() -> World:
    """Those beside which a request kills, and an engine whose error says what it was asked."""
    world = World()
    world.traffic(10, 30, count=6)
    world.streams(26, 30, "upstream_error_frame", error=f"no {SECRET}")
    world.refused(33, 40)
    return world


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_what_is_redacted_has_no_value_of_a_request(others: World, body: dict[str, Any]) -> None:
    """In none of the forms, whatever it stands in; kinds and places stay."""
    one = World(2)
    killer = one.add(29.8, 30.4, "upstream_error_status", status=500, error=SECRET, guided_x=[], **body)
    (found,) = incidents([*others.flights(), *one.flights()])
    assert found.suspects[0].flight.id == killer
    text, fields, document = page_of(found.redacted())
    for form in (text, json.dumps(fields), document):
        assert SECRET[:5] not in form
        assert not re.search("[\x00\u202e\u2028]|<script|<b>", form)
    assert "guided_x empty list" in text


def page_of(found: Incident) -> tuple[str, dict[str, Any], str]:
    """In all forms, as the command prints them."""
    lines = report.page(found, lambda at: at, "http://jaeger")
    return "\n".join(map(output.escape, lines)), found.fields(), html.document([found], lambda at: at, "http://jaeger")


def test_a_name_that_is_one_stays() -> None:
    """Kinds and places are what a colleague needs."""
    found, _ = death(guided_choice=[], response_format={"type": "Rosalind-Franklin"})
    assert "Rosalind" in text(found)
    assert "Rosalind" not in text(found.redacted())
    assert "guided_choice empty list" in text(found.redacted())
