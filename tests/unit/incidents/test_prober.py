"""What backends say of themselves: asked for within bounds, kept at each start, shown by an incident."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from support.http_servers import Quiet, serving
from support.stack import eventually
from support.worlds import START, World

from extproc.incidents import backends, report
from extproc.incidents.backends import Answer, Kept, Known, Start
from extproc.incidents.incident import Incident, incidents
from extproc.incidents.prober import MOST_BYTES, NAMED_SECONDS, Prober

METRICS = b"""# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds %b
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 0.0
"""
PATIENT = 60.0
Pages = dict[str, bytes]


def models(owner: str, *names: str) -> bytes:
    """The list of models."""
    return json.dumps({"object": "list", "data": [{"id": name, "owned_by": owner} for name in names]}).encode()


def vllm(started: bytes = b"1.76369472e+09", version: str = "0.11.0") -> Pages:
    """What vLLM answers."""
    return {
        "/health": b"",
        "/version": json.dumps({"version": version}).encode(),
        "/metrics": METRICS % started,
        "/v1/models": models("vllm", "m", "adapter"),
    }


SGLANG: Mapping[str, bytes] = {
    "/health": b"",
    "/v1/models": models("sglang", "m"),
    "/get_server_info": json.dumps(
        {
            "model_path": "/models/m",
            "tp_size": 2,
            "mem_fraction_static": 0.88,
            "disable_radix_cache": False,
            "api_key": "sk-not-to-be-kept",
            "chat_template": None,
            "internal_states": [{"last_gen_throughput": 12.3}],
            "version": "0.5.4",
        }
    ).encode(),
}
LLAMA: Mapping[str, bytes] = {
    "/health": b'{"status":"ok"}',
    "/v1/models": models("llamacpp", "m.gguf"),
    "/props": b'{"build_info": "b6915-5d8bb900b", "total_slots": 4, "chat_template": "x"}',
}


class Backend:
    """Answers with `pages`, 404 elsewhere; `raw` has the connection instead, `status` is that of all."""

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        self.pages = pages
        self.status = 200
        self.asked: list[str] = []
        self.headers: list[set[str]] = []
        self.raw: Callable[[BaseHTTPRequestHandler], None] | None = None
        backend = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                backend.asked.append(self.path)
                backend.headers.append({name.lower() for name in self.headers})
                self.close_connection = True
                if backend.raw is not None:
                    backend.raw(self)
                    return
                page = backend.pages.get(self.path)
                self.send_response(404 if page is None else backend.status)
                self.send_header("content-length", str(len(page or b"")))
                self.send_header("location", "/version")
                self.end_headers()
                self.wfile.write(page or b"")

        self._handler = Handler
        self._running = contextlib.ExitStack()
        self.upstream = ""

    def __enter__(self) -> Self:
        self.upstream = f"127.0.0.1:{self._running.enter_context(serving(self._handler))}"
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()


class Clock:
    """The time, as the test has it."""

    def __init__(self) -> None:
        self.now = float(START)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A vLLM."""
    with Backend(vllm()) as backend:
        yield backend


class Asked:
    """A prober of one backend, and what it has kept. `seconds`: for a round."""

    def __init__(self, tmp_path: Path, upstream: str, seconds: float = PATIENT) -> None:
        self.directory = tmp_path / backends.DIRECTORY
        self.directory.mkdir(exist_ok=True)
        self.path = self.directory / backends.FILE_NAME
        self.clock = Clock()
        self.prober = Prober(Kept(self.path, 10), 10, self.clock, seconds)
        self._upstream = upstream
        self.prober.named(upstream)

    def round(self, later: float = 10.0) -> list[Start]:
        """Ask; what is in the file then."""
        self.clock.now += later
        self.prober.round()
        return self.starts()

    def starts(self) -> list[Start]:
        """What is in the file."""
        if not self.path.exists():
            return []
        found: Any = json.loads(self.path.read_bytes())["backends"].get(self._upstream, [])
        return msgspec.convert(found, list[Start])


