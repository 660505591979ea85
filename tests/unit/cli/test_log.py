"""`extproc log`: which exchanges, in which form, to whom."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import PROGRAM, invoke, on_terminal, run
from support.recorded import CHAT, ESCAPE, Recording

FIELDS = {
    "id started_at ended_at duration_ms outcome method path authority client status upstream cluster route",
    "response_flags response_code_details request_id trace_id span_id worker boot_id seq request response llm protocol",
    "grpc_status parent_span_id held best_effort routing attempts failed_attempts access_log envoy integrity key class",
    "scheme progress",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a journal is recorded."""
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader's clock shows UTC, unless a test says otherwise."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def listed(*arguments: str | Path) -> list[str]:
    """The ids that `log` lists with these arguments."""
    result = invoke("log", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


# Which -----------------------------------------------------------------------------------------------------


def test_exchanges_are_listed_newest_last_and_those_in_flight_left_out(data: Path) -> None:
    """`--all` adds what is in flight, at the end."""
    with Recording(data) as recording:
        first = recording.add(minute=5)
        running = recording.add(answer=None, minute=0)
        second = recording.add(minute=9)
        assert listed("--data-dir", data) == [first, second]
        assert listed("--data-dir", data, "--all") == [first, second, running]
        assert listed("--data-dir", data, "--outcome", "in_flight") == [running]


def test_one_in_flight_is_nobodys_doing(data: Path) -> None:
    """It has neither an outcome nor a class: in JSON, for the filters, and in counts."""
    with Recording(data) as recording:
        running = recording.add(answer=None)
        found = json.loads(invoke("log", "--data-dir", data, "--all", "--json").stdout)
        assert (found["id"], found["outcome"], found["class"]) == (running, None, None)
        for wanted in (["--failed"], ["--outcome", "class:unknown"], ["--outcome", "unknown"]):
            assert listed("--data-dir", data, "--all", *wanted) == []
        counted = json.loads(invoke("log", "--data-dir", data, "--all", "--by", "outcome", "--json").stdout)
        assert (counted["outcome"], counted["exchanges"], counted["errors"]) == ("in_flight", 1, 0)


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ([], [0, 1, 2, 3]),
        (["--outcome", "ok"], [0, 3]),
        (["--outcome", "ok", "--outcome", "unknown"], [0, 2, 3]),
        (["--status", "503"], [1]),
        (["--status", "2xx"], [0, 2, 3]),
        (["--status", "5xx", "--status", "none"], [1]),
        (["--model", "llama-3"], [0, 1]),
        (["--model", "llama-3-8b"], [0]),
        (["--model", "*-OSS*"], []),
        (["--model", "gpt-*"], [2]),
        (["--path", "/v1/models"], [3]),
        (["--path", "/v1/models?all=1"], [3]),
        (["--path", "/v1/chat/*"], [0, 1, 2]),
        (["--path", "/v1/model[s]"], []),
        (["--path", "/v1/mod?ls"], [3]),
        (["--since", "2025-11-21T03:13:00Z"], [1, 2, 3]),
        (["--until", "2025-11-21T03:13:00Z"], [0]),
        (["--since", "2025-11-21T03:13:00Z", "--until", "2025-11-21T04:14:30+01:00"], [1, 2]),
        (["--since", "2025-11-21"], [0, 1, 2, 3]),
        (["--since", "1m"], []),
        (["--limit", "2"], [2, 3]),
        (["--limit", "1", "--outcome", "ok", "--model", "llama*"], [0]),
    ],
)
def test_filters(data: Path, arguments: list[str], numbers: list[int]) -> None:
    """Kinds of filters are all met, values of one kind each suffice, and the limit counts what is left."""
    with Recording(data) as recording:
        ids = [
            recording.add(),
            recording.add(status=503, answer=b"{}"),
            recording.add(b'{"model":"gpt-oss","stream":true}', b"data: {}\n\n", cut=True),
            recording.add(b"", b"{}", method="GET", path="/v1/models?all=1"),
        ]
    assert listed("--data-dir", data, *arguments) == [ids[number] for number in numbers]


