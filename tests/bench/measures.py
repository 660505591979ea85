"""The measurements of one stack: each takes a running stack and gives numbers by name.

CPU times are in seconds, sizes in bytes, latencies in microseconds. A measurement that lost or refused a request
ends the bench: figures of a stack that does not work mean nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import Program, cpu_seconds, resident_bytes
from bench.targets import Stack
from bench.traffic import SHORT_BODY

Numbers = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How long and how wide one measurement is."""

    seconds: float
    connections: int = 16
    streams: int = 200
    chunk_rate: int = 4000
    open_streams: int = 1000
    open_chunks: int = 20
    warm_up: float = 0.5


@contextmanager
def spent(stack: Stack, numbers: Numbers) -> Iterator[None]:
    """Add to `numbers` what each side spends inside the block."""

    pids = stack.worker_pids

    def clocks() -> Numbers:
        if stack.worker_pids != pids:
            raise SystemExit(f"({stack.target.letter}) {stack.target.name}: a worker has died")
        workers = sum(map(cpu_seconds, pids))
        supervisor = cpu_seconds(stack.supervisor_pid) if stack.supervisor_pid else 0
        follower = cpu_seconds(stack.follower_pid) if stack.follower_pid else 0
        return {
            "server_cpu": workers,
            "supervisor_cpu": supervisor,
            "follower_cpu": follower,
            "envoy_cpu": cpu_seconds(stack.envoy.pid),
            "traffic_cpu": cpu_seconds(stack.traffic.pid),
            "wall": time.perf_counter(),
        }

    before = {**stack.envoy.counters(), **clocks()}
    yield
    after = {**clocks(), **stack.envoy.counters()}
    numbers.update({name: after[name] - before[name] for name in after})


def ask(traffic: Program, **order: Any) -> dict[str, int]:
    """Have the traffic process do something."""
    answer: dict[str, int] = json.loads(traffic.ask(json.dumps(order)))
    return answer


def wrk(stack: Stack, connections: int, seconds: float, content: str = SHORT_BODY) -> Numbers:
    """POSTs to a stack, all of which must be answered well."""
    try:
        return load(stack.envoy.port, stack.traffic.log, connections, seconds, content)
    except ValueError as error:
        raise SystemExit(f"({stack.target.letter}) {stack.target.name}: {error}") from None


def load(port: int, beside: Path, connections: int, seconds: float, content: str = SHORT_BODY) -> Numbers:
    """POSTs for `seconds` over `connections`, each as soon as the last has been answered. The body is put into a file
    beside another one. Raises ValueError when one fails."""
    body = beside.with_name("short-post.json")
    body.write_text(content)
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"),
            *("-s", Path(__file__).with_name("post.lua"), f"http://127.0.0.1:{port}/"),
        ],
        env={**os.environ, "BENCH_BODY": str(body)},
        capture_output=True,
        text=True,
        check=True,
    )
    result: Numbers = json.loads(done.stdout.partition("result ")[2])
    if result["errors"]:
        raise ValueError(done.stdout)
    return result


def requests(stack: Stack, sizes: Sizes) -> Numbers:
    """Requests a second at 16 connections, and the CPU time of one."""
    wrk(stack, sizes.connections, sizes.warm_up)
    numbers: Numbers = {}
    with spent(stack, numbers):
        load = wrk(stack, sizes.connections, sizes.seconds)
    # A 16th of what wrk does not count is under way when it stops; Envoy's own counters leave nothing out.
    count = numbers["requests"]
    if numbers["ok"] < count - 2 * sizes.connections:
        raise SystemExit(f"({stack.target.letter}) {stack.target.name}: {numbers}")
    return {
        "requests_per_second": load["requests"] / load["duration_us"] * 1e6,
        "server_us": numbers["server_cpu"] / count * 1e6,
        "supervisor_us": numbers["supervisor_cpu"] / count * 1e6,
        "follower_us": numbers["follower_cpu"] / count * 1e6,
        "envoy_us": numbers["envoy_cpu"] / count * 1e6,
        "messages": numbers["messages"] / count,
        "backend_share": numbers["traffic_cpu"] / numbers["wall"],
        "p50_16_us": load["p50_us"],
        "p99_16_us": load["p99_us"],
    }


