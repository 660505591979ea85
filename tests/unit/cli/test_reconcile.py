"""`extproc reconcile`: what is listed, what the sum says, and the exit code that follows from it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.commands import PROGRAM, invoke, on_terminal, run
from support.journals import access, append, id_of, journal, request, response
from support.recorded import ESCAPE

from extproc.core.times import timestamp
from extproc.reconcile.reconcile import Reason

SECOND = 1_000_000_000
START = 1_763_694_720 * SECOND
"""2025-11-21T03:12:00Z"""

ANSWERED: dict[str, Any] = {"status": 400, "upstream": None, "response_code_details": "http1.codec_error"}
"""What an entry says of a request that Envoy answered by itself."""


def entry(number: int | None, minute: int, **more: Any) -> bytes:
    """Envoy's entry of the request of that minute."""
    at = START + minute * 60 * SECOND
    return access(number, at=at, **({"bypass": None, "failed_open": False} | more))


def recorded(number: int) -> tuple[bytes, bytes, bytes]:
    """An exchange and its entry."""
    at = START + number * 60 * SECOND
    return request(number, at=at), response(number, at=at), entry(number, number)


def write(data: Path, *records: bytes) -> Path:
    """A journal of these records, begun at the first minute."""
    data.mkdir(mode=0o700)
    with journal(data, clock=lambda: START) as writer:
        append(writer, *records)
    return data


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A journal in which everything is recorded, or has passed by rule, or has reached no backend."""
    passed = entry(None, 2, bypass="upgrade", path="/ws", status=101)
    return write(tmp_path / "clean", *recorded(0), *recorded(1), passed, entry(None, 3, **ANSWERED))


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    """A journal with a request that passed when the recorder failed, and one whose record is missing."""
    failed = entry(None, 1, failed_open=True, path="/v1/chat/completions")
    return write(tmp_path / "holed", *recorded(0), failed, entry(2, 2), entry(None, 3, bypass="health"))


def line(**more: Any) -> dict[str, Any]:
    """A line of Envoy's JSON access log, of a request that passed."""
    fields: dict[str, Any] = {"start_time": "2025-11-21T03:12:00.000Z", "x_audit_id": None, "response_flags": "-"}
    fields |= {"response_code_details": "via_upstream", "upstream_host": "127.0.0.1:8001", "bypass": None}
    return fields | {"method": "POST", "path": "/x", "response_code": 200, "failed_open": "0"} | more


def log_file(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    """An access log of these lines."""
    raw = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines]
    path.write_bytes(b"".join(each + b"\n" for each in raw))
    return path


# From the journal ----------------------------------------------------------------------------------------------


def test_nothing_that_should_be_recorded_is_missing(clean: Path) -> None:
    """Exit 0; what passed is listed all the same, oldest first, and the sum is on stderr."""
    result = invoke("reconcile", "--data-dir", clean)
    assert result.exit_code == 0
    assert [row.split("\t") for row in result.stdout.splitlines()] == [
        [timestamp(START + 120 * SECOND), "bypassed", "yes", "101", "POST", "/ws", "127.0.0.1:8001", "upgrade", ""],
        [
            timestamp(START + 180 * SECOND),
            "ended_before_recorder",
            "no",
            "400",
            "POST",
            "/x",
            "",
            "http1.codec_error",
            "",
        ],
    ]
    assert result.stderr == (
        "4 requests in Envoy's log: 2 recorded, 2 without us: 1 bypassed, 1 ended_before_recorder\n"
    )


def test_a_backend_had_what_should_have_been_recorded(holed: Path) -> None:
    """Exit 1, with every field in JSON."""
    result = invoke("reconcile", "--data-dir", holed, "--json")
    assert result.exit_code == 1
    failed, missing, passed = (json.loads(row) for row in result.stdout.splitlines())
    assert failed == {
        "started_at": timestamp(START + 60 * SECOND),
        "reason": "failure_mode_allow",
        "problem": True,
        "reached_backend": True,
        "bypass": None,
        "id": None,
        "request_id": None,
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "response_flags": [],
        "response_code_details": "via_upstream",
        "upstream": "127.0.0.1:8001",
        "cluster": "llm",
        "route": "all",
        "attempts": 1,
        "duration_ms": 1000.0,
        "failed_open": True,
        "place": None,
    }
    assert (missing["reason"], missing["id"]) == ("record_missing", id_of(2, START + 120 * SECOND))
    assert (passed["reason"], passed["bypass"], passed["problem"]) == ("bypassed", "health", False)
    assert "1 recorded, 3 without us: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reasons", "code", "requests"),
    [
        (["--since", "2025-11-21T03:14:30Z"], ["bypassed"], 0, 1),
        (["--until", "2025-11-21T03:13:00Z"], [], 0, 1),
        (["--since", "2025-11-21T03:13:00Z", "--until", "2025-11-21T03:14:00Z"], ["failure_mode_allow"], 1, 1),
        (["--reason", "bypassed"], ["bypassed"], 1, 4),
        (["--reason", "bypassed", "--reason", "record_missing"], ["record_missing", "bypassed"], 1, 4),
    ],
)
def test_which_are_listed(holed: Path, arguments: list[str], reasons: list[str], code: int, requests: int) -> None:
    """A span of time narrows everything; `--reason` only the list."""
    result = invoke("reconcile", "--data-dir", holed, *arguments)
    assert [row.split("\t")[1] for row in result.stdout.splitlines()] == reasons
    assert result.exit_code == code
    assert result.stderr.startswith(f"{requests} requests in Envoy's log")


