"""Asks backends what they are: engine, version, arguments, models, and since when they run.

    prober = Prober(Kept(path, every), every)
    prober.named("10.0.0.7:8000")      # of each upstream that the journal names; returns at once, for any thread
    prober.start()
    prober.close(timeout)

Each backend that was named in the last `NAMED_SECONDS` is asked every so many seconds, one after the other, each over
plain HTTP and without credentials. `/health`, `/metrics` and `/version` each time (`/slots` of a llama.cpp without
metrics), and what says more (`/v1/models`, `/get_server_info` of SGLang, `/props` of llama.cpp) only after a start. All
of that together may take
`ROUND_SECONDS`; whatever is no such answer, or longer than `MOST_BYTES`, says nothing. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import json
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

from extproc import __version__
from extproc.core.secret_names import is_secret
from extproc.incidents.backends import MOST_BACKENDS, Answer, Argument, Kept

NAMED_SECONDS: Final = 900.0
ROUND_SECONDS: Final = 2.0
MOST_BYTES: Final = 1 << 20
MOST_TEXT: Final = 200
MOST_MODELS: Final = 20
MOST_ARGUMENTS: Final = 500
_TLS_PORT: Final = 443
_LAST_MOMENT: Final = 253_402_300_799.0
"""The last one that RFC 3339 can write."""
_LARGEST: Final = 1 << 63
_START: Final = re.compile(rb"^process_start_time_seconds(?:\{[^\n}]*\})?[ \t]+([0-9.eE+]{1,32})", re.MULTILINE)
_DONE: Final = re.compile(
    rb"^(?:vllm|sglang|llamacpp):prompt_tokens_total(?:\{[^\n}]*\})?[ \t]+([0-9.eE+]{1,32})", re.MULTILINE
)
_MARK: Final = "process-start-time-unix"
"""llama.cpp's, with `/metrics`: microseconds of a clock that is not the time of day."""
_METRIC: Final = re.compile(rb"^(vllm|sglang|llamacpp):", re.MULTILINE)
_ENGINES: Final[Mapping[str, str]] = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "llamacpp": "llama.cpp",
    "tensorrt_llm": "TensorRT-LLM",
}
"""By `owned_by` of the models, and by what the names of metrics begin with."""
_log = logging.getLogger("extproc.incidents")


class Prober:
    """Of one data directory. `clock`: seconds since 1970."""

    def __init__(
        self, kept: Kept, every: float, clock: Callable[[], float] = time.time, round_seconds: float = ROUND_SECONDS
    ) -> None:
        self._kept = kept
        self._every = every
        self._clock = clock
        self._round_seconds = round_seconds
        self._named: dict[str, float] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def named(self, upstream: str) -> None:
        """The journal names this one."""
        if upstream in self._named or len(self._named) < MOST_BACKENDS:
            self._named[upstream] = self._clock()

    def start(self) -> None:
        """Ask from now on, in a thread of its own."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Ask no more; what is being asked may go on for so many seconds."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def round(self) -> None:
        """Ask each once."""
        now = self._clock()
        for upstream, at in list(self._named.items()):
            if now - at > NAMED_SECONDS:
                del self._named[upstream]
            elif (address := _address(upstream)) is not None and not self._closing.is_set():
                self._ask(upstream, address)
        self._kept.save()

    def _run(self) -> None:
        while not self._closing.wait(self._every):
            try:
                self.round()
            except Exception:  # noqa: BLE001 - the next round is another matter
                _log.exception("backends could not be asked what they are")

    def _ask(self, upstream: str, address: tuple[str, int]) -> None:
        backend = _Backend(address, time.monotonic() + self._round_seconds)
        if backend.get("/health") is None:
            self._kept.silent(upstream)
            return
        before = self._kept.running(upstream)
        answer = _briefly(backend, None if before is None else before.answer.engine)
        if before is None or self._kept.is_new(upstream, answer) or not before.answer.models:
            answer = _wholly(backend, answer)
        if before is not None or answer != Answer():
            self._kept.answered(upstream, answer, self._clock())


class _Page(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes
    mark: str | None


class _Backend:
    """One backend during one round."""

    def __init__(self, address: tuple[str, int], until: float) -> None:
        self._address = address
        self._until = until

    def get(self, path: str) -> _Page | None:
        """None: there was no whole answer."""
        host = f"[{self._address[0]}]" if ":" in self._address[0] else self._address[0]
        head = (
            f"GET {path} HTTP/1.1\r\nhost: {host}:{self._address[1]}\r\nuser-agent: extproc/{__version__}\r\n"
            "accept: */*\r\naccept-encoding: identity\r\nconnection: close\r\n\r\n"
        )
        try:
            with socket.create_connection(self._address, self._left()) as connection:
                connection.sendall(head.encode())
                reader = _Bounded(connection, self._left, MOST_BYTES)
                with http.client.HTTPResponse(cast("socket.socket", reader), method="GET") as response:
                    response.begin()
                    return _Page(response.status, response.read(), response.headers.get(_MARK))
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def json(self, path: str) -> Mapping[str, Any]:
        """The object that it answers with 200; empty where it does not."""
        document = self.document(path)
        return document if isinstance(document, dict) else {}

    def document(self, path: str) -> Any:
        """What it answers with 200; None where it does not."""
        found = self.get(path)
        try:
            return None if found is None or found.status != http.client.OK else json.loads(found.body)
        except (ValueError, RecursionError):
            return None

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Bounded(io.RawIOBase):
    """What comes over a connection, for as long and as much as is allowed; in the place of the socket for
    `http.client`, whose timeout is that of each read alone."""

    def __init__(self, connection: socket.socket, left: Callable[[], float], most: int) -> None:
        self._connection = connection
        self._left = left
        self._room = most

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._left())
        count = self._connection.recv_into(buffer)
        self._room -= count
        if self._room < 0:
            raise OSError("the answer is too long")
        return count


def _address(upstream: str) -> tuple[str, int] | None:
    """Of an upstream as Envoy names it; None for a socket's path, and where plain HTTP is not spoken."""
    host, _, port = upstream.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
        number = int(port)
    except ValueError:
        return None
    return (address, number) if 0 < number < 65536 and number != _TLS_PORT else None


