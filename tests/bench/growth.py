"""`make bench-growth`: whether the cost of a request or a token grows with what the recorder has to carry.

Each series is one recorder (`durability: write`) with its own Envoy, in which one thing grows: requests served,
segments in the journal, the size of bodies, open streams. Each point is taken beside the server that does
nothing, so that what grows is a ratio, and not the load of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import measures
from bench.measures import Numbers, Sizes
from bench.processes import Program
from bench.targets import Stack, Target
from bench.traffic import SHORT_BODY

RECORDER = Target("e", "extproc, `durability: write`", "extproc", durability="write")
BESIDE = Target("c", "no-op, our HTTP/2", "noop_http2")
BAR = 40


@dataclasses.dataclass(frozen=True)
class Point:
    """How far it has grown, and microseconds of CPU for a request or a chunk: the recorder's, the no-op's beside it."""

    grown: float
    us: float
    beside_us: float

    @property
    def ratio(self) -> float:
        """What other work on the machine does to both is not in it."""
        return self.us / self.beside_us


def slope(points: Sequence[Point]) -> float:
    """The least-squares slope of the ratio, from the first point to the last."""
    grown_mean = sum(each.grown for each in points) / len(points)
    ratio_mean = sum(each.ratio for each in points) / len(points)
    spread = sum((each.grown - grown_mean) ** 2 for each in points)
    together = sum((each.grown - grown_mean) * (each.ratio - ratio_mean) for each in points)
    return together / spread * (points[-1].grown - points[0].grown) if spread else 0.0


def table(title: str, unit: str, points: Sequence[Point]) -> str:
    """A series as a table with bars, and its slope."""
    top = max(each.ratio for each in points)
    lines = [f"### {title}\n", f"| {unit} | CPU, us | no-op's, us | ratio | |", "|---:|---:|---:|---:|---|"]
    for each in points:
        bar = "#" * max(1, round(BAR * each.ratio / top))
        lines.append(f"| {each.grown:,.0f} | {each.us:,.1f} | {each.beside_us:,.1f} | {each.ratio:.2f} | `{bar}` |")
    return "\n".join([*lines, "", f"Slope: {slope(points):+.2f} from the first point to the last.", ""])


Measured = tuple[float, float]
"""How far it has grown, and the CPU time of one."""


def requests(stack: Stack, sizes: Sizes, _step: int) -> Measured:
    """By requests served in one process."""
    spent = request(stack, sizes)
    return float(stack.envoy.counters()["requests"]), spent


def segments(stack: Stack, sizes: Sizes, _step: int) -> Measured:
    """By segments in the journal."""
    spent = request(stack, sizes)
    return float(len(list(stack.server.log.parent.glob("data/segments/*"))) if stack.server else 0), spent


def bodies(stack: Stack, sizes: Sizes, step: int) -> Measured:
    """By the bytes of a request's body: ten times as many at each step."""
    size = 1000 * 10**step
    body = SHORT_BODY.replace("Be brief.", "x" * (size - len(SHORT_BODY) + len("Be brief.")))
    return float(size), request(stack, sizes, body)


def streams(stack: Stack, sizes: Sizes, step: int) -> Measured:
    """By open streams, at the same rate of chunks."""
    count = (1, 10, 100, 1000, 5000)[step]
    measures.open_streams(stack, count)
    measures.ask(stack.traffic, do="pace", rate=sizes.chunk_rate)
    spent = measures.over(stack, sizes)
    measures.ask(stack.traffic, do="close")
    return float(count), spent["server_cpu"] / spent["chunks"] * 1e6


def request(stack: Stack, sizes: Sizes, body: str = SHORT_BODY) -> float:
    """The CPU time of a request."""
    numbers: Numbers = {}
    with measures.spent(stack, numbers):
        measures.wrk(stack, sizes.connections, sizes.seconds, body)
    return numbers["server_cpu"] / numbers["requests"] * 1e6


SMALL_SEGMENTS: Mapping[str, str] = {"EXTPROC_SEGMENT_BYTES": "65536"}
SERIES: tuple[tuple[str, str, Callable[[Stack, Sizes, int], Measured], int, Mapping[str, str]], ...] = (
    ("A request, over those served", "requests", requests, 20, {}),
    ("A request, over the segments in the journal", "segments", segments, 20, SMALL_SEGMENTS),
    ("A request, over the size of its body", "bytes", bodies, 6, {}),
    ("A chunk, over the open streams", "streams", streams, 5, {}),
)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="make bench-growth ARGS=...", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="length of one point (20)")
    parser.add_argument("--steps", type=int, default=20, help="points of a series, at most (20)")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {args.seconds:g} s a point\n")
    for title, unit, one, steps, settings in SERIES:
        with contextlib.ExitStack() as running:
            directory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="extproc-growth-")))
            traffic = Program([sys.executable, "-m", "bench.traffic"], directory / "traffic.log")
            running.callback(traffic.stop)
            stacks = []
            for target in (RECORDER, BESIDE):
                target_stack = Stack(target, directory / target.letter, traffic, settings)
                running.callback(target_stack.stop)
                measures.wrk(target_stack, 16, 1)
                stacks.append(target_stack)
            points = []
            for step in range(min(steps, args.steps)):
                (grown, us), (_, beside_us) = (one(stack, Sizes(args.seconds), step) for stack in stacks)
                points.append(Point(grown, us, beside_us))
        print(table(title, unit, points), flush=True)


if __name__ == "__main__":
    main()
