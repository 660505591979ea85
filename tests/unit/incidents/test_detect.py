"""When a backend died, hung or froze: what was there, and nothing that was not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.worlds import ENGINE_ERROR, JSON_SCHEMA, World, kinds, moments

from extproc.incidents.detect import Kind

FRAME = "upstream_error_frame"
CUT = "upstream_reset_mid_stream"
UNCONNECTED = "upstream_reset_before_headers"
STATUS = "upstream_error_status"
GONE = "client_cancel_mid_stream"


def busy(until: float = 30) -> World:
    """A backend that has served for a while."""
    world = World()
    world.traffic(0, until)
    return world


# What happened -------------------------------------------------------------------------------------------------


def error_frames() -> World:
    """Streams get an error in a frame, waiting ones a 500, new ones too, then nobody listens."""
    world = busy()
    world.streams(26, 30, FRAME, error=ENGINE_ERROR)
    world.add(29.8, 30.6, STATUS, status=500, response_format={"type": "text"})
    for number in range(5):
        world.add(31 + number / 10, 31.05 + number / 10, STATUS, status=500)
    world.refused(33, 40)
    return world


def a_kill() -> World:
    """Every stream is cut within 60 ms; nobody tries again."""
    world = busy()
    world.streams(26, 30, CUT, spread=0.06)
    return world


def plain_requests_alone() -> World:
    """No stream, only answers in one piece: all that run fail, and nobody listens afterwards."""
    world = busy()
    for number in range(4):
        world.add(27 + number / 2, 30 + number / 50, UNCONNECTED, status=503, stream=False)
    world.refused(31, 35)
    return world


def one_request_alone() -> World:
    """One request was there, was cut, and nobody listens afterwards."""
    world = busy()
    world.add(35, 36, UNCONNECTED, status=503, guided_regex="a**")
    world.refused(37, 50)
    return world


def alive_with_errors_for_ever() -> World:
    """The process stays, and answers 500 to all that was served before."""
    world = busy()
    world.streams(26, 30, FRAME)
    for number in range(50):
        world.add(31 + number, 31.1 + number, STATUS, status=500)
    return world


def alone_with_errors_for_ever() -> World:
    """One request fails, and then all that was served before: the process lives, and serves nobody."""
    world = busy()
    world.add(29.9, 30.2, STATUS, status=503, migration_request={"id": 1})
    for number in range(50):
        world.add(31 + number * 2, 31.1 + number * 2, STATUS, status=503, seed=number)
    return world


@pytest.mark.parametrize(
    ("build", "at"),
    [
        (error_frames, 30),
        (a_kill, 30),
        (plain_requests_alone, 30),
        (one_request_alone, 36),
        (alive_with_errors_for_ever, 30),
        (alone_with_errors_for_ever, 30.2),
    ],
)
def test_a_death_is_found_at_its_moment(build: Callable[[], World], at: float) -> None:
    """Once, at the first bad end."""
    found = build().incidents()
    assert [each.sighting.kind.value for each in found] == ["death"]
    assert moments(found) == [at]


def test_a_silence_before_the_break_is_a_hang_from_the_last_byte_on() -> None:
    """All streams stop at one moment, and break off much later, when somebody kills the process."""
    world = busy()
    world.streams(26, 50, CUT, last=30.02, spread=0.05)
    killer = world.add(29.9, 50, UNCONNECTED, status=503, grammar="root ::= root root")
    world.refused(51, 55)
    found = world.incidents()
    assert (kinds(found), moments(found)) == (["hang"], [30.02])
    assert found[0].suspects[0].flight.id == killer


def test_a_silence_that_a_break_ends_is_a_hang_though_another_serves_at_once() -> None:
    """The process was replaced behind the same address: nobody found it gone."""
    world = busy()
    world.streams(26, 38.6, CUT, last=30, spread=0.04)
    world.traffic(38.7, 60)
    (found,) = world.incidents()
    assert (found.sighting.kind, moments([found])) == (Kind.HANG, [30])


def test_clients_who_give_up_on_a_silent_backend_tell_of_a_hang() -> None:
    """Nothing breaks: it only never answers anybody again."""
    world = busy()
    world.streams(27, 90, GONE, last=30.02, spread=20)
    for number in range(5):
        world.add(40 + number, 100 + number, "client_cancel_before_first_byte", status=None)
    found = world.incidents()
    assert (kinds(found), moments(found)) == (["hang"], [30.02])


@pytest.mark.parametrize("killed", [False, True])
def test_headers_are_no_sign_of_an_engine(killed: bool) -> None:
    """A server whose engine hangs goes on to accept streams, and begins its answer to each."""
    world = busy()
    end, last = (CUT, 50.0) if killed else (GONE, 100.0)
    world.streams(27, last, end, last=30.02, spread=0.04)
    for number in range(8):
        start = 29.9 + number * 2
        world.add(start, last + number / 100, end, headers=start + 0.02)
    if killed:
        world.refused(51, 55)
    (found,) = world.incidents()
    assert found.sighting.kind is Kind.HANG
    assert moments([found]) == [30.02]


def test_headers_are_no_end_of_a_freeze() -> None:
    """Those who came meanwhile had theirs at once, and their tokens with all others."""
    world = busy()
    for number in range(8):
        world.add(26 + number / 10, 60 + number, first=26.5 + number / 10, silence=(30, 48.1))
    for number in range(8):
        world.add(32 + number, 60 + number, headers=32.02 + number, first=48.2)
    (found,) = world.incidents()
    assert (found.kind.value, moments([found]), found.ended_at) == ("freeze", [30], "2025-11-21T03:12:48.100000Z")


def test_a_hang_that_lasts_is_found_before_anybody_gives_up() -> None:
    """What is in flight has no end in the journal yet; other backends tell how late it is."""
    world = busy()
    world.traffic(0, 60, upstream="gpu-2:8000")
    killer = world.add(29.9, None, None, status=None, guided_choice=[])
    for number in range(6):
        world.add(27 + number / 10, None, None, first=27.4 + number / 10, last=30)
    (found,) = world.incidents()
    assert (found.kind.value, moments([found])) == ("hang", [30])
    assert found.suspects[0].flight.id == killer


def test_who_waits_while_a_hang_lasts_may_be_at_it() -> None:
    """Which backend that is, is known when an answer begins: of those of the cluster and a model of the backend, each
    that came before is a suspect."""
    world = busy()
    world.traffic(0, 60, upstream="gpu-2:8000", model="other")
    killer = world.add(29.9, None, None, status=None, upstream="", guided_choice=[])
    other = world.add(29.8, None, None, status=None, upstream="", model="other", guided_choice=[])
    later = world.add(31, None, None, status=None, upstream="", guided_choice=[])
    for number in range(6):
        world.add(27 + number / 10, None, None, first=27.4 + number / 10, last=30)
    (found,) = world.incidents()
    assert (found.kind.value, found.sighting.lasts, found.ended_at) == ("hang", True, None)
    assert found.suspects[0].flight.id == killer
    assert not {other, later} & {each.id for each in found.in_flight}


def test_a_hang_is_the_same_incident_when_it_turns_out_to_be_a_freeze() -> None:
    """By its id; the streams that went on are in flight still."""
    found = {}
    for silence in (None, (30, 38.5)):
        world = busy()
        world.traffic(0, 60, upstream="gpu-2:8000")
        world.add(29.9, None, None, status=None, upstream="", guided_choice=[])
        for number in range(6):
            last = 30 if silence is None else 55
            world.add(27 + number / 10, None, None, first=27.4 + number / 10, last=last, silence=silence)
        (found[silence],) = world.incidents()
    hang, freeze = found[None], found[30, 38.5]
    assert (hang.kind.value, freeze.kind.value) == ("hang", "freeze")
    assert (hang.id, hang.ended_at, freeze.ended_at) == (freeze.id, None, "2025-11-21T03:12:38.500000Z")


def test_an_error_just_before_the_others_break_is_not_the_moment() -> None:
    """Streams went on after it; the one that failed is the first suspect all the same."""
    world = busy()
    killer = world.add(29.5, 29.6, STATUS, status=500, guided_choice=[])
    world.streams(26, 31, CUT, spread=0.05)
    world.refused(32, 40)
    (found,) = world.incidents()
    assert (found.kind.value, moments([found])) == ("death", [31])
    assert found.suspects[0].flight.id == killer


@pytest.mark.parametrize("status", [400, 422])
def test_a_request_that_was_refused_just_before_is_a_suspect(status: int) -> None:
    """Its refusal is no proof that the engine lived with it."""
    world = busy()
    killer = world.add(29.5, 29.9, STATUS, status=status, guided_choice=[])
    world.streams(26, 30, CUT, spread=0.05)
    (found,) = world.incidents()
    assert (found.kind.value, found.suspects[0].flight.id) == ("death", killer)


def test_the_answer_after_a_freeze_acquits_nobody() -> None:
    """The request that froze it is answered, in the end."""
    world = busy()
    killer = world.add(29.95, 48.2, STATUS, status=400, guided_choice=[])
    for number in range(8):
        world.add(26 + number / 10, 60 + number, first=26.5 + number / 10, silence=(30, 48.1))
    (found,) = world.incidents()
    assert (found.kind.value, found.suspects[0].flight.id) == ("freeze", killer)


def test_streams_that_all_pause_and_go_on_tell_of_a_freeze() -> None:
    """With the moment at which it began."""
    world = busy()
    for number in range(8):
        world.add(26 + number / 10, 60 + number, first=26.5 + number / 10, silence=(30, 48.1))
    found = world.incidents()
    assert (kinds(found), moments(found)) == (["freeze"], [30])


def test_a_freeze_of_a_slow_engine_is_one_though_its_streams_had_their_turns() -> None:
    """Each gets a piece every few seconds, so that their last ones before it lie apart."""
    world = busy()
    for number in range(8):
        silence = (40 + number * 0.4, 70 + number * 0.4)
        world.add(34 + number / 10, 80 + number, first=36 + number * 0.4, silence=silence, seed=number)
    (found,) = world.incidents()
    assert (found.sighting.kind, moments([found])) == (Kind.FREEZE, [42.8])


def test_a_long_silence_of_streams_that_pause_is_a_freeze() -> None:
    """Twice as long as any paused by itself."""
    world = agents()
    for number in range(3):
        world.add(140 + number, 190, first=141 + number, silence=(150, 181), seed=number)
    (found,) = world.incidents()
    assert (found.sighting.kind, moments([found])) == (Kind.FREEZE, [150])


def test_of_two_backends_the_one_that_died_is_named() -> None:
    """The other one goes on."""
    world = busy()
    world.traffic(0, 60, upstream="gpu-2:8000")
    world.streams(26, 30, CUT, spread=0.06)
    assert [each.sighting.upstream for each in world.incidents()] == ["gpu-1:8000"]


def test_each_death_of_a_loop_is_told_and_the_third_says_so() -> None:
    """Between them the backend was back and served."""
    world = World()
    for at in (30, 90, 150):
        world.traffic(at - 30, at)
        world.streams(at - 4, at, FRAME)
        world.add(at - 0.2, at + 0.5, STATUS, status=500, response_format={"type": "text"})
        world.refused(at + 2, at + 20)
    world.traffic(180, 200)
    found = world.incidents()
    assert (kinds(found), moments(found)) == (["death", "death", "crash_loop"], [30, 90, 150])


def test_a_backend_that_serves_nothing_after_its_start_is_broken() -> None:
    """It is back, and whatever comes breaks again: no request is to blame."""
    world = busy()
    world.streams(26, 30, CUT)
    for at in (60, 90):
        world.refused(at - 28, at - 10)
        for number in range(4):
            world.add(at - 2 + number / 2, at + number / 50, UNCONNECTED, status=503, stream=number % 2 == 0)
    found = world.incidents()
    assert (kinds(found), moments(found)) == (["stopped_or_killed", "broken_from_start"], [30, 60])
    assert found[1].suspects == ()


def test_a_backend_that_never_served_anything_is_broken() -> None:
    """Every request fails, of whatever kind, since the journal begins."""
    world = World()
    for number in range(20):
        world.add(number * 2, number * 2 + 0.1, STATUS, status=500, stream=number % 2 == 0)
    assert kinds(world.incidents()) == ["broken_from_start"]


# What did not --------------------------------------------------------------------------------------------------


def bad_requests_in_a_burst() -> World:
    """Requests that are refused with 400."""
    world = busy(60)
    for number in range(40):
        world.add(30 + number / 100, 30.2 + number / 100, STATUS, status=400, top_p=7)
    return world


def errors_in_a_burst_among_others() -> World:
    """Requests that each fail with 500, while the others are served."""
    world = busy(60)
    for number in range(24):
        world.add(30 + number / 100, 30.05 + number / 100, STATUS, status=500, bad_words=[" "])
    return world


def errors_in_a_burst_alone() -> World:
    """The same, when nothing else is there."""
    world = busy(20)
    for number in range(24):
        world.add(30 + number / 100, 30.05 + number / 100, STATUS, status=500, bad_words=[" "])
    world.traffic(40, 60)
    return world


def errors_in_a_burst_beside_few_others() -> World:
    """The same of requests like others, beside one that ends well at once, on a server that hardly anybody asks."""
    world = busy(25)
    world.add(29.7, 30.3, first=30, stream=False)
    for number in range(24):
        world.add(30 + number / 200, 30.03 + number / 200, STATUS, status=500, seed=number)
    world.traffic(40, 60)
    return world


def clients_leaving_together() -> World:
    """A client's machine goes away; others go on."""
    world = busy(60)
    world.streams(26, 30, GONE, last=29.99, spread=0.02, count=20)
    return world