@pytest.mark.parametrize(
    ("pages", "answer"),
    [
        (vllm(), Answer("vLLM", "0.11.0", START, ["m", "adapter"])),
        (
            SGLANG,
            Answer(
                "SGLang",
                "0.5.4",
                None,
                ["m"],
                {"model_path": "/models/m", "tp_size": 2, "mem_fraction_static": 0.88, "disable_radix_cache": False},
            ),
        ),
        (LLAMA, Answer("llama.cpp", "b6915-5d8bb900b", None, ["m.gguf"])),
        (
            {"/health": b"", "/version": b'{"version": "1.0.0"}', "/v1/models": models("tensorrt_llm", "m")},
            Answer("TensorRT-LLM", "1.0.0", None, ["m"]),
        ),
        ({name: page for name, page in vllm().items() if name != "/v1/models"}, Answer("vLLM", "0.11.0", START)),
    ],
)
def test_each_engine_is_known_by_what_it_says(tmp_path: Path, pages: Pages, answer: Answer) -> None:
    """With its version, its start, its models and its arguments, as far as it has them; no credential is kept."""
    with Backend(pages) as backend:
        asked = Asked(tmp_path, backend.upstream)
        (start,) = asked.round()
    assert start == Start(answer, asked.clock.now, asked.clock.now)
    assert b"not-to-be-kept" not in asked.path.read_bytes()
    assert not {"authorization", "cookie", "x-api-key"} & set().union(*backend.headers)


def test_what_says_more_is_asked_for_at_a_start_only(tmp_path: Path, backend: Backend) -> None:
    """Each other time three small answers do."""
    asked = Asked(tmp_path, backend.upstream)
    asked.round()
    backend.asked.clear()
    (start,) = asked.round()
    assert backend.asked == ["/health", "/metrics", "/version"]
    assert (start.first_seen, start.last_seen) == (START + 10, START + 20)


@pytest.mark.parametrize("pages", [SGLANG, LLAMA, vllm()])
def test_what_answers_is_known_to_run(tmp_path: Path, pages: Pages) -> None:
    """Whatever little it says each time."""
    with Backend(pages) as backend:
        asked = Asked(tmp_path, backend.upstream)
        asked.round()
        (start,) = asked.round()
        assert (start.first_seen, start.last_seen) == (START + 10, START + 20)


def slots(*tasks: int) -> bytes:
    """llama.cpp's."""
    return json.dumps([{"id": 0, "is_processing": False}, *({"id": 1, "id_task": task} for task in tasks)]).encode()


TOKENS = b'%s:prompt_tokens_total{model_name="m"} %d\n'


@pytest.mark.parametrize(
    ("before", "after", "starts"),
    [
        ({**LLAMA, "/slots": slots(7, 9)}, {**LLAMA, "/slots": slots(11, 9)}, 1),
        ({**LLAMA, "/slots": slots(7, 9)}, {**LLAMA, "/slots": slots()}, 2),
        ({**LLAMA, "/slots": slots(7, 9)}, LLAMA, 1),
        ({**LLAMA, "/metrics": TOKENS % (b"llamacpp", 30)}, {**LLAMA, "/metrics": TOKENS % (b"llamacpp", 4)}, 2),
        ({**SGLANG, "/metrics": TOKENS % (b"sglang", 30)}, {**SGLANG, "/metrics": TOKENS % (b"sglang", 4)}, 2),
        ({**SGLANG, "/metrics": TOKENS % (b"sglang", 30)}, {**SGLANG, "/metrics": TOKENS % (b"sglang", 30)}, 1),
        ({**SGLANG, "/metrics": TOKENS % (b"sglang", 30)}, SGLANG, 1),
    ],
)
def test_a_counter_that_has_fallen_is_a_new_start(tmp_path: Path, before: Pages, after: Pages, starts: int) -> None:
    """Where the time of the start is not told; one that is not there says nothing."""
    with Backend(before) as backend:
        asked = Asked(tmp_path, backend.upstream)
        asked.round()
        asked.round()
        backend.pages = after
        assert len(asked.round()) == starts


@pytest.mark.parametrize(
    "pages", [vllm(started=b"1763694735.5"), vllm(version="0.12.0"), vllm(started=b"1763694735.5", version="0.12.0")]
)
def test_a_restart_is_a_new_start(tmp_path: Path, backend: Backend, pages: Pages) -> None:
    """By the time of the process or by the version, also when it was never seen away, and after the follower's own
    restart."""
    Asked(tmp_path, backend.upstream).round()
    backend.pages = {**pages, "/v1/models": models("vllm", "other")}
    first, second = Asked(tmp_path, backend.upstream).round(20)
    assert (first.answer.version, first.answer.models) == ("0.11.0", ["m", "adapter"])
    assert second.answer.models == ["other"]


@pytest.mark.parametrize(("pages", "starts"), [(SGLANG, 2), (vllm(), 1)])
def test_a_silence_is_a_restart_where_nothing_tells_otherwise(tmp_path: Path, pages: Pages, starts: int) -> None:
    """A server that was frozen and has the same process is the same."""
    with Backend(pages) as backend:
        asked = Asked(tmp_path, backend.upstream)
        asked.round()
        backend.raw = lambda handler: handler.connection.close()
        assert [each.silent for each in asked.round()] == [True]
        backend.raw = None
        assert len(asked.round()) == starts
        assert len(asked.round()) == starts


