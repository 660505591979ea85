"""Rows of `poison` played for real, side by side: each a demo engine and its clients behind the one Envoy of a stack.

    scenes = play(directory, rows)      # as long as the longest takes
    scenes[0].incident, scenes[0].killers, scenes[0].seconds

Every scene has a cluster, a model and an engine of its own, so that they share nothing but the journal. What kills is
the number of blanks after its body, which no evidence sees: the engine dies of whatever the row asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import yaml
from support.families import CHAT, Body, Traffic
from support.mortal import free_port
from support.poison import Row
from support.stack import PATIENCE_SECONDS, RunningStack

from extproc.history import reader
from extproc.incidents import evidence
from extproc.incidents.incident import Incident, incidents

CLIENTS: Final = 6
WARM: Final = 25
"""Answers that an engine gives before anything befalls it."""
_AFTER_SECONDS: Final = 2.0
"""Clients try again for so long."""
_PATIENCE_SECONDS: Final = 14.0
"""A client waits for so long."""
_POLL_SECONDS: Final = 0.5
_SETTLED_SECONDS: Final = 20.0
"""What is told while engines die is told again, with all that came later."""
_KILLS: Final = r"@body~\s{9}$"
_PREPARES: Final = r"@body~[^\s]\s{5}$"
_PATHS: Final = frozenset({CHAT, "/v1/completions", "/v1/embeddings"})
_HOW: Final = {
    "frames": ("frames=1",),
    "cut": ("kill",),
    "500": ("500",),
    "hang": ("hang",),
    "freeze": ("freeze=7",),
    "freeze, cut": ("freeze=7",),
    "memory": ("memory=1",),
    "keep-500": ("keep-500",),
    "keep-503": ("keep-503",),
    "null": ("frames=0.3", "--engine", "tensorrt-llm"),
    "alone": ("alone",),
}


@dataclass
class Scene:
    """One row, and what came of it."""

    row: Row
    number: int
    port: int
    killers: set[str] = field(default_factory=set)
    """The digests of the bodies that did it."""
    died: float | None = None
    """When the engine was seen to die, in seconds since 1970."""
    seconds: float | None = None
    """How long it took from there until it was told."""
    incident: Incident | None = None
    served: int = 0

    @property
    def upstream(self) -> str:
        """The engine's address."""
        return f"127.0.0.1:{self.port}"

    @property
    def over(self) -> bool:
        """What befell it was told, and either the killer named, or time enough given for that."""
        return self.seconds is not None and (self.rank is not None or self.seconds > _SETTLED_SECONDS)

    def is_of(self, found: Incident) -> bool:
        """Whether an incident is that which was played."""
        return (
            self.died is not None and found.sighting.upstream == self.upstream and found.sighting.until > self.died - 1
        )

    @property
    def rank(self) -> int | None:
        """The place of the first that did it among those that are named."""
        named = self.incident.suspects if self.incident is not None else ()
        return next((place for place, each in enumerate(named, 1) if each.flight.body in self.killers), None)


def play(directory: Path, rows: Sequence[Row], seed: int = 0) -> list[Scene]:
    """Play them, and wait until what befell each engine is told."""
    scenes = [Scene(row, number, free_port()) for number, row in enumerate(rows)]
    files = _envoy(directory / "envoy", scenes)
    with RunningStack(directory, "--envoy-dir", files, "--envoy-concurrency", "1") as stack:
        asyncio.run(_all(stack, scenes, seed))
    return scenes


def _envoy(directory: Path, scenes: Sequence[Scene]) -> Path:
    """The shipped configuration with a cluster for each scene, chosen by a header."""
    directory.mkdir(parents=True)
    routes = [
        {
            "name": f"scene-{each.number}",
            "match": {"prefix": "/", "headers": [{"name": "x-scene", "string_match": {"exact": str(each.number)}}]},
            "route": {"cluster": f"scene-{each.number}", "timeout": "0s", "idle_timeout": "600s"},
        }
        for each in scenes
    ]
    configuration = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "ingress",
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    }
    clusters = [_cluster(f"scene-{each.number}", each.port) for each in scenes]
    for name, resources in (("routes", [configuration]), ("clusters", clusters)):
        (directory / f"{name}.yaml").write_text(yaml.safe_dump({"resources": resources}, sort_keys=False))
    return directory