def test_an_id_selects(data: Path) -> None:
    """In every form that `show` takes; more than one may be named, and the other filters hold as well."""
    with Recording(data) as recording:
        ids = [
            recording.add(minute=number, headers=[("x-request-id", f"request-{number}")], answer=answer)
            for number, answer in enumerate((b'{"id":"cmpl-first"}', b'{"id":"cmpl-other"}', b"{}"))
        ]
    assert listed("--data-dir", data, "--id", ids[1]) == [ids[1]]
    assert listed("--data-dir", data, "--id", ids[0], "--id", ids[2]) == [ids[0], ids[2]]
    assert listed("--data-dir", data, "--id", ids[0][:6]) == ids
    assert listed("--data-dir", data, "--id", ids[2][-6:], "--id", "cmpl-first-0") == [ids[0], ids[2]]
    assert listed("--data-dir", data, "--id", "request-1") == [ids[1]]
    assert listed("--data-dir", data, "--id", ids[0][:6], "--since", "2025-11-21T03:13:00Z", "--limit", "1") == ids[2:]
    assert listed("--data-dir", data, "--id", ids[0][:6], "--until", "2025-11-21T03:13:00Z") == ids[:1]


def test_several_directories_are_read_as_one(tmp_path: Path) -> None:
    """Newest last across them."""
    with Recording(tmp_path / "a", worker=1) as one, Recording(tmp_path / "b", worker=2) as two:
        ids = [one.add(minute=0), two.add(minute=1), one.add(minute=2)]
    assert listed("--data-dir", tmp_path / "a", "--data-dir", tmp_path / "b") == ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "6000"], "'6000' is no status; expected 502, 5xx or none"),
        (["--since", "noon"], "expected a time such as 2026-11-21T03:12:00Z"),
        (["--outcome", "fine"], "'fine' is no outcome; expected a name"),
        (["--limit", "0"], "0 is not in the range"),
        (["--json", "--format", "openresty"], "--format excludes --json"),
        (["--follow", "--limit", "3"], "--follow and --limit exclude each other"),
        (["--format", "csv"], "'csv' is not"),
    ],
)
def test_wrong_usage_is_exit_2(data: Path, arguments: list[str], message: str) -> None:
    """The message says what was expected."""
    data.mkdir()
    result = invoke("log", "--data-dir", data, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_an_empty_journal_is_an_empty_list(data: Path) -> None:
    """Nothing on stdout, nothing on stderr, exit 0."""
    data.mkdir()
    result = invoke("log", "--data-dir", data)
    assert (result.exit_code, result.output) == (0, "")


# In which form ---------------------------------------------------------------------------------------------


def test_json_has_the_fields_of_the_contract(data: Path) -> None:
    """One object a line, every field there, bodies not."""
    with Recording(data) as recording:
        recording.add()
    (line,) = invoke("log", "--data-dir", data, "--json").stdout.splitlines()
    exchange = json.loads(line)
    assert set(exchange) == set(" ".join(FIELDS).split())
    assert "body" not in exchange["request"]
    assert exchange["request"]["bytes"] == len(CHAT)
    assert exchange["llm"]["usage"]["total_tokens"] == 11


def test_a_pipe_gets_a_line_each_with_tabs(data: Path) -> None:
    """The columns of the help, times in UTC, whatever the reader's clock shows."""
    with Recording(data) as recording:
        id = recording.add()
    (line,) = invoke("log", "--data-dir", data).stdout.splitlines()
    assert line.split("\t") == [
        "2025-11-21T03:12:00.000000Z",
        "ok",
        "200",
        "POST",
        "/v1/chat/completions",
        "llama-3",
        "10.0.0.7:8000",
        "150.0",
        "9/2",
        id,
    ]


def test_openresty_lines(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local time, the path, the raw body: non-ASCII as it is, line ends and what else would break a line escaped."""
    with Recording(data) as recording:
        recording.add('{"prompt":"räksmörgås 漢字"}'.encode(), path="/v1/completions?x=1")
        recording.add('line\nline\r\n\u2028\u0085"\\n"\t\x1b[31m'.encode(), path="/a")
        recording.add(b"\xff\x00" + "é".encode(), path="/b")
        recording.add(b"", path="/c", method="GET")
        recording.add(b"x" * 3000, path="/spooled")
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    result = invoke("log", "--data-dir", data, "--format", "openresty")
    assert result.stdout.split("\n") == [
        '[2025-11-21 04:12:00] | /v1/completions?x=1 | {"prompt":"räksmörgås 漢字"}',
        r'[2025-11-21 04:13:00] | /a | line\nline\r\n\u2028\x85"\n"\t\x1b[31m',
        r"[2025-11-21 04:14:00] | /b | \xff\x00é",
        "[2025-11-21 04:15:00] | /c | ",
        "[2025-11-21 04:16:00] | /spooled | " + "x" * 3000,
        "",
    ]


def test_one_body_that_is_gone_ends_no_listing(data: Path) -> None:
    """Its exchange has its line, without the body; standard error says what is missing; the others come as always."""
    with Recording(data) as recording:
        for number in range(3):
            recording.add(b"%d" % number * 3000, path=f"/{number}")
    gone = sorted((data / "bodies").iterdir())[1]
    gone.unlink()
    result = invoke("log", "--data-dir", data, "--format", "openresty")
    assert [line.split(" | ")[2][:1] for line in result.stdout.splitlines()] == ["0", "", "2"]
    assert result.stderr == f"{gone.name.removesuffix('.request')}: {gone}: No such file or directory\n"


@pytest.mark.parametrize("form", [[], ["--json"], ["--format", "openresty"]])
def test_nothing_recorded_reaches_a_terminal_unescaped(data: Path, form: list[str]) -> None:
    """Escape sequences in the path, the model, headers and bodies, both ways."""
    hostile = json.dumps({"model": ESCAPE, "prompt": ESCAPE}, ensure_ascii=False).encode()
    with Recording(data) as recording:
        recording.add(
            hostile + ESCAPE.encode(),
            hostile,
            path="/v1/completions?" + ESCAPE,
            headers=[("x-evil", ESCAPE)],
            answer_headers=[("x-evil", ESCAPE)],
        )
        recording.add(hostile, hostile, path="/v1/completions", method="POST" + ESCAPE)
    seen = on_terminal("log", "--data-dir", data, *form, cwd=data)
    assert b"2025" in seen or b"11-21" in seen
    assert_harmless(seen)


def assert_harmless(seen: bytes) -> None:
    """No control sequence but colours and line ends, no character that hides or reorders text."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen.decode())
    assert not set(plain) & (set(ESCAPE) - set("]0;owned[2J31mgnpext")), plain
    assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]", plain)


def test_a_terminal_gets_a_table(data: Path) -> None:
    """With a heading and colours."""
    with Recording(data) as recording:
        id = recording.add()
    heading, row = on_terminal("log", "--data-dir", data, cwd=data).decode().splitlines()
    assert "started" in heading
    assert "\x1b[32mok" in row
    assert id[-12:] in row


def test_no_match_is_said_on_a_terminal(data: Path) -> None:
    """So that silence is not taken for a fault."""
    data.mkdir()
    assert on_terminal("log", "--data-dir", data, cwd=data) == b"no exchange matches\r\n"


# To whom ---------------------------------------------------------------------------------------------------


def test_a_reader_that_has_enough_ends_it_quietly(data: Path) -> None:
    """`extproc log | head -1`."""
    with Recording(data) as recording:
        for _ in range(50):
            recording.add(b"x" * 900)
    assert run("index", "--data-dir", data, cwd=data).returncode == 0
    read, write = os.pipe()
    process = subprocess.Popen(
        [*PROGRAM, "log", "--json", "--data-dir", data], cwd=data, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    os.read(read, 100)
    os.close(read)
    _, stderr = process.communicate(timeout=150)
    assert (process.returncode, stderr) == (0, b"")


def test_follow_prints_each_exchange_as_it_ends(data: Path) -> None:
    """What ended before is not repeated; the filters hold; an interrupt ends it with exit 0."""
    with Recording(data) as recording:
        recording.add(minute=0)
        process = subprocess.Popen(
            [*PROGRAM, "log", "--follow", "--json", "--since", "2025-11-21T03:15:00Z", "--data-dir", data],
            cwd=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        for minute in (3, 4):
            id = recording.add(minute=minute)
            assert json.loads(process.stdout.readline())["id"] == id
        recording.add(minute=5, answer=None)
        id = recording.add(minute=6)
        assert json.loads(process.stdout.readline())["id"] == id
        process.send_signal(2)
        rest, stderr = process.communicate(timeout=150)
        assert (process.returncode, rest, stderr) == (0, b"", b"")


def test_follow_ends_quietly_when_its_reader_leaves(data: Path) -> None:
    """At the next exchange that it would print."""
    with Recording(data) as recording:
        process = subprocess.Popen(
            [*PROGRAM, "log", "--follow", "--since", "2025-11-21", "--data-dir", data],
            cwd=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        recording.add()
        assert process.stdout.readline()
        process.stdout.close()
        recording.add()
        assert process.wait(150) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


# The same filters for all -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--failed"], [1]),
        (["--outcome", "upstream_*"], [1]),
        (["--outcome", "class:upstream"], [1]),
        (["--upstream", "10.0.0.8"], [1]),
        (["--method", "GET"], [2]),
        (["--api", "chat.*"], [0, 1]),
        (["--tokens", "11"], [0]),
        (["--tokens", "..10"], []),
        (["--param", "temperature=0.5"], [0, 1]),
        (["--finish", "stop"], [0]),
        (["--min-duration", "1h"], []),
        (["--grep", "engine is dead"], [1]),
        (["--grep", "engine", "--status", "2xx"], []),
        (["--at", "2025-11-21T03:13Z"], [1]),
        (["--at", "2025-11-21T03:13Z", "--window", "60s"], [0, 1, 2]),
    ],
)
def test_the_filters_of_all_commands(data: Path, arguments: list[str], numbers: list[int]) -> None:
    """Each by an example; what they mean in full is tested where they are."""
    with Recording(data) as recording:
        ids = [
            recording.add(),
            recording.add(answer=b'{"error":{"message":"engine is dead"}}', status=500, upstream="10.0.0.8:8000"),
            recording.add(b"", b"{}", method="GET", path="/v1/models"),
        ]
    assert listed("--data-dir", data, *arguments) == [ids[number] for number in numbers]


@pytest.mark.parametrize(
    "arguments",
    [["--tokens", "many"], ["--tokens", ".."], ["--grep", "("], ["--window", "5s"], ["--columns", "colour"]],
)
def test_a_filter_that_means_nothing_is_wrong_usage(data: Path, arguments: list[str]) -> None:
    """Exit code 2, and nothing is listed."""
    with Recording(data) as recording:
        recording.add()
    result = invoke("log", "--data-dir", data, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


# Columns ------------------------------------------------------------------------------------------------------


def test_csv_and_columns(data: Path) -> None:
    """With a heading; the columns that were asked for, in that order."""
    with Recording(data) as recording:
        id = recording.add(path='/v1/chat/completions?a="b",c')
    result = invoke("log", "--data-dir", data, "-o", "csv", "--columns", "id,path,took")
    assert result.stdout.splitlines()[0] == "id,path,took"
    assert next(csv.reader(result.stdout.splitlines()[1:]))[:2] == [id, '/v1/chat/completions?a="b",c']
    assert invoke("log", "--data-dir", data, "--columns", "model,status").stdout == "llama-3\t200\n"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_terminal_has_the_columns_that_are_worth_most(data: Path, tmp_path: Path, width: int) -> None:
    """When, how, and an id that can be gone on with, at any width; outcomes are never cut; from 80 the model."""
    with Recording(data) as recording:
        id = recording.add(cut=True)
        recording.add()
    printed = re.sub(
        rb"\x1b\[[0-9;]*m", b"", on_terminal("log", "--data-dir", data, cwd=tmp_path, columns=width)
    ).decode()
    lines = printed.splitlines()
    assert max(map(len, lines)) <= width
    assert id[-12:] in printed
    assert ("llama-3" in printed) is (width >= 80)
    assert invoke("show", id[-12:], "--data-dir", data).exit_code == 0
    wide = on_terminal("log", "-o", "wide", "--data-dir", data, cwd=tmp_path, columns=width).decode()
    assert id in wide
    assert "10.0.0.7:8000" in wide
