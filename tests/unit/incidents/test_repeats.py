"""A suspect who comes again is known, and nobody else is."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from support.worlds import JSON_SCHEMA, START, World

from extproc.core.records import AnyRecord, of_fields
from extproc.incidents.incident import Incident
from extproc.incidents.repeats import EXPECTED_SECONDS, Repeats

KILLER: dict[str, Any] = {"guided_choice": []}
NOW = START + 32.0


def world(retries: int = 0) -> tuple[World, Incident, str]:
    """A death by one request, which its client sends again to another backend."""
    made = World()
    made.traffic(0, 30)
    made.traffic(0, 34, upstream="gpu-2:8000")
    made.streams(26, 30, "upstream_error_frame")
    killer = made.add(29.8, 30.4, "upstream_error_status", status=500, **KILLER)
    made.refused(33, 40)
    for number in range(retries):
        made.add(30.6 + number, None, None, status=None, upstream="gpu-2:8000", **KILLER)
    (found,) = made.incidents()
    return made, found, killer


def record(made: World, id: str, /, **fields: Any) -> AnyRecord:
    """The request record of an exchange that comes now and is like another."""
    like = next(each for each in made.exchanges if each["id"] == id)
    said = {
        "type": "request",
        "id": "new",
        "at": "2025-11-21T03:12:31Z",
        "request": like["request"],
        "llm": like["llm"],
    }
    return of_fields(said | fields)


def test_the_same_body_is_known_wherever_it_goes() -> None:
    """With the incident, the backend that it may have killed, and the suspect."""
    made, found, killer = world()
    repeats = Repeats()
    assert repeats.of(record(made, killer)) is None
    assert repeats.expect(found, made.flights(), NOW) == []
    repeat = repeats.of(record(made, killer))
    assert repeat is not None
    said = repeat.fields()
    assert (said["exchange"], said["same"], said["as"]) == ("new", "body", killer)
    assert (said["incident"], said["killed"]) == (found.id, "gpu-1:8000")


def test_who_has_come_again_already_is_told_at_once() -> None:
    """The report takes seconds, and retries come in less."""
    made, found, _ = world(retries=2)
    came = Repeats().expect(found, made.flights(), NOW)
    assert [each.upstream for each in came] == ["gpu-2:8000"] * 2


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "response"},
        {"request": None, "llm": None},
        {"request": {"sha256": hashlib.sha256(b"another").hexdigest()}, "llm": {"fingerprint": "another"}},
    ],
)
def test_nobody_else_is_known(fields: dict[str, Any]) -> None:
    """Other records, other bodies, and the suspect's own record, should it be read after all."""
    made, found, killer = world()
    repeats = Repeats()
    repeats.expect(found, made.flights(), NOW)
    assert repeats.of(record(made, killer, **fields)) is None
    assert repeats.of(record(made, killer, id=killer)) is None


def test_a_rare_shape_is_known_with_another_body() -> None:
    """And a usual one is not: it is that of many."""
    made, found, killer = world()
    repeats = Repeats()
    repeats.expect(found, made.flights(), NOW)
    other = {"request": {"sha256": "0" * 64}}
    repeat = repeats.of(record(made, killer, **other))
    assert repeat is not None
    assert repeat.expected.by == "fingerprint"
    usual = made.add(50, 51, **JSON_SCHEMA)
    assert repeats.of(record(made, usual, **other)) is None


def test_it_is_forgotten_after_a_while() -> None:
    """When the next incident is reported."""
    made, found, killer = world()
    repeats = Repeats()
    repeats.expect(found, made.flights(), NOW)
    nobody = World()
    nobody.traffic(0, 30)
    nobody.streams(26, 30, "upstream_reset_mid_stream", spread=0.05)
    (later,) = nobody.incidents()
    repeats.expect(later, nobody.flights(), NOW + EXPECTED_SECONDS + 1)
    assert repeats.of(record(made, killer)) is None