def latency(stack: Stack, sizes: Sizes) -> Numbers:
    """Latency at one connection."""
    wrk(stack, 1, sizes.warm_up)
    load = wrk(stack, 1, sizes.seconds)
    return {
        "p50_us": load["p50_us"],
        "p99_us": load["p99_us"],
        "requests_per_second_1": load["requests"] / sizes.seconds,
    }


def chunks(stack: Stack, sizes: Sizes) -> Numbers:
    """CPU time of an SSE chunk at a fixed rate over 200 streams, and the chunks/s that get through at most."""
    open_streams(stack, sizes.streams)
    ask(stack.traffic, do="pace", rate=sizes.chunk_rate)
    paced = over(stack, sizes)
    ask(stack.traffic, do="loop")
    most = over(stack, sizes)
    ask(stack.traffic, do="close")
    return {
        "chunk_server_us": paced["server_cpu"] / paced["chunks"] * 1e6,
        "chunk_supervisor_us": paced["supervisor_cpu"] / paced["chunks"] * 1e6,
        "chunk_envoy_us": paced["envoy_cpu"] / paced["chunks"] * 1e6,
        "chunk_messages": paced["messages"] / paced["chunks"],
        "chunk_rate": paced["chunks"] / paced["wall"],
        "most_chunks_per_second": most["chunks"] / most["wall"],
        "most_server_us": most["server_cpu"] / most["chunks"] * 1e6,
        "most_envoy_us": most["envoy_cpu"] / most["chunks"] * 1e6,
        "most_messages": most["messages"] / most["chunks"],
        "most_traffic_share": most["traffic_cpu"] / most["wall"],
    }


def memory(stack: Stack, sizes: Sizes) -> Numbers:
    """Resident memory with 1,000 SSE streams open that have had some chunks each."""
    before = sum(map(resident_bytes, stack.worker_pids))
    open_streams(stack, sizes.open_streams)
    start = ask(stack.traffic, do="count")["chunks"]
    ask(stack.traffic, do="pace", rate=sizes.chunk_rate)
    while ask(stack.traffic, do="count")["chunks"] - start < sizes.open_streams * sizes.open_chunks:
        time.sleep(0.1)
    numbers: Numbers = {
        "server_rss_before": before,
        "server_rss": sum(map(resident_bytes, stack.worker_pids)),
        "supervisor_rss": resident_bytes(stack.supervisor_pid) if stack.supervisor_pid else 0,
        "envoy_rss": resident_bytes(stack.envoy.pid),
    }
    ask(stack.traffic, do="close")
    return numbers


def open_streams(stack: Stack, streams: int) -> None:
    """Open SSE streams to a stack, all of which must be accepted."""
    try:
        opened(stack.traffic, stack.envoy.port, streams)
    except ValueError as error:
        raise SystemExit(f"({stack.target.letter}) {stack.target.name}: {error}") from None


def opened(traffic: Program, port: int, streams: int) -> None:
    """Open SSE streams. Raises ValueError when one is not accepted."""
    answer = ask(traffic, do="open", port=port, streams=streams)
    if answer != {"open": streams, "refused": 0}:
        raise ValueError(f"of {streams} streams: {answer}")


def over(stack: Stack, sizes: Sizes) -> Numbers:
    """What is spent and delivered in one measurement of the traffic that is running."""
    time.sleep(sizes.warm_up)
    numbers: Numbers = {}
    with spent(stack, numbers):
        start = ask(stack.traffic, do="count")["chunks"]
        time.sleep(sizes.seconds)
        numbers["chunks"] = ask(stack.traffic, do="count")["chunks"] - start
    return numbers


MEASURES: tuple[Callable[[Stack, Sizes], Numbers], ...] = (requests, latency, chunks, memory)


def sync_seconds(directory: Path, writes: int = 300) -> float:
    """The median time of one fdatasync after 1.5 KB appended, on the disk of the data directory."""
    times = []
    path = directory / "sync"
    with path.open("wb", buffering=0) as file:
        for _ in range(writes):
            file.write(b"x" * 1536)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return sorted(times)[writes // 2]