def test_several_journals(clean: Path, holed: Path) -> None:
    """As one."""
    result = invoke("reconcile", "--data-dir", clean, "--data-dir", holed)
    assert result.exit_code == 1
    assert result.stderr.startswith("8 requests in Envoy's log: ")


def test_a_journal_without_entries(tmp_path: Path) -> None:
    """Nothing can be said, and that is said."""
    result = invoke("reconcile", "--data-dir", write(tmp_path / "data", *recorded(0)[:2]))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no entry of Envoy's" in result.stderr


def test_a_table_for_a_person(holed: Path, tmp_path: Path) -> None:
    """With titles, colours, and the sum at the end."""
    text = on_terminal("reconcile", "--data-dir", holed, cwd=tmp_path).decode()
    assert "started" in text.splitlines()[0]
    assert "\x1b[31mfailure_mode_allow\x1b[0m" in text
    assert text.splitlines()[-1].startswith("4 requests in Envoy's log")


def test_hostile_paths_are_escaped(tmp_path: Path) -> None:
    """In a table, in a pipe and in JSON, from the journal and from a file."""
    data = write(tmp_path / "data", entry(None, 0, bypass="upgrade", path=ESCAPE))
    log = log_file(tmp_path / "log", line(path=ESCAPE, bypass="upgrade"), (ESCAPE + "no JSON").encode())
    for arguments in ((), ("--json",), (log,), (log, "--json")):
        result = invoke("reconcile", *arguments, "--data-dir", data)
        assert all(each.replace("\t", " ").isprintable() for each in result.output.splitlines())


# From a file ---------------------------------------------------------------------------------------------------


def test_a_file_held_against_the_journal(clean: Path, tmp_path: Path) -> None:
    """The same reasons; the place of each is in JSON."""
    log = log_file(
        tmp_path / "access.json",
        line(x_audit_id=id_of(0, START)),
        line(bypass="upgrade"),
        line(failed_open="1"),
        line(x_audit_id="019aa3f2-0000-7000-8000-000000000001"),
        line(x_audit_id=id_of(9, START), start_time="2025-11-20T00:00:00Z"),
    )
    result = invoke("reconcile", log, "--data-dir", clean, "--json")
    assert result.exit_code == 1
    found = [(each["reason"], each["place"]) for each in map(json.loads, result.stdout.splitlines())]
    assert found == [
        ("bypassed", f"{log}:2"),
        ("failure_mode_allow", f"{log}:3"),
        ("record_missing", f"{log}:4"),
        ("before_journal", f"{log}:5"),
    ]


def test_standard_input(clean: Path) -> None:
    """As `-`."""
    stdin = json.dumps(line(x_audit_id=id_of(1, START + 60 * SECOND))).encode() + b"\n"
    done = run("reconcile", "-", "--data-dir", clean, cwd=clean, stdin=stdin)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"1 requests in Envoy's log: 1 recorded, 0 without us\n"


def test_lines_that_cannot_be_read_are_named_and_counted(clean: Path, tmp_path: Path) -> None:
    """The first ones; no more of them than a person reads. What cannot be vouched for is exit 1."""
    log = log_file(tmp_path / "access.json", b"oh", line(bypass="x"), b"{}", *[b"oh"] * 50)
    result = invoke("reconcile", log, "--data-dir", clean)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"{log}:1: it is no JSON object")
    assert lines[1].startswith(f"{log}:3: it lacks start_time, x_audit_id, ")
    assert len(lines) == 21
    assert lines[-1].endswith("1 without us: 1 bypassed; 52 lines could not be read")


@pytest.mark.parametrize("arguments", [["none.json"], ["."], ["--reason", "because"], ["--since", "long ago"]])
def test_wrong_usage(clean: Path, arguments: list[str]) -> None:
    """Exit 2: a file that is not there, a directory, a reason that is none, a time that is none."""
    result = invoke("reconcile", "--data-dir", clean, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_missing_data_directory(tmp_path: Path) -> None:
    """Exit 2, and the line names it."""
    result = invoke("reconcile", "--data-dir", tmp_path / "none")
    assert result.exit_code == 2
    assert "there is no such data directory" in result.stderr


def test_a_closed_pipe_does_not_turn_a_problem_into_success(holed: Path) -> None:
    """`extproc reconcile | true` still is exit 1, without a word."""
    read, write_end = os.pipe()
    os.close(read)
    command = [*PROGRAM, "reconcile", "--data-dir", str(holed)]
    process = subprocess.Popen(command, cwd=holed, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    _, stderr = process.communicate(timeout=150)
    assert (process.returncode, stderr) == (1, b"")


def test_help_names_every_reason() -> None:
    """And the json_format."""
    text = invoke("reconcile", "--help").output
    assert all(f"  {reason} " in text for reason in Reason)
    assert 'x_audit_id: "%DYNAMIC_METADATA(extproc:id)%"' in text