def all_clients_leaving() -> World:
    """Everybody leaves at once, and comes back a minute later."""
    world = busy(28)
    world.streams(24, 30, GONE, last=29.99, spread=0.02, count=20)
    world.traffic(90, 120)
    return world


def a_slow_first_compile() -> World:
    """Nothing was served yet, and the clients lose patience."""
    world = World()
    for number in range(20):
        world.add(number / 100, 35 + number / 100, "client_cancel_before_first_byte", first=None, last=2)
    return world


def a_slow_first_compile_that_goes_on() -> World:
    """All streams have had a token, and wait for the same thing."""
    world = World()
    for number in range(20):
        world.add(number / 100, 60 + number, first=2 + number / 50, silence=(2.5, 32))
    return world


def errors_at_random() -> World:
    """A few in a hundred requests break in each of all ways, for ten minutes."""
    world = World(5)
    world.traffic(0, 600)
    for _ in range(100):
        at = world.random.uniform(0, 600)
        outcome = world.random.choice([UNCONNECTED, CUT, FRAME, STATUS])
        world.add(at, at + world.random.uniform(0.01, 3), outcome, status=500)
    return world


def a_restart_between_requests() -> World:
    """A planned one: what ran ended well, then nobody listens for a while."""
    world = busy(30)
    world.refused(31, 45)
    world.traffic(46, 60)
    return world


