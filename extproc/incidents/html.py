"""Incidents as one HTML document for a colleague: nothing from outside, no script, whatever clients sent escaped.

Who ran when is a chart in inline SVG. The colours are those of the reader's system, light or dark; on paper light.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from extproc.incidents import report
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Incident

_WIDTH: Final = 900
_LABEL: Final = 150
_ROW: Final = 18
_STYLE: Final = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1c1c; --soft: #666; --line: #ccc; --wait: #c9c9c9;
  --token: #3b78b5; --suspect: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #161616; --text: #e6e6e6; --soft: #9a9a9a; --line: #444;
  --wait: #555; --token: #5b9bd5; --suspect: #ff8a80; } }
@media print { :root { color-scheme: light; --back: #fff; --text: #000; --soft: #444; --line: #999; --wait: #ccc;
  --token: #3b78b5; --suspect: #b3261e; } section { break-before: page; } section:first-of-type { break-before: auto; }
  * { print-color-adjust: exact; } }
body { background: var(--back); color: var(--text); font: 15px/1.45 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.4rem 0 0.3rem; } p, ul, ol { margin: 0.3rem 0; }
code, pre, svg text { font-family: ui-monospace, monospace; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
a { color: var(--token); } .soft, li li { color: var(--soft); } li, svg { break-inside: avoid; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--text); }
.wait { fill: var(--wait); } .token { fill: var(--token); }
svg text.suspect { fill: var(--suspect); font-weight: bold; } rect.suspect { stroke: var(--suspect); }
.moment { stroke: var(--suspect); stroke-dasharray: 4 3; } .axis { stroke: var(--line); }
"""
_HEAD: Final = (
    "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>\n"
    "<meta http-equiv=content-security-policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<meta name=viewport content='width=device-width, initial-scale=1'>\n"
)


def document(
    incidents: Sequence[Incident],
    local_time: Callable[[str], str],
    trace_url: str | None = None,
    where: Sequence[str] = (),
) -> str:
    """The document, whole. `local_time` writes a moment as its reader has it; `where`: the arguments that name the
    journal, for the commands to run next."""
    title = incidents[0].id if len(incidents) == 1 else f"{len(incidents)} incidents"
    sections = "\n".join("\n".join(_section(each, local_time, trace_url, where)) for each in incidents)
    return f"{_HEAD}<title>{escape(title)}</title>\n<style>{_STYLE}</style></head><body>\n{sections}\n</body></html>\n"


def escape(text: str) -> str:
    """Text that is only text, in an element or in a quoted attribute; what cannot be seen is written out."""
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return html.escape(shown.encode("utf-8", "backslashreplace").decode())


def _section(
    incident: Incident, local_time: Callable[[str], str], trace_url: str | None, where: Sequence[str]
) -> Iterator[str]:
    sighting = incident.sighting
    yield f"<section><h1>{escape(report.headline(incident, local_time))}</h1>"
    sure = f"{report.sure(sighting.confidence)} ({sighting.confidence:.2f})"
    yield f"<p class=soft>{escape(incident.id)}, {incident.kind.value}, {sure}, {escape(incident.at)}</p>"
    yield "<h2>What was seen</h2>"
    yield _list(incident.evidence)
    yield from _who(incident)
    yield f"<h2>In flight: {len(incident.in_flight)}</h2>"
    yield from chart(incident)
    yield "<h2>Next</h2><pre>"
    yield "\n".join(_linked(line.strip(), trace_url) for line in report.next_steps(incident, trace_url, where))
    yield "</pre></section>"


def _who(incident: Incident) -> Iterator[str]:
    if incident.verdict == "no_request":
        yield f"<h2>No request is to blame</h2><p>{escape(report.why_nobody(incident))}</p>"
        return
    yield f"<h2>Suspects</h2><p class=soft>That none of them did it: {incident.ranking.nobody:.2f}</p><ol>"
    for suspect in incident.suspects[: report.MOST_SUSPECTS]:
        latch = () if suspect.latch is None else (f"the earlier one: {suspect.latch.id}",)
        reasons = _list([*suspect.reasons, *latch])
        yield f"<li><code>{escape(suspect.flight.id)}</code> {suspect.score:.2f}{reasons}</li>"
    yield "</ol>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _linked(line: str, trace_url: str | None) -> str:
    text = escape(line)
    return f'<a href="{text}" rel=noreferrer>{text}</a>' if trace_url and line.startswith(trace_url) else text


def chart(incident: Incident) -> Iterator[str]:
    """Who ran when: a bar for each, light while it waited or was silent, with the moment across them."""
    window = report.window(incident)
    if window is None:
        return
    shown, hidden = report.bars(incident)
    named = {each.flight.id: rank for rank, each in enumerate(incident.suspects[: report.MOST_SUSPECTS], 1)}
    at, height = incident.sighting.at, _ROW * len(shown)
    yield (
        f"<svg viewBox='0 0 {_WIDTH} {height + 34}' role=img aria-label='The exchanges in flight, and the moment'>"
        f"<line class=axis x1={_LABEL} x2={_WIDTH} y1={height} y2={height} />"
    )
    for index, each in enumerate(shown):
        yield from _bar(each, index * _ROW, window, named.get(each.id))
    moment = _x(at, window)
    yield f"<line class=moment x1={moment} x2={moment} y1=0 y2={height + 6} />"
    first, last = window
    yield f"<text x={_LABEL} y={height + 16}>{first - at:+.1f} s</text>"
    anchor = "end" if moment > (_WIDTH + _LABEL) / 2 else "start"
    yield f"<text x={moment} y={height + 30} text-anchor={anchor}>{escape(incident.at)}</text>"
    yield f"<text x={_WIDTH} y={height + 16} text-anchor=end>{last - at:+.1f} s</text></svg>"
    more = f" And {hidden} more." if hidden else ""
    yield f"<p class=soft>Grey: waiting or silent. Blue: giving tokens. Red: suspects, and the moment.{more}</p>"


def _bar(each: Flight, y: int, window: tuple[float, float], rank: int | None) -> Iterator[str]:
    first, last = window
    ended = last if each.ended is None else each.ended
    kind = " class=suspect" if rank else ""
    label = f"{rank}. " if rank else ""
    yield f"<g><title>{escape(f'{each.id} {each.outcome} {each.status or str()}')}</title>"
    yield f"<text x=0 y={y + 12}{kind}>{label}{escape(each.id[-12:])}</text>"
    flows = ((began, over, "token") for began, over in report.flowing(each))
    for began, over, name in ((each.started, ended, "wait"), *flows):
        left, right = _x(max(began, first), window), _x(min(max(over, first), last), window)
        if right > left:
            colour = f"{name} suspect" if rank else name
            yield f"<rect class='{colour}' x={left} y={y + 3} width={round(right - left, 1)} height={_ROW - 6} />"
    yield "</g>"


def _x(at: float, window: tuple[float, float]) -> float:
    first, last = window
    return round(_LABEL + (_WIDTH - _LABEL) * min(max((at - first) / (last - first), 0.0), 1.0), 1)