def _cluster(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


async def _all(stack: RunningStack, scenes: Sequence[Scene], seed: int) -> None:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(stack.url, connector=connector) as session, asyncio.TaskGroup() as group:
        playing = [group.create_task(_Player(session, each, seed).play()) for each in scenes]
        await _watch(stack.data_dir, scenes)
        for each in playing:
            each.cancel()


async def _watch(data: Path, scenes: Sequence[Scene]) -> None:
    """Until each is told, look at what the journal tells by now."""
    deadline = time.monotonic() + 4 * PATIENCE_SECONDS
    while (awaited := [each for each in scenes if not each.over]) and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
        if all(each.died is None for each in awaited):
            continue
        told = await asyncio.to_thread(_told, data)
        for each in awaited:
            for found in told:
                if each.died is not None and each.is_of(found):
                    each.incident, each.seconds = found, time.time() - each.died


def _told(data: Path) -> list[Incident]:
    every = reader.exchanges([data])
    return incidents(flight for each in every for flight in evidence.flights(each, evidence.recorded_body))


class _Player:
    """Plays one scene."""

    def __init__(self, session: aiohttp.ClientSession, scene: Scene, seed: int) -> None:
        self._session = session
        self._scene = scene
        self._random = Random(f"{scene.row.name} {seed}")
        kinds = [each for each in ("chat", "session", "agent", "extraction") if each not in scene.row.without]
        self._traffic = Traffic(self._random, [*kinds, *scene.row.families], model=f"model-{scene.number}")
        self._warm = asyncio.Event()
        self._dead = asyncio.Event()

    async def play(self) -> None:
        """From the engine's start to its end."""
        async with self._engine() as process, asyncio.TaskGroup() as group:
            clients = [group.create_task(self._client(number)) for number in range(CLIENTS)]
            await self._warm.wait()
            await self._prepare()
            guilty = [group.create_task(self._kill()) for _ in range(1 + self._scene.row.beside)]
            await self._dead.wait()
            self._scene.died = time.time()
            if self._scene.row.how == "freeze, cut":
                await asyncio.sleep(3)  # somebody has had enough
                process.send_signal(signal.SIGKILL)
            await asyncio.sleep(_PATIENCE_SECONDS if "hang" in self._scene.row.how else _AFTER_SECONDS)
            if self._scene.row.how == "freeze":
                await asyncio.sleep(7)
            for each in [*clients, *guilty]:
                each.cancel()

    @contextlib.asynccontextmanager
    async def _engine(self) -> AsyncIterator[asyncio.subprocess.Process]:
        row = self._scene.row
        rule = {"cancel": f"@cancel and {_KILLS}", "tokens": f"@output>3 and {_KILLS}"}.get(row.stage, _KILLS)
        rule = f"{_KILLS} beside {_KILLS}" if row.beside else rule
        rule = f"{_PREPARES} then {rule}" if row.earlier is not None else rule
        how, *engine = _HOW[row.how]
        how = f"latch=0.2,{how}" if row.stage == "latched" else how
        slots = ("--slots", "3") if row.stage == "queue" else ()
        die = ("--die-on", rule, "--die-how", how, *engine, *slots)
        pace = ("--ttft-ms", "30", "--tokens-per-second", "40")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "extproc", "mock-llm", "--port", str(self._scene.port), *pace, *die),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        words = asyncio.create_task(self._listen(process.stderr))
        try:
            assert (await process.stdout.readline()).startswith(b"ready")
            yield process
        finally:
            words.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _listen(self, words: asyncio.StreamReader) -> None:
        async for line in words:
            if b"dies (" in line:
                self._dead.set()

    async def _client(self, number: int) -> None:
        """Asks again and again, each time as its application does."""
        while True:
            path, body = self._traffic.request(number)
            if "max_tokens" in body:
                body["max_tokens"] = self._random.randint(8, 40)
            well = await self._ask(path, json.dumps(body).encode())
            self._scene.served += well
            if self._scene.served >= WARM:
                self._warm.set()
            await asyncio.sleep(0.02 if well else 0.3)

    async def _prepare(self) -> None:
        row = self._scene.row
        if row.earlier is None:
            return
        body = {**self._traffic.plain(), "max_tokens": 20, **row.earlier(self._random), "stream": True}
        await self._ask(CHAT, json.dumps(body).encode() + b" " * 5, leaves=3 if row.cancelled else 0)

    async def _kill(self) -> None:
        row = self._scene.row
        raw = json.dumps(self._body()).encode() + b" " * 9
        self._scene.killers.add(hashlib.sha256(raw).hexdigest())
        path = row.path if row.path in _PATHS else CHAT
        await self._ask(path, raw, leaves=4 if row.stage == "cancel" else 0)

    def _body(self) -> Body:
        row, plain = self._scene.row, self._traffic.plain()
        base: Body = {**plain, "max_tokens": 40} if row.path not in _PATHS - {CHAT} else {"model": plain["model"]}
        streams = {"stream": True} if row.stage in ("cancel", "tokens") else {}
        return {**base, **row.change(self._random), **streams}

    async def _ask(self, path: str, raw: bytes, leaves: int = 0) -> bool:
        """Whether it was answered well. `leaves`: after so many pieces of the answer."""
        headers = {"content-type": "application/json", "x-scene": str(self._scene.number)}
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
        pieces, last = 0, b""
        try:
            async with self._session.post(path, data=raw, headers=headers, timeout=timeout) as answer:
                async for piece in answer.content.iter_any():
                    pieces, last = pieces + 1, piece
                    if pieces == leaves:
                        answer.close()
                        return True
                return answer.status == 200 and b'"error"' not in last
        except (aiohttp.ClientError, TimeoutError):
            return False
