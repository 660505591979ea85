"""`make bench-peers`: the recorder beside what people would put there instead, where that is installed.

Each peer stands before the same backend and gets the same requests and streams, one after the other; a figure of a
request or a token is the CPU time of all its processes. At the end a fresh one is killed with SIGKILL while 200 streams
are open, and what it had written by then is searched for those requests.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import interpreter, measures, processes
from bench.envoys import free_port
from bench.measures import Numbers, Sizes
from bench.processes import Program, children, cpu_seconds, resident_bytes
from bench.targets import Stack, Target

HERE: Final = Path(__file__).with_name("peers")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extproc-bench"
MODULES: Final = Path("/usr/lib/nginx/modules")
LUA: Final = MODULES / "ngx_http_lua_module.so"
SIZES: Final = Sizes(4, streams=100, chunk_rate=500)
"""The slowest of them are to come along with the chunks."""
PYTHON: Final = interpreter.chosen("best")
KILLED_STREAMS: Final = 200
DIRECT: Final = "the backend itself"
_USER: Final = re.compile(rb"user(?:\\x22|\\u0022|[\\\": ])+(\d{1,3})(?=[\\\"])")
"""The number that each stream has sent, however a log quotes it."""


class Running(Protocol):
    """A peer that answers."""

    port: int

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class Started:
    """A program that listens on a port, and its children."""

    def __init__(
        self, command: Sequence[str | Path], port: int, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self._process = processes.start(command, log, environ)

    @property
    def pids(self) -> list[int]:
        """The program and its descendants."""
        return [self._process.pid, *children(self._process.pid)]

    def stop(self) -> None:
        """End the program, which ends its children."""
        processes.stop(self._process)


class Behind:
    """Envoy, with the recorder beside it or alone."""

    def __init__(self, target: Target, directory: Path, traffic: Program) -> None:
        self._stack = Stack(target, directory / "stack", traffic, python=PYTHON)
        self.port = self._stack.envoy.port

    @property
    def pids(self) -> list[int]:
        """Envoy, and all of the recorder."""
        recorder = self._stack.supervisor_pid
        return [self._stack.envoy.pid, *([recorder, *children(recorder)] if recorder else [])]

    def stop(self) -> None:
        """End both."""
        self._stack.stop()


class Backend:
    """The backend without anything before it."""

    def __init__(self, traffic: Program) -> None:
        self.pids: list[int] = []
        self.port = int(traffic.ready[0])

    def stop(self) -> None:
        """It goes on."""


Start = Callable[[Path, Program], Running]


@dataclasses.dataclass(frozen=True)
class Peer:
    """One line of the table."""

    name: str
    start: Start
    why_not: Callable[[], str | None] = lambda: None


def nginx(template: str) -> Start:
    """nginx with one worker, on a configuration of ours."""

    def started(directory: Path, traffic: Program) -> Running:
        port = free_port()
        text = (HERE / template).read_text()
        for name, value in {"PORT": port, "BACKEND": traffic.ready[0], "MODULES": MODULES}.items():
            text = text.replace(f"@{name}@", str(value))
        (directory / "nginx.conf").write_text(text)
        # Its workers are another user, who must reach the log and what is too long for memory.
        directory.chmod(0o777)
        command: list[str | Path] = ["nginx", "-p", directory, "-c", directory / "nginx.conf", "-g", "daemon off;"]
        return Started(command, port, directory / "log")

    return started


def mitmproxy(directory: Path, traffic: Program) -> Running:
    """mitmdump as a reverse proxy that streams, and keeps what it streams."""
    port = free_port()
    options = ["stream_large_bodies=1", "store_streamed_bodies=true"]
    return Started(
        [
            "mitmdump",
            *("--mode", f"reverse:http://127.0.0.1:{traffic.ready[0]}", "--listen-port", str(port)),
            *("--quiet", "-w", directory / "flows", "--set", f"confdir={directory}"),
            *(word for option in options for word in ("--set", option)),
        ],
        port,
        directory / "log",
    )


def litellm(directory: Path, traffic: Program) -> Running:
    """LiteLLM's proxy with one worker, which writes its log."""
    port = free_port()
    model = {
        "model": "openai/demo-model",
        "api_base": f"http://127.0.0.1:{traffic.ready[0]}/v1",
        "api_key": "none",
        "allowed_openai_params": ["user"],
    }
    config = {
        "model_list": [{"model_name": "demo-model", "litellm_params": model}],
        "litellm_settings": {"telemetry": False},
    }
    (directory / "config.yaml").write_text(json.dumps(config))
    options: list[str | Path] = ["--config", directory / "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    # Without a key, as nobody but the bench reaches it; and nothing is fetched.
    environ = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "true"}
    return Started([environment("litellm") / "litellm", *options], port, directory / "log", environ)


