"""A hang that only those tell of who wait for a first token; and long times without a byte that are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from support.played import as_seen, played
from support.worlds import START, World, moments

from extproc.incidents.detect import Sighting
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import incidents

GONE = "client_cancel_before_first_byte"
LEFT = "client_cancel_mid_stream"
SECONDS = 100
"""How long nobody gets anything."""


def warm(count: int = 4) -> World:
    """A backend with a few streams at a time, of which the last ends at second 198.982."""
    world = World()
    world.traffic(130, 200, count=count)
    return world


def wait(world: World, *, count: int = 8, start: float = 202, patience: float = 40, **more: Any) -> list[str]:
    """Streams that come one by one, and whose clients leave them without a token."""
    return [
        world.add(at, at + patience, GONE, **{"status": None, "seed": number, **more})
        for number, at in enumerate(start + each * (SECONDS - patience) / count for each in range(count))
    ]


def resume(world: World, at: float = 202 + SECONDS) -> None:
    """The backend serves as ever."""
    world.traffic(at, at + 30, count=2)


def told(flights: Sequence[Flight]) -> list[tuple[str, bool]]:
    """What is found: its class, and whether it lasts."""
    return [(each.kind.value, each.sighting.lasts) for each in incidents(flights)]


def told_live(flights: Sequence[Flight]) -> list[tuple[str, bool]]:
    """The same, while it lasts."""
    return [(seen.kind.value, seen.lasts) for _, seen in live(flights)]


def live(flights: Sequence[Flight]) -> list[tuple[float, Sighting]]:
    """What is seen while it lasts, and when."""
    return list(played(flights, step=1.0, since=START + 195))


def known(flights: Sequence[Flight], now: float) -> list[Flight]:
    """What a journal told of it at a moment."""
    return [*(each for each in flights if each.ended is not None and each.ended <= now), *as_seen(flights, now)]


# What is told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("greets", [False, True])
@pytest.mark.parametrize("silent", [0, 1, 2])
def test_streams_that_wait_in_vain_tell_of_a_hang(silent: int, greets: bool) -> None:
    """With headers or without, beside none, one or two that were giving tokens; the first that came is suspected."""
    world = warm()
    killer = world.add(201.5, 290, GONE, status=None, stream=False, guided_choice=[])
    for number in range(silent):
        world.add(199 + number / 10, 260, LEFT, first=199.5, last=201.6)
    for each in wait(world):
        if greets:
            (one,) = (exchange for exchange in world.exchanges if exchange["id"] == each)
            one.update(outcome=LEFT, status=200)
            one["response"].update(content_type="text/event-stream", first_byte_ms=20, last_byte_ms=20)
    flights = world.flights()
    (found,) = incidents(flights)
    assert (found.kind.value, found.sighting.lasts) == ("hang", True)
    assert moments([found]) == [201.6 if silent else 198.982]
    assert found.suspects[0].flight.id == killer
    ((now, seen),) = live(flights)
    assert (seen.kind.value, seen.lasts, seen.at) == ("hang", True, found.sighting.at)
    assert not incidents(known(flights, now - 10), now - 10)


def test_it_was_a_freeze_where_those_who_waited_are_served() -> None:
    """Told as a hang while it lasts, and once more."""
    world = warm()
    for number in range(6):
        world.add(202 + number, 310, headers=202.1 + number, first=302, last=310, seed=number)
    resume(world)
    flights = world.flights()
    (found,) = incidents(flights)
    assert (found.kind.value, found.ended_at) == ("freeze", "2025-11-21T03:17:02.000000Z")
    assert told_live(flights) == [("hang", True), ("freeze", False)]


def test_it_is_over_where_others_are_served() -> None:
    """Those who had waited are gone."""
    world = warm()
    wait(world)
    resume(world)
    flights = world.flights()
    assert told(flights) == [("hang", False)]
    assert told_live(flights) == [("hang", True), ("hang", False)]


def test_a_break_at_its_end_is_no_incident_of_its_own() -> None:
    """Whoever killed it ended a hang, and a request is to blame for that."""
    world = warm()
    killer = world.add(201, 300, "upstream_reset_before_headers", status=503, stream=False, guided_choice=[])
    wait(world)
    for number in range(5):
        world.add(280 + number, 300 + number / 50, "upstream_reset_before_headers", status=503, seed=number)
    world.refused(301, 310)
    flights = world.flights()
    (found,) = incidents(flights)
    assert (found.kind.value, moments([found]), found.suspects[0].flight.id) == ("hang", [198.982], killer)
    seen = [(each.kind.value, each.lasts, each.at) for _, each in live(flights)]
    assert seen == [("hang", True, found.sighting.at), ("hang", False, found.sighting.at)]


def test_what_asks_for_nothing_is_no_sign_of_an_engine() -> None:
    """A list of models comes from a server whose engine hangs, too."""
    world = warm()
    wait(world)
    for number in range(10):
        world.add(202 + number * 10, 202.01 + number * 10, stream=False, path="/v1/models", body=b"")
    assert told(world.flights()) == [("hang", True)]


# What is not ---------------------------------------------------------------------------------------------------


def answers_in_one_piece() -> World:
    """Nobody streams: thoughts of two minutes that come at once."""
    world = warm()
    for number in range(10):
        world.add(202 + number, 322 + number, first=322 + number, stream=False, seed=number)
    return world


def answers_in_one_piece_that_nobody_waits_for() -> World:
    """The same, and all clients have too little patience."""
    world = warm()
    wait(world, stream=False)
    for each in world.exchanges:
        each["llm"]["fingerprint"] = "the same"
    return world


def a_batch() -> World:
    """Fifty at once, answered after a minute; then as many streams."""
    world = warm()
    for number in range(50):
        world.add(202, 264 + number / 100, first=264 + number / 100, stream=False, seed=number)
    for number in range(50):
        world.add(265, 330 + number, first=266 + number, seed=number)
    return world


def little_patience() -> World:
    """Nobody waits for ten seconds."""
    world = warm()
    wait(world, patience=8, count=12)
    return world


def two_that_wait() -> World:
    """Too few to know."""
    world = warm()
    wait(world, count=2, patience=90)
    return world


def the_same_again_and_again() -> World:
    """A request that is never answered, and a client that tries it again: that is the request."""
    world = warm()
    wait(world, seed=1)
    return world


def others_of_no_known_shape() -> World:
    """They ask for something that was never served here."""
    world = warm()
    wait(world, reasoning={"effort": "high"})
    return world


def another_model() -> World:
    """It is loaded first, and whoever asks for the one before waits as well."""
    world = warm()
    world.add(201, 310, model="large", first=300)
    wait(world)
    return world


def a_long_prompt() -> World:
    """It is read for a minute and a half, and all others wait for that."""
    world = warm()
    world.add(201, 300, first=295, messages=[{"role": "user", "content": "x" * 20_000}])
    wait(world)
    return world


def a_queue_behind_long_answers() -> World:
    """All places are taken, and those who wait for one have too little patience."""
    world = warm()
    for number in range(6):
        world.add(201 + number / 10, 330 + number, first=330 + number, stream=False, seed=number)
    wait(world)
    return world


def one_place() -> World:
    """Of a server that does one thing after the other: a long answer, and who waits behind it."""
    world = warm(count=1)
    world.add(201, 330, first=330, stream=False)
    wait(world)
    return world


def a_queue_as_ever() -> World:
    """It was just so some minutes ago."""
    world = warm()
    for number in range(6):
        world.add(150 + number, 182 + number, GONE, status=None, seed=number)
    wait(world)
    return world


def an_idle_night() -> World:
    """The model was unloaded since nobody asked, and those who come in the morning wait until it is there."""
    world = warm()
    wait(world, start=600)
    return world


def a_cold_start() -> World:
    """Hardly anything was served before."""
    world = World()
    for number in range(15):
        world.add(190 + number / 2, 195 + number / 2, first=191 + number / 2, seed=number)
    wait(world)
    return world


def a_restart() -> World:
    """What was there was refused for a moment, then compiles."""
    world = warm()
    world.refused(199, 201, count=2)
    wait(world)
    return world


def a_minute_without() -> World:
    """A gateway holds all back until the minute is over."""
    world = warm()
    for number in range(8):
        world.add(202 + number * 5, 270, first=258, seed=number)
    return world


def one_is_answered() -> World:
    """Somebody gets an answer in between."""
    world = warm()
    wait(world)
    for at in (230, 260, 290):
        world.add(at, at + 2, stream=False, first=at + 2, seed=at)
    return world


def limits() -> World:
    """Some are told to come again later, the others wait."""
    world = warm()
    wait(world)
    for number in range(10):
        at = 202 + number * 10
        world.add(at, at + 0.01, "upstream_error_status", status=429, last=at + 0.01, stream=False)
    return world


def a_stop_of_the_recorder() -> World:
    """What was in flight then is not known to have waited."""
    world = warm()
    wait(world, count=4, patience=30)
    world.add(240, 250, "sidecar_restart_orphan", status=None)
    world.add(250, 250.1, "proxy_drain", status=None)
    return world


def two_that_pause() -> World:
    """For a tool, or to think, for minutes."""
    world = warm()
    for number in range(2):
        world.add(199 + number, 340, first=199.5 + number, silence=(201.5, 330))
    return world


def all_leave() -> World:
    """At one moment, some before their first token; nobody comes for minutes."""
    world = warm()
    for number in range(12):
        world.add(197 + number / 4, 203, GONE, status=None, seed=number)
    resume(world, 400)
    return world


@pytest.mark.parametrize(
    "build",
    [
        answers_in_one_piece,
        answers_in_one_piece_that_nobody_waits_for,
        a_batch,
        little_patience,
        two_that_wait,
        the_same_again_and_again,
        others_of_no_known_shape,
        another_model,
        a_long_prompt,
        a_queue_behind_long_answers,
        one_place,
        a_queue_as_ever,
        an_idle_night,
        a_cold_start,
        a_restart,
        a_minute_without,
        one_is_answered,
        limits,
        a_stop_of_the_recorder,
        two_that_pause,
        all_leave,
    ],
)
def test_a_long_time_without_a_byte_is_none(build: Callable[[], World]) -> None:
    """Neither in the journal, nor while it lasts."""
    flights = build().flights()
    assert told(flights) == []
    assert told_live(flights) == []


def test_where_those_are_who_have_no_answer_is_not_guessed() -> None:
    """They may be at another backend, which compiles: two here are too few."""
    world = warm()
    for number in range(10):
        start = 202 + number * 5
        world.add(start, None, None, status=None, upstream="" if number > 1 else "gpu-1:8000", seed=number)
    world.add(280, None, None, status=None, headers=280.1, seed=20)
    world.add(202, 300, upstream="gpu-2:8000", stream=False, first=300)
    assert told(world.flights()) == []
