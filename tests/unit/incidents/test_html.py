"""An incident as one HTML file: whole, closed, and harmless whatever a client sent."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.commands import invoke
from support.worlds import World

from extproc.incidents import html
from extproc.incidents.incident import Incident

VOID = {"meta", "line", "rect"}
HOSTILE = "</script><script src=//evil>\"'\x1b\u202e&lt;"


class Reader(HTMLParser):
    """Elements in their order, each closed by its own end; their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert [each for each in self.open if each != "html"] == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """One more."""
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """One that is closed at once."""
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        """It closes what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text."""
        self.words += data


def death(**request: object) -> Incident:
    """A death by one request among streams."""
    world = World()
    world.traffic(0, 30)
    world.streams(26, 30, "upstream_error_frame")
    world.add(29.8, 30.4, "upstream_error_status", status=500, **request)  # type: ignore[arg-type]
    world.refused(33, 40)
    (found,) = world.incidents()
    return found


def written(*found: Incident) -> str:
    """Its document."""
    return html.document(found, lambda at: at, "http://jaeger")


def test_it_says_what_the_page_says() -> None:
    """Suspects with their reasons, the evidence, what to run next, and the trace as a link."""
    found = death(guided_choice=[])
    reader = Reader(written(found))
    first = found.suspects[0]
    for text in (found.id, first.flight.id, *first.reasons, *found.evidence, f"extproc show {first.flight.id}"):
        assert text in reader.words
    assert [value for name, value in reader.attributes if name == "href"] == [
        f"http://jaeger/trace/{first.flight.trace}"
    ]


def test_the_chart_has_a_bar_for_each_in_flight() -> None:
    """And the suspect's is marked."""
    found = death(guided_choice=[])
    text = written(found)
    assert text.count("<g>") == len(found.in_flight)
    assert text.count("class='wait suspect'") >= 1
    assert not re.search(r"(width|x|x1)=-?(nan|inf|-)", text)


def test_nothing_comes_from_outside_and_nothing_runs() -> None:
    """No script, no picture, no style sheet, no font; and a policy that says so."""
    text = written(death(guided_choice=[]))
    reader = Reader(text)
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(reader.names)
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("src", "style")]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize("where", ["parameter", "id", "upstream", "evidence"])
def test_whatever_was_sent_is_only_text(where: str) -> None:
    """Of clients, and of backends."""
    found = death(**{HOSTILE: []}) if where == "parameter" else death(guided_choice=[])
    if where == "evidence":
        found = replace(found, evidence=(HOSTILE,))
    elif where == "upstream":
        found = replace(found, sighting=replace(found.sighting, upstream=HOSTILE))
    elif where == "id":
        flights = tuple(replace(each, id=HOSTILE) for each in found.sighting.in_flight)
        found = replace(found, sighting=replace(found.sighting, in_flight=flights))
    text = written(found)
    assert "script" not in Reader(text).names
    assert "script" in Reader(text).words
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_what_is_redacted_has_no_value_of_a_request() -> None:
    """Kinds and places stay."""
    found = death(guided_choice=[], response_format={"type": "Rosalind-Franklin"})
    assert "Rosalind" in written(found)
    assert "Rosalind" not in written(found.redacted())
    assert "guided_choice" in written(found.redacted())


def test_several_incidents_are_sections_of_one_file(tmp_path: Path) -> None:
    """And the command writes it."""
    journal = Path(__file__).parents[2] / "forensics" / "real" / "k_crashloop"
    target = tmp_path / "incidents.html"
    result = invoke("incidents", "--html", target, "--data-dir", journal)
    assert (result.exit_code, result.stdout) == (0, "")
    assert Reader(target.read_text()).names.count("section") == 3
    assert invoke("incidents", "--html", tmp_path / "no" / "way", "--data-dir", journal).exit_code == 2
