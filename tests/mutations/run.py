"""Seeded faults: each is put into a copy of the tree, and the tests that should see it are run. All must be caught.

    run.py                 every fault, after the tests were seen to pass without any
    run.py --sample 8      so many, others for each commit
    run.py NAME ...        these

`faults.toml` has them. Prints a line for each, and exits 1 when one was not caught or no longer applies.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FAULTS: Final = Path(__file__).with_name("faults.toml")
SECONDS: Final = 240.0
"""Tests that hang have seen the fault; they are not waited for any longer."""
_NOT_COPIED: Final = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", "*_cache", "__pycache__", "build", "dist", "data", "node_modules"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: in a file of the tree, `old` stands once and becomes `new`; `tests` should see it."""

    name: str
    says: str
    file: str
    old: str
    new: str
    tests: list[str]

    def applied(self, text: str) -> str:
        """The text with the fault in it. Raises ValueError when it no longer applies."""
        count = text.count(self.old)
        if count != 1:
            where = "is not there any more" if not count else f"is there {count} times"
            raise ValueError(f"{self.file}: the text of the fault {where}: {self.old.strip()!r}")
        return text.replace(self.old, self.new)


def faults() -> list[Fault]:
    """All of them."""
    return [Fault(**each) for each in tomllib.loads(FAULTS.read_text())["fault"]]


def sample(every: Sequence[Fault], count: int, commit: str) -> list[Fault]:
    """So many, the same ones for the same commit; from commit to commit all have their turn."""
    turn = int(hashlib.sha256(commit.encode()).hexdigest(), 16)
    step = max(1, len(every) // count)
    return [every[(turn + number * step) % len(every)] for number in range(min(count, len(every)))]


class Trees:
    """Copies of the tree, one for each run at a time."""

    def __init__(self, directory: Path, count: int) -> None:
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(count):
            shutil.copytree(ROOT, directory / str(number), ignore=_NOT_COPIED, symlinks=True)
            self._free.put(directory / str(number))

    def tried(self, fault: Fault) -> tuple[bool, str]:
        """Whether the fault is caught, and the line on it."""
        tree = self._free.get()
        path = tree / fault.file
        before = path.read_text() if path.exists() else ""
        try:
            path.write_text(fault.applied(before))
            began = time.monotonic()
            caught, what = run(tree, fault.tests)
            return caught, f"{what} ({time.monotonic() - began:.0f} s)"
        except (ValueError, OSError) as error:
            return False, f"NO LONGER APPLIES  {error}"
        finally:
            path.write_text(before)
            self._free.put(tree)

    def passes(self, tests: Sequence[str]) -> tuple[bool, str]:
        """Whether these tests pass where nothing was changed, and the line on it."""
        tree = self._free.get()
        try:
            caught, what = run(tree, tests)
        finally:
            self._free.put(tree)
        return not caught and what.startswith("SURVIVED"), what


def run(tree: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Run tests on a tree; whether one failed, and which."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests],
            cwd=tree,
            env={**env, "PYTHONPATH": str(tree)},  # what is tested is this tree, in every process that a test starts
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True, f"caught by a test that hung, of {' '.join(tests)}"
    failed = [
        line.partition(" ")[2].split(" - ")[0]
        for line in done.stdout.splitlines()
        if line.startswith(("FAILED ", "ERROR "))
    ]
    if done.returncode == 0:
        return False, f"SURVIVED           {' '.join(tests)}"
    if done.returncode == 1 and failed:
        return True, f"caught by {failed[0]}"
    return False, f"THE TESTS DO NOT RUN  {' '.join(tests)}: {(done.stdout + done.stderr)[-2000:]}"


def _commit() -> str:
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout.strip()


def main() -> int:
    """Try the faults that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    every = faults()
    chosen = [each for each in every if each.name in asked.names] if asked.names else every
    if asked.sample:
        chosen = sample(chosen, asked.sample, _commit())
    if unknown := {*asked.names} - {each.name for each in every}:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    began, missed = time.monotonic(), []
    with (
        tempfile.TemporaryDirectory(prefix="mutations-") as directory,
        concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool,
    ):
        trees = Trees(Path(directory), asked.jobs)
        if not asked.names and not asked.sample:
            passed, what = trees.passes(sorted({test for each in chosen for test in each.tests}))
            if not passed:
                print(f"The tests fail without any fault: {what}")
                return 1
        for fault, (caught, what) in zip(chosen, pool.map(trees.tried, chosen), strict=True):
            print(f"{fault.name:<34} {what}", flush=True)
            if not caught:
                missed.append(fault.name)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults were caught, in {time.monotonic() - began:.0f} s")
    if missed:
        print(f"not caught: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
