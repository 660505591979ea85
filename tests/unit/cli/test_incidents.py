"""`extproc incidents`: a list, a page, JSON."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from support.commands import invoke
from support.recorded import Recording

JOURNALS = Path(__file__).parents[2] / "forensics" / "real"
DEATH = JOURNALS / "k_regex_bad_stream"
KILLER = "01a21ecf-ef88-7f7e-b310-69e752471d3b"
FIELDS = {
    "id",
    "class",
    "upstream",
    "cluster",
    "at",
    "ended_at",
    "confidence",
    "evidence",
    "verdict",
    "suspects",
    "in_flight",
    "backend",
}


def test_json_has_the_promised_fields() -> None:
    """One object a line."""
    result = invoke("incidents", "--json", "--data-dir", DEATH)
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert result.exit_code == 0
    assert set(found) == FIELDS
    assert (found["class"], found["verdict"], found["at"]) == ("death", "suspects", "2026-11-27T21:01:13.583774Z")
    assert found["backend"] == {"engine": "vLLM", "version": None, "started_at": None}
    first = found["suspects"][0]
    assert set(first) == {"exchange", "rank", "score", "reasons", "latch"}
    assert (first["exchange"], first["rank"]) == (KILLER, 1)
    assert first["exchange"] in found["in_flight"]


def test_several_directories_are_read_as_one() -> None:
    """In the order of time."""
    names = ["k_crashloop", "k_queued", "l_sigkill_api"]
    result = invoke("incidents", "--json", *(word for name in names for word in ("--data-dir", JOURNALS / name)))
    found = [json.loads(line)["at"] for line in result.stdout.splitlines()]
    assert len(found) == 5
    assert found == sorted(found)


@pytest.mark.parametrize("id", ["last", "20261127-210113-c13680", "20261127-2101", "c13680"])
def test_one_incident_is_a_page(id: str) -> None:
    """By its id, the beginning or the end of it, or as the last one."""
    result = invoke("incidents", id, "--data-dir", DEATH)
    assert result.exit_code == 0
    assert KILLER in result.stdout
    assert "What was seen" in result.stdout


def test_the_list_has_a_line_for_each() -> None:
    """With tabs between in a pipe."""
    rows = [line.split("\t") for line in invoke("incidents", "--data-dir", DEATH).stdout.splitlines()]
    assert [(row[2], row[-1]) for row in rows] == [("death", KILLER)]


@pytest.mark.parametrize(("since", "count"), [("2026-11-27T21:00:00Z", 3), ("2026-11-27T21:10:30Z", 1)])
def test_since_leaves_out_what_was_before(since: str, count: int) -> None:
    """What is usual is still counted in the whole journal."""
    result = invoke("incidents", "--json", "--since", since, "--data-dir", JOURNALS / "k_crashloop")
    assert len(result.stdout.splitlines()) == count


def test_no_incident_is_exit_0(tmp_path: Path) -> None:
    """And is said."""
    with Recording(tmp_path / "data") as recording:
        recording.add()
    result = invoke("incidents", "--data-dir", tmp_path / "data")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no incident\n")
    assert invoke("incidents", "--json", "--data-dir", tmp_path / "data").stdout == ""


@pytest.mark.parametrize("arguments", [["nothing-of-the-kind"], ["last"]])
def test_an_incident_that_is_not_there_is_an_error(tmp_path: Path, arguments: list[str]) -> None:
    """One line, exit 1."""
    with Recording(tmp_path / "data"):
        pass
    result = invoke("incidents", *arguments, "--data-dir", tmp_path / "data")
    assert result.exit_code == 1
    assert "no incident" in result.stderr


@pytest.mark.parametrize("arguments", [["--since", "yesterday-ish"], ["--wrong"], ["--data-dir", "not-there"]])
def test_misuse_is_exit_2(arguments: list[str]) -> None:
    """As with all commands."""
    assert invoke("incidents", *arguments).exit_code == 2


def test_what_a_client_sent_cannot_reach_the_terminal(tmp_path: Path) -> None:
    """A parameter's name is the client's choice."""
    with Recording(tmp_path / "data") as recording:
        for minute in range(8):
            recording.add(minute=minute)
        bad = b'{"model":"llama-3","messages":[],"\\u001b]0;owned\\u0007":[]}'
        for number in range(4):
            recording.add(
                bad, b'{"error":{"message":"EngineCore encountered an issue"}}', status=500, minute=9 + number / 60
            )
    result = invoke("incidents", "last", "--data-dir", tmp_path / "data")
    assert result.exit_code == 0
    assert "owned" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("name", ["k_regex_bad_stream", "h_freeze_then_kill", "l_sigkill_engine"])
def test_what_to_run_next_runs_as_it_is_printed(name: str, tmp_path: Path) -> None:
    """In another directory than the journal's, and with its suspect among those that it lists."""
    shutil.copytree(JOURNALS / name, tmp_path / "a journal")
    (tmp_path / "a journal").chmod(0o700)
    page = invoke("incidents", "last", "--data-dir", tmp_path / "a journal").stdout
    commands = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("  extproc ")]
    assert commands[-1][0] == "inflight"
    for each in commands:
        if each[0] != "replay":  # which needs a server
            result = invoke(*each)
            assert (result.exit_code, bool(result.stdout)) == (0, True)
            assert each[0] == "quarantine" or commands[0][0] != "show" or commands[0][1] in result.stdout