def environment(name: str) -> Path:
    """Where the programs of a package are, which is installed at first by the hashes of its lock."""
    lock = HERE / f"{name}.lock"
    directory = CACHE / name
    done = directory / "lock"
    if not done.exists() or done.read_bytes() != lock.read_bytes():
        shutil.rmtree(directory, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "--requirement", str(lock)], check=True)
        shutil.copy(lock, done)
    return directory / "bin"


def envoy(target: Target) -> Start:
    """Envoy as we ship it."""
    return lambda directory, traffic: Behind(target, directory, traffic)


def lacks(package: str, *files: str | Path) -> Callable[[], str | None]:
    """Why a peer cannot be measured that needs these programs or files of a package of Debian's."""

    def why() -> str | None:
        there = all(Path(each).exists() if Path(each).is_absolute() else shutil.which(each) for each in files)
        return None if there else f"not installed: sudo apt-get install {package}"

    return why


PEERS: Final = (
    Peer(DIRECT, lambda _, traffic: Backend(traffic)),
    Peer("Envoy alone", envoy(Target("a", "Envoy alone", "none"))),
    Peer("extproc, `durability: write`", envoy(Target("e", "extproc", "extproc", durability="write"))),
    Peer("extproc, `durability: fsync`", envoy(Target("f", "extproc", "extproc", durability="fsync"))),
    Peer("nginx, bodies of requests in its log", nginx("nginx.conf"), lacks("nginx-light", "nginx")),
    Peer("nginx, both bodies by Lua", nginx("nginx-lua.conf"), lacks("libnginx-mod-http-lua", "nginx", LUA)),
    Peer("mitmproxy, reverse", mitmproxy, lacks("mitmproxy", "mitmdump")),
    Peer("LiteLLM's proxy", litellm),
)


# What is measured ------------------------------------------------------------------------------------------------


def measured(peer: Peer, traffic: Program, sizes: Sizes, directory: Path) -> Numbers:
    """The figures of a peer. Raises ValueError where it fails a request or a stream."""
    with up(peer, traffic, directory / "measured") as running:
        measures.load(running.port, traffic.log, sizes.connections, sizes.warm_up)
        with cpu(running) as for_requests:
            many = measures.load(running.port, traffic.log, sizes.connections, sizes.seconds)
        one = measures.load(running.port, traffic.log, 1, sizes.seconds)
        measures.opened(traffic, running.port, sizes.streams)
        measures.ask(traffic, do="pace", rate=sizes.chunk_rate)
        time.sleep(sizes.warm_up)
        first = measures.ask(traffic, do="count")["chunks"]
        with cpu(running) as for_tokens:
            time.sleep(sizes.seconds)
            tokens = measures.ask(traffic, do="count")["chunks"] - first
        memory = sum(map(resident_bytes, running.pids))
        measures.ask(traffic, do="close")
    return {
        "requests_per_second": many["requests"] / many["duration_us"] * 1e6,
        "p50_us": one["p50_us"],
        "request_us": for_requests() / many["requests"] * 1e6,
        "token_us": for_tokens() / max(tokens, 1) * 1e6,
        "tokens_per_second": tokens / sizes.seconds,
        "rss": memory,
    }


