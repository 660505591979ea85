"""How well killers are named: `python tests/forensics/table.py [SEEDS] [simulated]` plays all, and writes the table.

Rows are played in simulated fleets, with SEEDS seeds each (1); `make forensics` plays ten. Healthy traffic is an hour
of each kind. Each row is played once through the real Envoy, too, and two of the real deaths are proven against the
demo engine; `simulated` leaves Envoy out, which saves five minutes. What is played on a real vLLM is told in the
document by hand.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from forensics import test_prove  # noqa: E402
from forensics.scenarios import test_scenes  # noqa: E402
from support import scenes  # noqa: E402
from support.mortal import Mortal  # noqa: E402
from support.poison import ROWS  # noqa: E402
from support.simulated import HEALTHY, at_death, healthy, place, play, stop  # noqa: E402

from extproc.incidents.incident import incidents  # noqa: E402

DOCUMENT: Final = ROOT / "docs" / "forensics.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
STOPS: Final = ("frames", "cut", "500", "hang", "null", "keep-500", "memory", "freeze, cut")
Job = tuple[str, str, int]


def job(asked: Job) -> tuple[str, int | None]:
    """The group of one play, and the place of the killer; of what has none, how many were found or accused."""
    kind, name, seed = asked
    if kind == "healthy":
        return "healthy", len(incidents(healthy(name, seed, 3600).flights))
    if kind == "stop":
        return "stop", sum(each.verdict == "suspects" for each in incidents(stop(name, seed).flights))
    row = next(each for each in ROWS if each.name == name)
    played = play(row, seed)
    found = at_death(row, played)
    return row.how, None if found is None else place(found, played.guilty[-1])


def lines(results: Iterable[tuple[str, int | None]], seeds: int) -> list[str]:
    """The table."""
    groups: dict[str, list[int | None]] = defaultdict(list)
    for group, found in results:
        groups[group].append(found)
    hours, stops = groups.pop("healthy"), groups.pop("stop")
    everything = [each for places in groups.values() for each in places]
    table = ["| how the engine died | deaths | killer first | among the first three | mean place | not named |"]
    table += ["|---|---|---|---|---|---|"]
    table += [_line(how, places) for how, places in sorted(groups.items())] + [_line("all", everything)]
    return [
        f"Every row of `tests/support/poison.py` in simulated fleets, {seeds} of each, by `tests/forensics/table.py`:",
        "",
        *table,
        "",
        f"False incidents in {len(hours)} hours of traffic in which nothing died: {sum(each or 0 for each in hours)}.",
        f"Requests accused of {2 * len(stops)} stops of processes: {sum(each or 0 for each in stops)}.",
    ]


def _line(name: str, places: list[int | None]) -> str:
    named = [each for each in places if each is not None]
    first, three = sum(each == 1 for each in named), sum(each <= 3 for each in named)
    mean = sum(named) / len(named) if named else 0.0
    shares = " | ".join(f"{100 * each / len(places):.0f} %" for each in (first, three))
    return f"| {name} | {len(places)} | {shares} | {mean:.2f} | {len(places) - len(named)} |"


def behind_envoy(directory: Path) -> str:
    """Every row once through the real Envoy: how many were named, and how soon."""
    rows = test_scenes.rows(everything=True)
    size = test_scenes.GROUP
    groups = [rows[first : first + size] for first in range(0, len(rows), size)]
    played = [each for number, group in enumerate(groups) for each in scenes.play(directory / str(number), group)]
    first, three = (sum((each.rank or 99) <= most for each in played) for most in (1, 3))
    seconds = [each.seconds for each in played if each.seconds is not None and each.rank is not None]
    missed = [f"{each.row.name} ({each.rank or 'not named'})" for each in played if (each.rank or 99) > 3]
    return (
        f"Through the real Envoy: {first} of {len(played)} first, {three} among the first three, told after"
        f" {statistics.median(seconds):.1f} s (median) and {max(seconds):.1f} s at most."
        + (f" Missed: {', '.join(missed)}." if missed else "")
    )


def proofs(directory: Path) -> Iterable[str]:
    """What it takes to prove a killer, and a latched pair, of the real deaths."""
    for what, journal, rule in (
        ("a killer", test_prove.TEXT, test_prove.TEXT_RULE),
        ("a latched pair", test_prove.LATCHED, test_prove.LATCH_RULE),
    ):
        with Mortal(rule) as server:
            _, proof = test_prove.bisect(journal, server.url, directory / journal.name)
        yield f"{proof['tries']} tries and {proof['restarts']} restarts to prove {what} (`{proof['verdict']}`)"


def main(seeds: int, *, envoy: bool) -> None:
    """Play all, and write."""
    jobs: list[Job] = [("row", row.name, seed) for row in ROWS for seed in range(seeds)]
    jobs += [("healthy", kind, seed) for kind in HEALTHY for seed in range(seeds)]
    jobs += [("stop", how, seed) for how in STOPS for seed in range(seeds)]
    with multiprocessing.Pool(2) as pool:
        table = lines(pool.imap_unordered(job, jobs), seeds)
    with tempfile.TemporaryDirectory() as directory:
        table += [behind_envoy(Path(directory))] if envoy else []
        table += [f"Proof, the request made smallest included: {'; '.join(proofs(Path(directory)))}."]
    text = DOCUMENT.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text("\n".join([f"{before}{BEGIN}", "", *table, "", after]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, envoy="simulated" not in sys.argv[2:])
