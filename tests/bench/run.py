"""`make bench`: what the recorder costs, side by side with Envoy alone and with servers that do nothing.

Run it as `python tests/bench/run.py`; README.md beside it says what is measured and how.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import follower, interpreter, report
from bench.interpreter import Interpreter
from bench.measures import MEASURES, Numbers, Sizes, sync_seconds
from bench.processes import Program
from bench.targets import TARGETS, Stack, Target, why_not


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the medians are taken (3)")
    parser.add_argument("--seconds", type=float, default=4, help="length of one measurement (4)")
    parser.add_argument("--only", default="a,b,c,d,e,f,g,h,i,j", help="letters of the targets, with commas between")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each round's numbers to FILE as well")
    python = "Python of servers in Python: debian, own, or best: Debian's where its version is ours (best)"
    parser.add_argument("--python", choices=["best", "debian", "own"], default="best", help=python)
    parser.add_argument("--dir", type=Path, help="where the data directories go: their disk is what is synced")
    return parser.parse_args()


def chosen(letters: str) -> list[Target]:
    """The targets that were asked for and can be measured here."""
    wanted = letters.replace(" ", "").split(",")
    if unknown := set(wanted) - {target.letter for target in TARGETS}:
        raise SystemExit(f"--only: no target {', '.join(sorted(unknown))}; there are a to j")
    targets = []
    for target in TARGETS:
        if target.letter in wanted:
            if reason := why_not(target):
                print(f"left out: ({target.letter}) {target.name}: {reason}", file=sys.stderr)
            else:
                targets.append(target)
    return targets


def measure(
    targets: list[Target], directory: Path, sizes: Sizes, number: int, python: Interpreter
) -> dict[str, Numbers]:
    """One round: fresh stacks, all up at once; each measurement goes through all of them before the next begins."""
    order = targets[number % len(targets) :] + targets[: number % len(targets)]
    numbers: dict[str, Numbers] = {target.letter: {} for target in targets}
    with contextlib.ExitStack() as running:
        traffic = Program([sys.executable, "-m", "bench.traffic"], directory / "traffic.log")
        running.callback(traffic.stop)
        stacks = []
        for target in order:
            stack = Stack(target, directory / target.letter, traffic, python=python)
            running.callback(shutil.rmtree, directory / target.letter, ignore_errors=True)
            running.callback(stack.stop)
            stacks.append(stack)
        for one in MEASURES:
            for stack in stacks:
                progress(f"round {number + 1}: {one.__name__} of ({stack.target.letter}) {stack.target.name}")
                numbers[stack.target.letter].update(one(stack, sizes))
    progress("")
    return numbers


def progress(text: str) -> None:
    """Say what is under way, to a person."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def file_system(directory: Path) -> str:
    """The type of the file system that a directory is on."""
    found = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Measure, print, and write the numbers."""
    args = options()
    if not shutil.which("wrk"):
        raise SystemExit("the load generator wrk is not installed: sudo apt-get install wrk")
    targets = chosen(args.only)
    python = interpreter.chosen(args.python)
    load = os.getloadavg()[0]
    sizes = Sizes(args.seconds)
    if args.quick:
        args.rounds = 1
        sizes = Sizes(1, streams=50, chunk_rate=1000, open_streams=100, open_chunks=5, warm_up=0.2)
    # A thousand streams are two thousand sockets, in Envoy and in the process that is backend and client.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    base = args.dir or (Path("/var/tmp") if Path("/var/tmp").is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="extproc-bench-", dir=base) as name:
        directory = Path(name)
        rounds, syncs = [], []
        for number in range(args.rounds):
            syncs.append(sync_seconds(directory) * 1e3)
            rounds.append(measure(targets, directory, sizes, number, python))
        disk = file_system(directory)
    sync_ms = statistics.median(syncs)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, load {load:.1f}, {python.words}"
    print(f"{machine}; median of {args.rounds} rounds of {sizes.seconds:g} s; Envoy with --concurrency 1\n")
    print(report.table(rounds) + "\n")
    print(f"- one fdatasync of 1.5 KB ({disk}): {sync_ms:.2f} ms; an exchange with fsync waits for two")
    print("\n".join(report.notes(rounds)) + "\n")
    print("\n".join(report.verdicts(rounds, sync_ms)) + "\n")
    print(f"The follower, alone, on {interpreter.own().words}:\n")
    for line in follower.lines(1000 if args.quick else follower.EXCHANGES):
        print(line, flush=True)
    if args.json:
        args.json.write_text(
            json.dumps(
                {"machine": machine, "disk": disk, "sync_ms": syncs, "seconds": sizes.seconds, "rounds": rounds},
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