def _briefly(backend: _Backend, engine: str | None) -> Answer:
    """What tells whether it has been started anew. `engine`: what it was before."""
    found = backend.get("/metrics")
    page = found if found is not None and found.status == http.client.OK else _Page(0, b"", None)
    metric = _METRIC.search(page.body)
    done = [number for each in _DONE.findall(page.body) if (number := _number(each)) is not None]
    return Answer(
        None if metric is None else _ENGINES[metric[1].decode()],
        _text(backend.json("/version").get("version")),
        _start(page.body),
        mark=_text(page.mark),
        done=sum(done) if done else _tasks(backend) if engine == "llama.cpp" else None,
    )


def _tasks(backend: _Backend) -> float | None:
    """How many tasks llama.cpp has begun, at least: its slots have the numbers of the last ones, from 0 on."""
    slots = backend.document("/slots")
    if not isinstance(slots, list):
        return None
    those = (each.get("id_task") for each in slots if isinstance(each, dict))
    return max((each + 1 for each in those if type(each) is int), default=0)


def _wholly(backend: _Backend, brief: Answer) -> Answer:
    """The same, with what is asked for at a start only. The models' owner knows the engine best."""
    listed = backend.json("/v1/models").get("data")
    models = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    owners = (str(each.get("owned_by")) for each in models)
    owner = next((each for each in owners if each in _ENGINES), "")
    names = [name for each in models[:MOST_MODELS] if (name := _text(each.get("id"))) is not None]
    engine, version, arguments = brief.engine, brief.version, dict[str, Argument]()
    if engine in (None, "SGLang") and (told := backend.json("/get_server_info")):
        engine, version, arguments = "SGLang", version or _text(told.get("version")), _arguments(told)
    elif engine in (None, "llama.cpp") and (build := _text(backend.json("/props").get("build_info"))):
        engine, version = "llama.cpp", version or build
    return Answer(_ENGINES.get(owner, engine), version, brief.started_at, names, arguments, brief.mark, brief.done)


def _arguments(told: Mapping[str, Any]) -> dict[str, Argument]:
    """The arguments that say something, without credentials and without what is a figure of the moment."""
    found: dict[str, Argument] = {}
    for name, value in told.items():
        if name == "version" or len(name) > MOST_TEXT or is_secret(name) or len(found) >= MOST_ARGUMENTS:
            continue
        if isinstance(value, str):
            found[name] = _clean(value)
        elif isinstance(value, bool | int | float) and abs(value) < _LARGEST:
            found[name] = value
    return found


def _start(text: bytes) -> float | None:
    found = _START.search(text)
    at = None if found is None else _number(found[1])
    return at if at is not None and 0 < at < _LAST_MOMENT else None


def _number(text: bytes) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if found < math.inf else None


def _text(value: object) -> str | None:
    return (_clean(value) or None) if isinstance(value, str) else None


def _clean(value: str) -> str:
    """Short, and what UTF-8 can write."""
    return value[:MOST_TEXT].encode("utf-8", "replace").decode()
