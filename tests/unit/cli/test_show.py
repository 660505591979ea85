"""`extproc show`: an exchange of any shape, for a person, for a program, to the byte."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from pathlib import Path

import pytest
from support.commands import invoke, on_terminal, run
from support.recorded import ANSWER, CHAT, ESCAPE, Recording, as_a_crash_leaves_it

from extproc.core.records import Body, fields_of
from extproc.export.jsonl import with_bodies
from extproc.history import lookup
from extproc.journal.recovery import recover

STREAM = (
    b'data: {"id":"c1","model":"llama-3","choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"}}]}\n\n',
    b'data: {"id":"c1","model":"llama-3","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a journal is recorded."""
    return tmp_path / "data"


def shown(data: Path, id: str, *arguments: str) -> str:
    """What `show` prints."""
    result = invoke("show", id, "--data-dir", data, *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_whole_exchange(data: Path) -> None:
    """Where it came from and went, when, what was asked, what was answered."""
    with Recording(data) as recording:
        id = recording.add()
    text = shown(data, id)
    assert text.startswith("POST /v1/chat/completions\n200  ok: the answer is complete\n")
    for expected in (
        "192.0.2.9:50123",
        "10.0.0.7:8000",
        "first byte after 100.0 ms",
        "llama-3",
        '{"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}',
        f"Request: {len(CHAT)} bytes in 1 chunk, ended by end_of_stream",
        f"Response: {len(ANSWER)} bytes in 1 chunk, ended by end_of_stream",
        hashlib.sha256(CHAT).hexdigest(),
        '"temperature": 0.5',
        '"content": "Hello there"',
        "content-type: application/json",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("error", "told", "message"),
    [
        (
            b'{"error":{"message":"no \xe2\x82\xac left","type":"server_error","code":500}}',
            "server_error 500: no \u20ac left",
            "no \u20ac left",
        ),
        (b'{"error":"no room","error_type":"overloaded"}', "overloaded: no room", "no room"),
        (
            b'[{"error":{"code":400,"message":"no such field","status":"INVALID"}}]',
            "INVALID 400: no such field",
            "no such field",
        ),
        (b'{"detail":"\\u001b[2Jgone"}', "\\x1b[2Jgone", "\x1b[2Jgone"),
        (b'{"error":{"code":7}}', "7", None),
        (b'{"error":true}', "without a reason", None),
    ],
)
def test_an_error_and_its_words(data: Path, error: bytes, told: str, message: str | None) -> None:
    """What the backend said of its failure, wherever it said it, is on the page and in the JSON."""
    with Recording(data) as recording:
        answer = (STREAM[0], b"data: " + error + b"\n\n")
        id = recording.add(answer=answer, answer_headers=[("content-type", "text/event-stream")])
    assert f"  error          {told}\n" in shown(data, id)
    assert json.loads(shown(data, id, "--json"))["llm"]["error_message"] == message


@pytest.mark.parametrize(("pause_ms", "told"), [(1500, True), (900, False)])
def test_a_pause_within_an_answer(data: Path, pause_ms: int, told: bool) -> None:
    """One that somebody would have noticed is told, with its place; `--json` has every one."""
    with Recording(data) as recording:
        id = recording.add(answer=STREAM, answer_headers=[("content-type", "text/event-stream")], pause_ms=pause_ms)
    line = f"silent         for 1.50 s, from 1.60 s on, after {len(STREAM[0])} bytes of the answer"
    assert (line in shown(data, id)) is told
    response = json.loads(shown(data, id, "--json"))["response"]
    assert (response["max_silence_ms"], response["silence_at_ms"]) == (pause_ms, 100 + pause_ms)
    assert response["silence_at_byte"] == len(STREAM[0])


def test_a_streamed_answer_is_shown_put_together(data: Path) -> None:
    """Not as events."""
    with Recording(data) as recording:
        id = recording.add(answer=STREAM, answer_headers=[("content-type", "text/event-stream")])
    text = shown(data, id)
    assert '"content": "Hello"' in text
    assert "data: " not in text
    assert "Response: " in text
    assert "in 3 chunks" in text


def test_an_answer_without_a_request(data: Path) -> None:
    """Envoy's own reply before our turn."""
    with Recording(data) as recording:
        id = recording.add(None, b"no healthy upstream", status=503, answer_headers=[("content-type", "text/plain")])
    text = shown(data, id)
    assert text.startswith("? ?\n503  upstream_error_status")
    assert "Request: none was seen" in text
    assert "no healthy upstream" in text


def test_an_exchange_in_flight(data: Path) -> None:
    """Its request is there to be read while it runs."""
    with Recording(data) as recording:
        id = recording.add(answer=None)
        text = shown(data, id)
        assert "no answer  in_flight: it has not ended" in text
        assert "Response: none was seen" in text
        assert '"temperature": 0.5' in text
        unfinished = recording.add(answer=None, finished=False)
        assert f"Request: {len(CHAT)} bytes in 1 chunk, not ended" in shown(data, unfinished)


def test_an_orphan(data: Path, tmp_path: Path) -> None:
    """What was in flight when the sidecar died: all that had come of it."""
    with Recording(data) as recording:
        id = recording.add(answer=None)
        cut = recording.add(answer=None, finished=False)
        crashed = as_a_crash_leaves_it(data, tmp_path / "crashed")
    recover(crashed)
    assert "no answer  sidecar_restart_orphan: it was in flight when the sidecar died" in shown(crashed, id)
    assert "ended by orphan" in shown(crashed, cut)
    assert shown(crashed, cut, "--body", "request").encode() == CHAT


def test_an_answer_that_broke_off(data: Path) -> None:
    """What had come of it is there, put together."""
    with Recording(data) as recording:
        id = recording.add(answer=STREAM[:1], answer_headers=[("content-type", "text/event-stream")], cut=True)
    text = shown(data, id)
    assert "200  unknown: it was cut off" in text
    assert "ended by closed, not whole" in text
    assert '"content": "Hel"' in text


@pytest.mark.parametrize("size", [0, 1, 999, 1001, 100_000])
def test_body_writes_the_exact_bytes(data: Path, size: int) -> None:
    """Bytes that are no text, inline and spooled."""
    request, answer = bytes(range(256)) * (size // 256 + 1), bytes(reversed(range(256))) * (size // 256 + 1)
    with Recording(data) as recording:
        id = recording.add(request[:size], answer[:size], path="/upload")
    for direction, body in (("request", request), ("response", answer)):
        result = run("show", id, "--data-dir", data, "--body", direction, cwd=data)
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout == body[:size]


def test_a_body_that_was_never_there_is_exit_1(data: Path) -> None:
    """An empty file would look like an empty body."""
    with Recording(data) as recording:
        id = recording.add(answer=None)
        result = invoke("show", id, "--data-dir", data, "--body", "response")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"extproc: {id}: there is no recorded body of the response\n"


def test_json_adds_the_bodies_and_the_assembled_answer(data: Path) -> None:
    """To the fields of `log --json`; a body as text where it is UTF-8, else as base64."""
    with Recording(data) as recording:
        id = recording.add(answer=STREAM, answer_headers=[("content-type", "text/event-stream")])
        binary = recording.add(b"\xff" * 2000, b"\xfe", path="/upload")
        running = recording.add(answer=None)
        exchange = json.loads(shown(data, id, "--json"))
        assert json.loads(shown(data, running, "--json"))["response"] is None
    assert exchange["request"]["body"] == {"text": CHAT.decode()}
    assert exchange["response"]["body"] == {"text": b"".join(STREAM).decode()}
    (message,) = exchange["llm"]["output"]
    assert message["content"] == "Hello"
    exchange = json.loads(shown(data, binary, "--json"))
    assert base64.b64decode(exchange["request"]["body"]["base64"]) == b"\xff" * 2000
    assert exchange["llm"] is None


def test_a_compressed_body_is_shown_decoded_and_written_raw(data: Path) -> None:
    """What is stored is what was sent."""
    packed = gzip.compress(b'{"hello": "world"}')
    with Recording(data) as recording:
        id = recording.add(CHAT, packed, path="/x", answer_headers=[("content-encoding", "gzip")])
    assert '"hello": "world"' in shown(data, id)
    assert run("show", id, "--data-dir", data, "--body", "response", cwd=data).stdout == packed


def test_a_body_too_long_for_a_screen_is_cut_there(data: Path) -> None:
    """With a word on how to get the rest."""
    with Recording(data) as recording:
        id = recording.add(b"x" * 200_000, b"{}", path="/upload")
    text = shown(data, id)
    assert len(text) < 30_000
    assert "there is more: --body writes all of it" in text


@pytest.mark.parametrize(
    "body", [b"[" * 50_000, b'{"a":' + b"1" * 6000 + b"}", b"\xff\xfe\x00", b'{"a":NaN,"a":2}', b'"\\ud800"']
)
def test_bodies_that_are_hard_to_read_are_shown_all_the_same(data: Path, body: bytes) -> None:
    """Nested without end, huge numbers, no text, odd JSON."""
    with Recording(data, inline_body_bytes=100_000) as recording:
        id = recording.add(body, body)
    assert "Request: " in shown(data, id)
    json.loads(shown(data, id, "--json"))


def test_a_body_whose_file_is_gone_is_said(data: Path) -> None:
    """The rest of the exchange is shown, with the file's name; whoever needs the bytes gets an error."""
    with Recording(data) as recording:
        id = recording.add(b"x" * 3000, b"{}", path="/upload")
    (data / "bodies" / f"{id}.request").unlink()
    result = invoke("show", id, "--data-dir", data)
    assert result.exit_code == 0
    assert "No such file" in result.stdout
    for arguments in (["--body", "request"], ["--json"]):
        result = invoke("show", id, "--data-dir", data, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"{id}.request: No such file" in result.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nothing_recorded_reaches_a_terminal_unescaped(data: Path, form: list[str]) -> None:
    """Escape sequences in path, model, headers, bodies and the assembled answer."""
    answer = {"model": ESCAPE, "choices": [{"index": 0, "message": {"content": ESCAPE}, "finish_reason": ESCAPE}]}
    with Recording(data) as recording:
        id = recording.add(
            json.dumps({"model": ESCAPE, ESCAPE: ESCAPE}, ensure_ascii=False).encode(),
            json.dumps(answer, ensure_ascii=False).encode(),
            path="/v1/chat/completions?" + ESCAPE,
            headers=[("x-evil", ESCAPE), ("x-raw", b"\xff" + ESCAPE.encode())],
            answer_headers=[("x-evil", ESCAPE), ("content-type", "application/json")],
        )
        raw = recording.add(ESCAPE.encode() * 3, ESCAPE.encode() * 3, path="/raw")
    for each in (id, raw):
        seen = on_terminal("show", each, "--data-dir", data, *form, cwd=data).decode()
        assert "owned" in seen
        assert not set(seen) & {"\x07", "\x9b", "\u202e", "\u2028", "\x7f"}
        assert "\x1b]" not in seen
        assert "\x1b[2J" not in seen


def test_the_beginning_of_an_id_is_enough_when_it_is_the_only_one(data: Path) -> None:
    """Otherwise the candidates are named; none at all is exit 1 as well."""
    with Recording(data) as recording:
        ids = [recording.add() for _ in range(2)]
    assert shown(data, ids[0][:13]).startswith("POST ")
    result = invoke("show", "019a", "--data-dir", data)
    assert result.exit_code == 1
    assert result.stderr == (f"extproc: 2 exchanges go by '019a': {', '.join(ids)}\n")
    result = invoke("show", "ffff", "--data-dir", data)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"extproc: no exchange in {data} goes by 'ffff'\n"


@pytest.mark.parametrize(
    "called",
    [
        pytest.param("7398a14e-d072-4fb5-9858-8331ce637b73", id="Envoy's request id"),
        pytest.param("chatcmpl-7398a14e-d072-4fb5-9858-8331ce637b73", id="the response's id"),
        pytest.param("1_chatcmpl-7398a14e-d072-4fb5-9858-8331ce637b73-9d3f0c2b", id="the engine's id"),
    ],
)
def test_an_id_of_envoy_or_the_engine_will_do(data: Path, called: str) -> None:
    """As copied from a response, from Envoy's log, or from vLLM's."""
    request_id = "7398a14e-d072-4fb5-9858-8331ce637b73"
    answer = b'{"id":"chatcmpl-%s","choices":[]}' % request_id.encode()
    with Recording(data) as recording:
        recording.add()
        id = recording.add(answer=answer, headers=[("x-request-id", request_id)])
        recording.add(b'{"messages":"%s"}' % called.encode())
    for each in (called, id[-6:]):
        result = invoke("show", each, "--json", "--data-dir", data)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["id"] == id


def test_the_last_one(data: Path) -> None:
    """The last that has ended, and the last that failed; what is in flight is neither."""
    with Recording(data) as recording:
        recording.add(status=503)
        failed = recording.add(status=502)
        good = recording.add()
        recording.add(answer=None)
        for called, id in (("last", good), ("last-failed", failed)):
            result = invoke("show", called, "--json", "--data-dir", data)
            assert json.loads(result.stdout)["id"] == id


def test_no_last_one(data: Path) -> None:
    """Exit 1 and what is missing."""
    with Recording(data) as recording:
        recording.add(answer=None)
        result = invoke("show", "last", "--data-dir", data)
        assert (result.exit_code, result.stderr) == (1, f"extproc: no exchange in {data} has ended\n")
        recording.add()
    result = invoke("show", "last-failed", "--data-dir", data)
    assert (result.exit_code, result.stderr) == (1, f"extproc: no exchange in {data} has failed\n")


def test_json_and_body_exclude_each_other(data: Path) -> None:
    """Exit 2."""
    data.mkdir()
    assert invoke("show", "x", "--json", "--body", "request", "--data-dir", data).exit_code == 2


def test_the_link_to_jaeger(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a trace that was sampled, at the address of the settings."""
    sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with Recording(data) as recording:
        ids = [recording.add(headers=[("traceparent", each)]) for each in (sampled, sampled[:-1] + "0")]
    link = "/trace/0af7651916cd43dd8448eb211c80319c"
    assert f"http://127.0.0.1:16686{link}" in shown(data, ids[0])
    assert link not in shown(data, ids[1])
    monkeypatch.setenv("EXTPROC_JAEGER_URL", "https://jaeger.example")
    assert f"https://jaeger.example{link}" in shown(data, ids[0])
    monkeypatch.setenv("EXTPROC_PORT", "none")
    assert f"http://127.0.0.1:16686{link}" in shown(data, ids[0])


def test_what_envoy_says(data: Path) -> None:
    """Attempts, its own times and counts, and where those differ from ours."""
    with Recording(data) as recording:
        id = recording.add()
        recording.add_access(id, attempts=3, duration_ms=12.5, request_bytes=1, response_bytes=len(ANSWER))
    text = shown(data, id)
    assert "attempts       3\n" in text
    assert "failed " not in text
    assert f"request: Envoy counted 1 bytes, {len(CHAT)} were recorded" in text
    assert "Envoy's access log\n" in text
    assert "duration_ms    12.5\n" in text


def test_the_attempts_before_the_last(data: Path) -> None:
    """A line each: where, what came of it, how long it took."""
    refused = {"response_flags": ["UF"], "upstream_failure": "Connection refused", "duration_ms": 2000.0}
    busy = {"response_flags": [], "status": 503, "duration_ms": 0.7}
    failed = [
        {"upstream": "10.0.0.7:8000", "cluster": "llm"} | refused,
        {"upstream": "10.0.0.8:8000", "cluster": "llm"} | busy,
    ]
    with Recording(data) as recording:
        id = recording.add()
        recording.add_access(id, attempts=3, failed_attempts=failed)
    lines = [line.strip() for line in shown(data, id).splitlines() if "failed " in line]
    assert lines == [
        "failed         10.0.0.7:8000 of llm: UF (Connection refused), after 2.00 s",
        "failed         10.0.0.8:8000 of llm: 503, after 0.7 ms",
    ]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_scheme_that_was_used(data: Path, scheme: str) -> None:
    """On the page, in the JSON, and in the curl command that has no other server."""
    with Recording(data) as recording:
        id = recording.add(scheme=scheme)
    assert f"scheme         {scheme}\n" in shown(data, id)
    assert json.loads(invoke("show", id, "--json", "--data-dir", data).stdout)["scheme"] == scheme
    assert f"--url '{scheme}://" in invoke("replay", id, "--curl", "--data-dir", data).stdout


@pytest.mark.parametrize("unit", [b"a", "\u20ac".encode(), b'\x00\x7f"', b"\xff\xfe"])
def test_json_of_a_large_body_is_written_in_pieces(data: Path, unit: bytes) -> None:
    """Characters, escapes and groups of bytes are not torn where a piece ends, and no piece grows with the body."""
    sent = unit * (3_500_000 // len(unit))
    with Recording(data) as recording:
        id = recording.add(sent, path="/upload")
    assert json.loads(shown(data, id, "--json"))["request"]["body"] == fields_of(Body.of(sent))
    (exchange,) = lookup.find([data], id)
    assert max(map(len, with_bodies(exchange))) <= 6 * 1024 * 1024
