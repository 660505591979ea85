"""An incident as one page for a person."""

from __future__ import annotations

import pytest
from support.worlds import World

from extproc.incidents import report
from extproc.incidents.incident import Class, Incident


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
    bars = [line for line in report.chart(found) if "|" in line]
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


def test_what_is_redacted_has_no_value_of_a_request() -> None:
    """Kinds and places stay."""
    found, _ = death(guided_choice=[], response_format={"type": "Rosalind-Franklin"})
    assert "Rosalind" in text(found)
    assert "Rosalind" not in text(found.redacted())
    assert "guided_choice empty list" in text(found.redacted())
