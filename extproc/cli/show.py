"""`extproc show ID`: one exchange for a person, as JSON, or the exact bytes of one of its bodies."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli import options, output, view
from extproc.cli.completion import complete_id
from extproc.core import encoding
from extproc.core.encoding import Decoder
from extproc.errors import ExtprocError, JournalError
from extproc.export.bodies import assembled
from extproc.export.jsonl import with_bodies
from extproc.fleet.span import Span
from extproc.history import bodies
from extproc.history.headers import header_list, header_text
from extproc.history.join import Exchange

SHOWN_CHARACTERS: Final = 20_000
"""More of a body than this is of no use on a screen: `--body` writes all of it."""

NOTICED_MS: Final = 1000
"""A pause within an answer that is worth a line."""

_READ_BYTES: Final = 1024 * 1024
"""JSON longer than this is not laid out, only shown."""


# For a person ----------------------------------------------------------------------------------------------


def describe(exchange: Exchange, jaeger_url: str) -> Iterator[str]:
    """The lines of the page, escaped and coloured."""
    state = view.outcome(exchange)
    title = f"{exchange.get('method') or '?'} {exchange.get('path') or '?'}"
    status = exchange.get("status")
    answer = "no answer" if status is None else str(status)
    yield output.styled(output.escape(title), bold=True)
    colour = view.colour(exchange)
    yield f"{output.styled(output.escape(f'{answer}  {state}'), fg=colour)}: {view.meaning(exchange)}"
    yield ""
    yield from _pairs(_about(exchange, jaeger_url))
    llm = exchange.get("llm")
    if llm:
        yield from _section("LLM")
        yield from _pairs((name, _error(value) if name == "error" else value) for name, value in llm.items())
    yield from _direction(exchange, "request")
    yield from _direction(exchange, "response")
    protocol = exchange.get("protocol") or {}
    if any(protocol.values()):
        yield from _section("Protocol: messages after the end")
        yield from _pairs(protocol.items())
    envoy = exchange.get("envoy")
    if envoy:
        yield from _section("Envoy's access log")
        yield from _pairs(envoy.items())


def _about(exchange: Exchange, jaeger_url: str) -> Iterator[tuple[str, Any]]:
    started = exchange.get("started_at")
    yield "id", exchange.get("id")
    yield "started", f"{view.local_time(started)} ({started})"
    yield "took", _times(exchange)
    yield "silent", _silence(exchange)
    yield "so far", _progress(exchange)
    yield "client", exchange.get("client")
    yield "authority", exchange.get("authority")
    yield "scheme", exchange.get("scheme")
    yield "upstream", exchange.get("upstream")
    yield "cluster", exchange.get("cluster")
    yield "route", exchange.get("route")
    yield "flags", " ".join(map(str, exchange.get("response_flags") or ()))
    yield "details", exchange.get("response_code_details")
    yield "attempts", exchange.get("attempts")
    yield from (("failed", _attempt(attempt)) for attempt in exchange.get("failed_attempts") or ())
    yield "access log", "missing" if exchange.get("access_log") == "missing" else None
    yield "integrity", [_finding(finding) for finding in exchange.get("integrity") or ()]
    yield "request id", exchange.get("request_id")
    yield "trace", exchange.get("trace_id")
    yield "span", exchange.get("span_id")
    yield "jaeger", f"{jaeger_url}/trace/{exchange.get('trace_id')}" if _is_sampled(exchange) else None
    worker, boot, seq = (exchange.get(name) for name in ("worker", "boot_id", "seq"))
    yield "recorded", f"worker {worker}, boot {boot}, line {seq}"


def _is_sampled(exchange: Exchange) -> bool:
    """Whether there is a span of it, by the flags of its trace context."""
    return exchange.begun is not None and bool((exchange.begun.trace_flags or 0) & 1)


def _finding(finding: Mapping[str, Any]) -> str:
    direction, envoy, recorded = (finding.get(name) for name in ("direction", "envoy", "recorded"))
    return f"{direction}: Envoy counted {envoy} bytes, {recorded} were recorded"


def _attempt(attempt: Mapping[str, Any]) -> str:
    """Where it went, what came of it, how long that took."""
    flags, failure = attempt.get("response_flags") or (), attempt.get("upstream_failure")
    said = [attempt.get("status"), *flags, f"({failure})" if failure else None]
    what = " ".join(str(each) for each in said if each is not None)
    where = f"{attempt.get('upstream')} of {attempt.get('cluster')}"
    return f"{where}: {what}, after {view.duration(attempt.get('duration_ms'))}"


def _times(exchange: Exchange) -> str:
    response = exchange.get("response") or {}
    parts = [view.duration(exchange.get("duration_ms"))]
    for text, value in (
        ("first byte after", response.get("first_byte_ms")),
        ("first token after", (exchange.get("llm") or {}).get("ttft_ms")),
        ("last byte after", response.get("last_byte_ms")),
    ):
        if value is not None:
            parts.append(f"{text} {view.duration(value)}")
    return ", ".join(part for part in parts if part)


def _silence(exchange: Exchange) -> str | None:
    """The longest pause within the answer, where it is one that somebody would have noticed."""
    response = exchange.get("response") or {}
    lasted, began, byte = (response.get(name) for name in ("max_silence_ms", "silence_at_ms", "silence_at_byte"))
    if not isinstance(lasted, int | float) or lasted < NOTICED_MS:
        return None
    return f"for {view.duration(lasted)}, from {view.duration(began)} on, after {byte} bytes of the answer"


def _error(error: Any) -> str | None:
    """What the backend said of its failure: type and code, where it gave them, and its words."""
    if not isinstance(error, Mapping):
        return None
    named = " ".join(str(error[name]) for name in ("type", "code") if error.get(name) is not None)
    return ": ".join(part for part in (named, error.get("message")) if part) or "without a reason"


def _progress(exchange: Exchange) -> str | None:
    """How far one had come that has not ended, or was cut off by the recorder's own death."""
    progress = exchange.get("progress")
    if not progress:
        return None
    got = f"{progress['response_bytes']} bytes of the answer in {progress['response_chunks']} chunks"
    token, last = progress["first_token_ms"], progress["last_chunk_at"]
    parts = [f"{progress['request_bytes']} bytes of the request", got]
    if token is not None:
        parts.append(f"first token after {view.duration(token)}")
    if last is not None:
        parts.append(f"the last bytes at {view.local_time(last)}")
    return ", ".join(parts)