def _garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x15\x03\x01\x00\x02\x02\x16")


def _closes(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")


def _is_long(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        for _ in range(10):
            handler.wfile.write(b"a" * MOST_BYTES)
    except OSError:
        pass


def _has_a_long_head(handler: BaseHTTPRequestHandler) -> None:
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * MOST_BYTES)


@pytest.mark.parametrize("raw", [_garbage, _closes, _is_long, _has_a_long_head])
def test_what_is_no_answer_says_nothing(
    tmp_path: Path, backend: Backend, raw: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    """And stays without consequence: what was known stays known."""
    asked = Asked(tmp_path, backend.upstream)
    (before,) = asked.round()
    backend.raw = raw
    (after,) = asked.round()
    assert after == msgspec.structs.replace(before, silent=True)


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_hangs_is_left(tmp_path: Path, backend: Backend, drips: bool) -> None:
    """All answers of a backend together have one time, however slowly they come: the next one is asked."""
    over = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.05 if drips else PATIENT):
                handler.wfile.write(b"a: b\r\n")
        except OSError:
            pass

    backend.raw = hang
    assert Asked(tmp_path, backend.upstream, seconds=0.3).round() == []
    over.set()
    assert not set(backend.asked) - {"/health"}


@pytest.mark.parametrize("status", [301, 401, 500])
def test_only_200_says_something(tmp_path: Path, backend: Backend, status: int) -> None:
    """A redirect is not followed."""
    backend.status = status
    asked = Asked(tmp_path, backend.upstream)
    assert asked.round() == []
    assert len(backend.asked) == len(set(backend.asked))


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b'{"version": 5}',
        b'{"data": {"id": 1}}',
        b'{"data": [null, {"id": []}]}',
        b"[" * 99_999,
    ],
)
def test_pages_of_another_form_say_nothing(tmp_path: Path, page: bytes) -> None:
    """Whatever is behind those paths."""
    paths = ("/health", "/metrics", "/version", "/v1/models", "/get_server_info", "/props")
    with Backend(dict.fromkeys(paths, page)) as backend:
        starts = Asked(tmp_path, backend.upstream).round()
    assert not any(each.answer.version or each.answer.models or each.answer.started_at for each in starts)


@pytest.mark.parametrize("at", [b"NaN", b"inf", b"0", b"-1", b"1e400", b"9e99", b"1.2.3", b"", b"1" * 40])
def test_a_start_that_is_none_is_not_kept(tmp_path: Path, backend: Backend, at: bytes) -> None:
    """No page of an incident fails of it."""
    backend.pages = vllm(at)
    (start,) = Asked(tmp_path, backend.upstream).round()
    assert start.answer.started_at is None


def test_long_and_odd_values_are_kept_short(tmp_path: Path) -> None:
    """A lone surrogate and a huge number, too, can be written and read again."""
    told = {"a": "\ud800" * 1000, "b": 10**30, "c": 1, "n" * 1000: 1, "version": "v" * 1000}
    with Backend({**SGLANG, "/get_server_info": json.dumps(told).encode()}) as backend:
        (start,) = Asked(tmp_path, backend.upstream).round()
    assert start.answer.arguments == {"a": "?" * 200, "c": 1}
    assert start.answer.version == "v" * 200


@pytest.mark.parametrize(
    "upstream", ["", "/run/engine.sock", "engine:8000", "127.0.0.1", "127.0.0.1:443", "[::1]:0", "127.0.0.1:99999"]
)
def test_what_is_no_address_for_plain_http_is_not_asked(tmp_path: Path, upstream: str) -> None:
    """Nothing is kept of it either."""
    assert Asked(tmp_path, upstream).round() == []


def test_a_backend_that_is_not_named_any_more_is_not_asked(tmp_path: Path, backend: Backend) -> None:
    """One that was taken out of service is left alone."""
    asked = Asked(tmp_path, backend.upstream)
    asked.round(NAMED_SECONDS + 1)
    assert backend.asked == []
    asked.prober.named(backend.upstream)
    assert len(asked.round()) == 1