def a_stop_of_the_recorder() -> World:
    """Envoy's drain and our own end cut everything: that is not the backend's."""
    world = busy(30)
    world.streams(26, 30, "proxy_drain", count=5)
    world.streams(26, 30, "sidecar_restart_orphan", count=5)
    return world


def one_reset_among_many() -> World:
    """An idle connection was closed just then."""
    world = busy(60)
    world.add(30, 30.01, UNCONNECTED, status=503)
    return world


def one_connection_of_several() -> World:
    """Streams of one HTTP/2 connection end together; new ones are served at once."""
    world = busy(29)
    world.streams(26, 30, CUT, spread=0.01, count=6)
    world.traffic(30.1, 60)
    return world


def a_queue() -> World:
    """Many wait long for their first token, behind others who get theirs."""
    world = World()
    for number in range(40):
        start = number / 100
        world.add(start, 10 + number * 2, first=start + number * 1.9 + 0.2)
    return world


def slow_answers_in_one_piece() -> World:
    """Nothing comes for long, since nobody streams."""
    world = busy(20)
    for number in range(6):
        world.add(20 + number / 10, 55 + number / 10, first=55 + number / 10, stream=False)
    return world


def a_server_that_says_it_is_loading() -> World:
    """Away for a planned restart, then 503 until the model is there."""
    world = busy(30)
    world.refused(31, 40)
    for number in range(20):
        world.add(41 + number, 41.1 + number, STATUS, status=503)
    world.traffic(62, 80)
    return world