def _pairs(pairs: Any) -> Iterator[str]:
    for name, value in pairs:
        if value is None or value in ("", [], {}):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"  {output.styled(f'{output.escape(str(name)):<14}', dim=True)} {output.escape(text)}"


def _section(title: str) -> Iterator[str]:
    yield ""
    yield output.styled(title, bold=True)


def _direction(exchange: Exchange, direction: str) -> Iterator[str]:
    part = exchange.get(direction)
    if part is None:
        yield from _section(f"{direction.capitalize()}: none was seen")
        return
    chunks = part.get("chunks")
    ended = part.get("ended_by")
    facts = [f"{part.get('bytes')} bytes in {chunks} {'chunk' if chunks == 1 else 'chunks'}"]
    facts.append(f"ended by {ended}" if ended else "not ended")
    if part.get("truncated"):
        facts.append("not whole")
    if part.get("body_lost"):
        facts.append("its body could not be recorded")
    yield from _section(f"{direction.capitalize()}: {output.escape(', '.join(facts))}")
    yield from _pairs([("sha256", part.get("sha256"))])
    for name in ("headers", "trailers"):
        fields = header_list(part, name)
        if fields:
            yield f"  {output.styled(name, dim=True)}"
            for key, value in fields:
                yield f"    {output.escape(key)}: {output.escape(header_text(value))}"
    yield from _body(exchange, direction, part)


def _body(exchange: Exchange, direction: str, part: Mapping[str, Any]) -> Iterator[str]:
    try:
        body = bodies.whole(exchange, direction)
        answer = assembled(exchange) if direction == "response" else None
    except JournalError as error:
        yield from _pairs([("body", str(error))])
        return
    if answer:
        yield f"  {output.styled('answer', dim=True)}"
        yield from _indented(json.dumps(answer, ensure_ascii=False, indent=2))
    elif body:
        yield f"  {output.styled('body', dim=True)}"
        yield from _indented(_readable(body, encoding.of_headers(part.get("headers") or ())))


def _readable(body: bytes, coding: str | None) -> str:
    """A body for the eye: decoded, JSON laid out, bytes that are no text as escapes."""
    decoder = Decoder(coding, _READ_BYTES)
    plain = decoder.feed(body) + decoder.finish() or body
    try:
        if len(plain) < _READ_BYTES:
            return json.dumps(json.loads(plain), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        pass
    return plain[: 4 * SHOWN_CHARACTERS].decode("utf-8", "backslashreplace")


def _indented(text: str) -> Iterator[str]:
    shown = output.escape_text(text[:SHOWN_CHARACTERS])
    for line in shown.split("\n"):
        yield "    " + line
    if len(text) > SHOWN_CHARACTERS:
        yield output.styled("    ... there is more: --body writes all of it", dim=True)


@click.command
@click.argument("id", shell_complete=complete_id)
@click.option(
    "--json", "as_json", is_flag=True, help="As one JSON object, with request.body, response.body, llm.output."
)
@click.option(
    "--body", "direction", type=click.Choice(["request", "response"]), help="Write its exact bytes to stdout."
)
@options.journal_or_bucket
def command(id: str, as_json: bool, direction: str | None, data_dirs: Sequence[Path], config_path: Path | None) -> None:
    """Show one exchange, or write its exact bytes.

    ID is an id from `extproc log`, or enough of its beginning, or at least six characters of its end, to be the only
    one. Or it is Envoy's x-request-id, the id in the response, or a request's id in vLLM's log. `last` is the exchange
    that started last of those that have ended, `last-failed` the last of those whose outcome is not fine.

    \b
    Examples:
      extproc show last-failed
      extproc show 019aa3f2
      extproc show chatcmpl-7398a14e-d072-4fb5-9858-8331ce637b73
      extproc show 019aa3f2 --json
      extproc show 019aa3f2 --body request > request.json
    """
    if as_json and direction:
        raise click.UsageError("--json and --body exclude each other.")
    exchange = options.one(id, options.existing(data_dirs, config_path, Span.of_ids([id])))
    if direction:
        body = bodies.whole(exchange, direction)
        if body is None:
            raise ExtprocError(f"{exchange.get('id')}: there is no recorded body of the {direction}")
        sys.stdout.flush()
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
    elif as_json:
        sys.stdout.writelines(with_bodies(exchange))
        sys.stdout.write("\n")
    else:
        for line in describe(exchange, options.jaeger_url(config_path)):
            sys.stdout.write(line + "\n")
