"""From the rounds' numbers to the table and the list of aims.

A figure is the median of the rounds. A ratio is taken within each round, and then the median of these, because the
machine is never as fast in one minute as in the next.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from bench.measures import Numbers
from bench.targets import TARGETS

Round = Mapping[str, Numbers]
"""By the target's letter."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the table."""

    title: str
    number: str
    shown: str
    scale: float = 1


COLUMNS = (
    Column("requests/s at 16", "requests_per_second", "{:,.0f}"),
    Column("p50 at 1, ms", "p50_us", "{:.2f}", 1e-3),
    Column("p99 at 1, ms", "p99_us", "{:.2f}", 1e-3),
    Column("CPU a request, us", "server_us", "{:.0f}"),
    Column("Envoy's, us", "envoy_us", "{:.0f}"),
    Column("CPU an SSE chunk, us", "chunk_server_us", "{:.0f}"),
    Column("Envoy's, us", "chunk_envoy_us", "{:.0f}"),
    Column("chunks/s at most", "most_chunks_per_second", "{:,.0f}"),
    Column("RSS at 1,000 streams, MB", "server_rss", "{:.0f}", 1e-6),
)


@dataclasses.dataclass(frozen=True)
class Aim:
    """A promise about one figure of each round. `most`: it may not be over the limit; else not under it."""

    text: str
    needs: str
    figure: Callable[[Round], float]
    limit: float
    shown: str = "{:.2f}"
    most: bool = True


def aims(sync_ms: float) -> tuple[Aim, ...]:
    """The aims; `sync_ms` is what one sync costs on this disk."""

    def ratio(number: str, target: str, base: str) -> Callable[[Round], float]:
        return lambda numbers: numbers[target][number] / numbers[base][number]

    return (
        Aim("CPU a request, (c) to (d): the transport alone", "cd", ratio("server_us", "c", "d"), 0.5),
        Aim("CPU a request, (e) to (d)", "de", ratio("server_us", "e", "d"), 1.8),
        Aim("CPU an SSE chunk, (e) to (d)", "de", ratio("chunk_server_us", "e", "d"), 0.8),
        Aim("CPU an SSE chunk at most chunks/s, (e) to (d)", "de", ratio("most_server_us", "e", "d"), 1.9),
        Aim("Envoy's CPU a request, (e) to (d)", "de", ratio("envoy_us", "e", "d"), 1),
        Aim("requests/s, (e) to (b)", "be", ratio("requests_per_second", "e", "b"), 1.2, most=False),
        Aim("CPU a request, (f) to (d)", "df", ratio("server_us", "f", "d"), 2.5),
        Aim("requests/s, (g) to (d)", "dg", ratio("requests_per_second", "g", "d"), 0.9, most=False),
        Aim("CPU a request, (f) to (h): the access log's share", "fh", ratio("server_us", "f", "h"), 1.1),
        Aim("CPU a request, (j) to (i): of metrics and spans", "ij", ratio("server_us", "j", "i"), 1.05),
        Aim(
            f"ms that (f) adds to the p50 of (d): two syncs ({2 * sync_ms:.2f}) and 0.50",
            "df",
            lambda numbers: (numbers["f"]["p50_us"] - numbers["d"]["p50_us"]) / 1e3,
            2 * sync_ms + 0.5,
        ),
        Aim(
            "MB with 1,000 open streams, (f)",
            "f",
            lambda numbers: numbers["f"]["server_rss"] / 1e6,
            60,
            "{:.0f}",
        ),
    )


def table(rounds: Sequence[Round]) -> str:
    """The Markdown table of the medians."""
    lines = [
        "| | " + " | ".join(column.title for column in COLUMNS) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for target in TARGETS:
        if target.letter in rounds[0]:
            cells = [cell(column, [numbers[target.letter] for numbers in rounds]) for column in COLUMNS]
            lines.append(f"| ({target.letter}) {target.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(column: Column, numbers: Sequence[Numbers]) -> str:
    """One figure, or nothing where there is none: Envoy alone has no server beside it."""
    figure = statistics.median(one[column.number] for one in numbers) * column.scale
    return column.shown.format(figure) if figure else ""


def verdicts(rounds: Sequence[Round], sync_ms: float) -> list[str]:
    """A line for each aim whose targets were measured: met, or missed by how much."""
    lines = []
    for aim in aims(sync_ms):
        if all(letter in rounds[0] for letter in aim.needs):
            figures = sorted(aim.figure(numbers) for numbers in rounds)
            figure = statistics.median(figures)
            met = figure <= aim.limit if aim.most else figure >= aim.limit
            shown, limit, *spread = (aim.shown.format(one) for one in (figure, aim.limit, figures[0], figures[-1]))
            missed = "met" if met else "MISSED by " + aim.shown.format(abs(figure - aim.limit))
            bound = "at most" if aim.most else "at least"
            lines.append(f"- {missed}: {aim.text}: {shown} ({' to '.join(spread)}), {bound} {limit}")
    return lines


def notes(rounds: Sequence[Round]) -> list[str]:
    """What the table does not show but its reader may doubt."""

    def each(number: str, shown: str, kinds: str = "none noop_aio noop_http2 go extproc") -> str:
        return ", ".join(
            f"({target.letter}) " + shown.format(statistics.median(one[target.letter][number] for one in rounds))
            for target in TARGETS
            if target.letter in rounds[0] and target.kind in kinds.split()
        )

    servers = "noop_aio noop_http2 go extproc"
    return [
        f"- ext_proc messages a request: {each('messages', '{:.2f}', servers)}",
        f"- ext_proc messages an SSE chunk: {each('chunk_messages', '{:.2f}', servers)}",
        f"- CPU of the recorder's supervisor, us a request: {each('supervisor_us', '{:.1f}', 'extproc')}",
        f"- CPU of the recorder's follower, us a request under way: {each('follower_us', '{:.0f}', 'extproc')}",
        f"- CPU an SSE chunk at most chunks/s, us: {each('most_server_us', '{:.0f}', servers)}",
        f"- cores that the backend took for requests: {each('backend_share', '{:.2f}')}",
        f"- cores that backend and client took at most chunks/s: {each('most_traffic_share', '{:.2f}')}",
    ]