def test_a_thread_asks_until_it_is_closed(tmp_path: Path, backend: Backend) -> None:
    """Whoever follows the journal waits for nobody."""
    asked = Asked(tmp_path, backend.upstream)
    prober = Prober(Kept(asked.path, 0.01), 0.01, asked.clock, PATIENT)
    prober.named(backend.upstream)
    prober.start()
    eventually(lambda: backend.asked.count("/health") > 1, "the second round")
    prober.close(PATIENT)
    count = len(backend.asked)
    prober.round()
    assert len(backend.asked) == count
    assert len(asked.starts()) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1, "every": 1, "backends": {"a": [1]}}', b"\xff"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, backend: Backend, content: bytes) -> None:
    """And tells nothing until then."""
    (tmp_path / backends.DIRECTORY).mkdir()
    (tmp_path / backends.DIRECTORY / backends.FILE_NAME).write_bytes(content)
    assert backends.load([tmp_path]).running(backend.upstream, START, None) is None
    asked = Asked(tmp_path, backend.upstream)
    assert len(asked.round()) == 1


def test_the_file_stays_small(tmp_path: Path) -> None:
    """The last starts of the backends that were there last, and only the last with their arguments."""
    kept = Kept(tmp_path / backends.FILE_NAME, 1)
    for number in range(backends.MOST_BACKENDS + 5):
        kept.answered(f"10.0.0.1:{number}", Answer("vLLM"), number)
    for number in range(backends.MOST_STARTS + 5):
        kept.answered("10.0.0.2:1", Answer("SGLang", None, 1000.0 * (number + 1), [], {"tp_size": number}), number)
    kept.save()
    file = json.loads((tmp_path / backends.FILE_NAME).read_bytes())["backends"]
    assert len(file) == backends.MOST_BACKENDS
    starts = file["10.0.0.2:1"]
    assert [each["answer"]["started_at"] for each in starts] == [1000.0 * number for number in range(6, 26)]
    assert [bool(each["answer"]["arguments"]) for each in starts] == [False] * 15 + [True] * 5


def test_a_file_that_cannot_be_written_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next round tries again."""
    kept = Kept(tmp_path / "none" / backends.FILE_NAME, 1)
    kept.answered("10.0.0.1:1", Answer("vLLM"), 1.0)
    kept.save()
    assert "cannot be kept" in caplog.text
    (tmp_path / "none").mkdir()
    kept.save()
    assert (tmp_path / "none" / backends.FILE_NAME).exists()


# An incident -------------------------------------------------------------------------------------------------------


def death(tmp_path: Path, *starts: Start) -> Incident:
    """One at second 30 of a world, with what was kept of that backend."""
    file = {"version": 1, "every": 10.0, "backends": {"gpu-1:8000": [msgspec.to_builtins(each) for each in starts]}}
    (tmp_path / backends.DIRECTORY).mkdir()
    (tmp_path / backends.DIRECTORY / backends.FILE_NAME).write_text(json.dumps(file))
    world = World()
    world.traffic(0, 30)
    world.streams(26, 30, "upstream_error_frame")
    world.add(29.8, 30.4, "upstream_error_status", status=500, guided_choice=[])
    world.refused(33, 40)
    (found,) = incidents(world.flights(), known=backends.load([tmp_path]))
    return found


def seen(version: str, started: float | None, first: float, last: float) -> Start:
    """A start of vLLM, at seconds of the world."""
    return Start(Answer("vLLM", version, None if started is None else START + started), START + first, START + last)


BEFORE = seen("0.10.0", -9000, -9000, -4000)
AFTER = seen("0.12.0", 41, 50, 90)


@pytest.mark.parametrize(
    ("starts", "version", "started_at"),
    [
        ([BEFORE, seen("0.11.0", -3600, -3000, 25), AFTER], "0.11.0", "2025-11-21T02:12:00.000000Z"),
        ([BEFORE, seen("0.11.0", None, -3000, 25), AFTER], "0.11.0", None),
        ([BEFORE, AFTER], None, None),
        ([], None, None),
    ],
)
def test_an_incident_shows_what_ran_at_its_moment(
    tmp_path: Path, starts: list[Start], version: str | None, started_at: str | None
) -> None:
    """Not what ran before or afterwards."""
    found = death(tmp_path, *starts)
    engine = version and "vLLM"
    assert found.fields()["backend"] == {"engine": engine, "version": version, "started_at": started_at}
    assert found.redacted().fields()["backend"] == found.fields()["backend"]
    headline = report.headline(found, lambda at: at)
    assert ("vLLM 0.11.0" in headline) is (version is not None)
    assert (f"started at {started_at}," in headline) is (started_at is not None)


def test_a_start_that_ended_before_the_backend_was_back_is_not_what_ran() -> None:
    """Of one that nobody asked in time nothing is said."""
    asked = seen("0.11.0", -100, -100, 10)
    known = Known([backends._File(10.0, {"a:1": [asked]})])
    assert known.running("a:1", START + 20, None) == asked
    assert known.running("a:1", START + 20, START + 5) == asked
    assert known.running("a:1", START + 20, START + 15) is None
    assert known.running("b:1", START + 20, None) is None