def agents() -> World:
    """Three streams that pause for tools of their own: by chance all at the same time in the end."""
    world = busy(60)
    world.add(60, 95, first=61, silence=(70, 70.5), seed=10)
    for number, pause in enumerate([(65, 80), (105, 118.5), (106, 118), (107, 119)]):
        world.add(pause[0] - 4, pause[1] + 6, first=pause[0] - 3, silence=pause, seed=number)
    return world


def timeouts_of_single_requests() -> World:
    """A route's limit ends a few long ones; others go on."""
    world = busy(90)
    for number in range(4):
        world.add(10 + number, 70 + number, "upstream_timeout", status=504, stream=False)
    return world


@pytest.mark.parametrize(
    "build",
    [
        bad_requests_in_a_burst,
        errors_in_a_burst_among_others,
        errors_in_a_burst_alone,
        errors_in_a_burst_beside_few_others,
        clients_leaving_together,
        all_clients_leaving,
        a_slow_first_compile,
        a_slow_first_compile_that_goes_on,
        errors_at_random,
        a_restart_between_requests,
        a_stop_of_the_recorder,
        one_reset_among_many,
        one_connection_of_several,
        a_queue,
        slow_answers_in_one_piece,
        a_server_that_says_it_is_loading,
        agents,
        timeouts_of_single_requests,
    ],
)
def test_what_is_no_incident_is_none(build: Callable[[], World]) -> None:
    """None is invented."""
    assert build().incidents() == []


def test_a_stop_that_cuts_streams_names_nobody() -> None:
    """It looks exactly like a death; no request stands out."""
    world = busy()
    world.streams(26, 30, FRAME, error=ENGINE_ERROR)
    world.add(29.9, 30.2, STATUS, status=500, seed=5_000_000, **JSON_SCHEMA)
    world.refused(33, 45)
    found = world.incidents()
    assert [(each.kind.value, each.verdict, each.suspects) for each in found] == [
        ("stopped_or_killed", "no_request", ())
    ]


def test_the_id_is_the_same_for_the_same_backend_and_moment() -> None:
    """Whatever else the journal has."""
    few, more = error_frames(), error_frames()
    more.traffic(100, 120, upstream="gpu-2:8000")
    assert [each.id for each in few.incidents()] == [each.id for each in more.incidents()]