def left_by(peer: Peer, traffic: Program, directory: Path) -> int:
    """Of how many open streams the request is found on disk when all processes of a peer have been killed."""
    place = directory / "killed"
    with up(peer, traffic, place) as running:
        measures.opened(traffic, running.port, KILLED_STREAMS)
        for pid in running.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found_in(place) & set(range(KILLED_STREAMS)))


def found_in(directory: Path) -> set[int]:
    """The numbers of the streams whose requests stand in any of the files."""
    written = (path.read_bytes() for path in directory.rglob("*") if path.is_file())
    return {int(number) for content in written for number in _USER.findall(content)}


@contextlib.contextmanager
def up(peer: Peer, traffic: Program, directory: Path) -> Iterator[Running]:
    """A peer in a directory of its own, from its first answer on."""
    directory.mkdir()
    running = peer.start(directory, traffic)
    try:
        deadline = time.monotonic() + 120
        while measures.ask(traffic, do="check", port=running.port)["status"] != 200:
            if time.monotonic() > deadline:
                said = (directory / "log").read_text()[-2000:] if (directory / "log").exists() else ""
                raise SystemExit(f"{peer.name} does not answer\n{said}")
            time.sleep(0.2)
        yield running
    finally:
        running.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def cpu(running: Running) -> Iterator[Callable[[], float]]:
    """The CPU time that all processes spend inside the block, to be asked for after it."""
    pids = running.pids
    spent = -sum(map(cpu_seconds, pids))
    yield lambda: spent
    spent += sum(map(cpu_seconds, pids))


def table(figures: Mapping[str, Sequence[Numbers]]) -> str:
    """The medians of the rounds, a line for each peer."""
    left = f"of {KILLED_STREAMS} requests, on disk after `kill -9`"
    titles = ["requests/s at 16", "p50 added, ms", "CPU a request, us", "CPU a token, us", "RSS, MB", left]
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    direct = statistics.median(each["p50_us"] for each in figures[DIRECT])
    for name, rounds in figures.items():
        if name == DIRECT:
            continue
        middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        lines.append(
            f"| {name} | {middle['requests_per_second']:,.0f} | {(middle['p50_us'] - direct) / 1e3:.2f} "
            f"| {middle['request_us']:,.0f} | {middle['token_us']:,.0f} | {middle['rss'] / 1e6:,.0f} "
            f"| {middle['left']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is installed, and print."""
    parser = argparse.ArgumentParser(prog="make bench-peers ARGS=...", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the medians are taken (3)")
    parser.add_argument("--seconds", type=float, default=SIZES.seconds, help="length of one measurement (4)")
    parser.add_argument("--only", default="", metavar="TEXT", help="peers with this in their name, and the backend")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    peers = []
    for peer in PEERS:
        if (reason := peer.why_not()) is not None:
            print(f"left out: {peer.name}: {reason}", file=sys.stderr)
        elif args.only.lower() in peer.name.lower() or peer.name == DIRECT:
            peers.append(peer)
    sizes = dataclasses.replace(SIZES, seconds=args.seconds)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {PYTHON.words}; "
        f"median of {args.rounds} rounds of {args.seconds:g} s\n"
    )
    figures: dict[str, list[Numbers]] = {peer.name: [] for peer in peers}
    with tempfile.TemporaryDirectory(prefix="extproc-peers-") as name, contextlib.ExitStack() as running:
        directory = Path(name)
        directory.chmod(0o755)
        traffic = Program([sys.executable, "-m", "bench.traffic"], directory / "traffic.log")
        running.callback(traffic.stop)
        for _ in range(args.rounds):
            for peer in peers:
                print(f"{peer.name} ...", file=sys.stderr)
                try:
                    numbers = measured(peer, traffic, sizes, directory)
                    left = 0 if peer.name == DIRECT else left_by(peer, traffic, directory)
                except ValueError as error:
                    raise SystemExit(f"{peer.name}: {error}") from None
                figures[peer.name].append({**numbers, "left": left})
    print(table(figures))


if __name__ == "__main__":
    main()
