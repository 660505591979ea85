"""`extproc inflight`: what had begun and not ended, at a moment or when the sidecar died."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import invoke, on_terminal
from support.recorded import ESCAPE, START_NS, Recording, as_a_crash_leaves_it

from extproc.journal.recovery import recover

SECOND = 1_000_000_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a journal is recorded."""
    return tmp_path / "data"


def listed(data: Path, *arguments: str) -> list[str]:
    """The ids that `inflight` lists."""
    result = invoke("inflight", "--json", "--data-dir", data, *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("at", "window", "numbers"),
    [
        ("2025-11-21T03:11:59Z", "0", []),
        ("2025-11-21T03:12:00.1Z", "0", [0, 3]),
        ("2025-11-21T03:12:30Z", "0", [3]),
        ("2025-11-21T03:12:30Z", "30s", [0, 1, 3]),
        ("2025-11-21T03:13:00.050Z", "0", [1, 3]),
        ("2025-11-21T03:14:00.100Z", "0", [2, 3]),
        ("2025-11-21T04:14:00.100+01:00", "0", [2, 3]),
        ("2025-11-21T05:00:00Z", "0", [3]),
    ],
)
def test_at_a_moment(data: Path, at: str, window: str, numbers: list[int]) -> None:
    """What had started by then and had not ended; with a window, at any moment within it."""
    with Recording(data) as recording:
        running = recording.add(minute=0, answer=None)
        ids = [*(recording.add(minute=minute) for minute in range(3)), running]
        assert sorted(listed(data, "--at", at, "--window", window)) == sorted(ids[number] for number in numbers)


def test_at_the_crash_before_the_sidecar_has_started_again(data: Path, tmp_path: Path) -> None:
    """A segment that nobody writes was abandoned: what has not ended in it never will."""
    with Recording(data) as recording:
        recording.add()
        running = [recording.add(answer=None), recording.add(answer=None, finished=False)]
        crashed = as_a_crash_leaves_it(data, tmp_path / "crashed")
        assert listed(data, "--at-crash") == []
    assert listed(crashed, "--at-crash") == running


def test_at_the_crash_after_recovery(data: Path, tmp_path: Path) -> None:
    """The exchanges that recovery found without an end; what runs now is none of them."""
    with Recording(data) as recording:
        recording.add()
        running = [recording.add(answer=None), recording.add(answer=None)]
        crashed = as_a_crash_leaves_it(data, tmp_path / "crashed")
    recover(crashed)
    with Recording(crashed, boot_id="next") as recording:
        recording.add(answer=None)
        assert listed(crashed, "--at-crash") == running


def test_at_the_latest_of_several_crashes(data: Path, tmp_path: Path) -> None:
    """An older one's exchanges are not listed, even where the latest hit none."""
    with Recording(data) as recording:
        recording.add(answer=None)
        first = as_a_crash_leaves_it(data, tmp_path / "first")
    recover(first, clock=lambda: START_NS + 600 * SECOND)
    with Recording(first, boot_id="second") as recording:
        victim = recording.add(answer=None, minute=20)
        second = as_a_crash_leaves_it(first, tmp_path / "second")
    recover(second, clock=lambda: START_NS + 1800 * SECOND)
    assert listed(second, "--at-crash") == [victim]
    with Recording(second, boot_id="third") as recording:
        recording.add(minute=40)
        third = as_a_crash_leaves_it(second, tmp_path / "third")
    recover(third, clock=lambda: START_NS + 3600 * SECOND)
    assert listed(third, "--at-crash") == []


def test_workers_that_died_together_are_one_crash(tmp_path: Path) -> None:
    """Each is recovered for itself, within moments."""
    data = tmp_path / "data"
    with Recording(data, worker=0) as one, Recording(data, worker=1, boot_id="b00u") as two:
        victims = [one.add(answer=None, minute=0), two.add(answer=None, minute=1)]
        crashed = as_a_crash_leaves_it(data, tmp_path / "crashed")
    recover(crashed, worker=0, clock=lambda: START_NS + 600 * SECOND)
    recover(crashed, worker=1, clock=lambda: START_NS + 602 * SECOND)
    assert listed(crashed, "--at-crash") == victims


def test_when_nothing_was_in_flight_it_is_said(data: Path) -> None:
    """On stderr; exit 0."""
    with Recording(data) as recording:
        recording.add()
    result = invoke("inflight", "--at-crash", "--data-dir", data)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing was in flight\n")


def test_ids_are_full(data: Path) -> None:
    """In the plain form as well: they are what one goes on with."""
    with Recording(data) as recording:
        id = recording.add(answer=None)
        result = invoke("inflight", "--at", "now", "--data-dir", data)
    assert result.stdout.rstrip("\n").split("\t")[-1] == id


@pytest.mark.parametrize("arguments", [["--at", "03:12", "--at-crash"], ["--at", "then"], ["--window", "-1"]])
def test_wrong_usage_is_exit_2(data: Path, arguments: list[str]) -> None:
    """One of --at and --at-crash, and a time that is one."""
    data.mkdir()
    assert invoke("inflight", "--data-dir", data, *arguments).exit_code == 2


def test_nothing_recorded_reaches_a_terminal_unescaped(data: Path) -> None:
    """The path and the model of what was in flight are a client's text."""
    with Recording(data) as recording:
        recording.add(
            json.dumps({"model": ESCAPE}, ensure_ascii=False).encode(),
            answer=None,
            path="/v1/chat/completions?" + ESCAPE,
        )
        for form in ([], ["--json"]):
            seen = on_terminal("inflight", "--at", "now", "--data-dir", data, *form, cwd=data).decode()
            assert "chat/completions" in seen
            assert not set(seen) & {"\x07", "\x9b", "\u202e", "\u2028", "\x7f"}
            assert "\x1b]" not in seen
            assert "\x1b[2J" not in seen


def test_what_is_in_flight_now(data: Path) -> None:
    """Without options: what a worker that lives has not ended."""
    with Recording(data) as recording:
        recording.add()
        running = [recording.add(answer=None), recording.add(answer=None, finished=False)]
        assert listed(data) == running
        assert listed(data, "--method", "GET") == []
    result = invoke("inflight", "--data-dir", data)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing is in flight\n")


@pytest.mark.parametrize(
    ("at", "numbers"), [("2025-11-21T03:12Z", [0, 1]), ("2025-11-21T03:12:00Z", [0]), ("2025-11-21T03:12:59Z", [1])]
)
def test_a_time_is_as_long_as_it_is_precise(data: Path, at: str, numbers: list[int]) -> None:
    """A minute, or a second: what came and went within it was in flight. The interval is printed."""
    with Recording(data) as recording:
        ids = [recording.add(minute=0), recording.add(minute=0.99)]
    assert listed(data, "--at", at) == [ids[number] for number in numbers]
    words = invoke("inflight", "--at", at, "--data-dir", data).stderr
    assert words.startswith("in flight between 2025-11-21 ")
