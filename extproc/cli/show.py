"""`extproc show ID`: one exchange for a person, as JSON, or the exact bytes of one of its bodies."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli import options, output, view
from extproc.cli.completion import complete_id
from extproc.core import encoding
from extproc.core.encoding import Decoder
from extproc.core.joined import NO_LLM, NO_RESPONSE, Difference, Error
from extproc.core.record import plain
from extproc.core.records import Attempt, Headers
from extproc.errors import ExtprocError, JournalError
from extproc.export.bodies import assembled
from extproc.export.jsonl import with_bodies
from extproc.fleet.span import Span
from extproc.history import bodies
from extproc.history.headers import header_text
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
    title = f"{exchange.method or '?'} {exchange.path or '?'}"
    status = exchange.status
    answer = "no answer" if status is None else str(status)
    yield output.styled(output.escape(title), bold=True)
    colour = view.colour(exchange)
    yield f"{output.styled(output.escape(f'{answer}  {state}'), fg=colour)}: {view.meaning(exchange)}"
    yield ""
    yield from _pairs(_about(exchange, jaeger_url))
    if exchange.llm is not None:
        told = plain(exchange.llm)
        if exchange.llm.error:
            told["error"] = _error(exchange.llm.error)
        yield from _section("LLM")
        yield from _pairs(told.items())
    yield from _direction(exchange, "request")
    yield from _direction(exchange, "response")
    protocol = plain(exchange.protocol)
    if any(protocol.values()):
        yield from _section("Protocol: messages after the end")
        yield from _pairs(protocol.items())
    if exchange.envoy is not None:
        yield from _section("Envoy's access log")
        yield from _pairs(plain(exchange.envoy).items())


def _about(exchange: Exchange, jaeger_url: str) -> Iterator[tuple[str, Any]]:
    started = exchange.started_at
    yield "id", exchange.id
    yield "started", f"{view.local_time(started)} ({started})"
    yield "took", _times(exchange)
    yield "silent", _silence(exchange)
    yield "so far", _progress(exchange)
    yield "client", exchange.client
    yield "authority", exchange.authority
    yield "scheme", exchange.scheme
    yield "upstream", exchange.upstream
    yield "cluster", exchange.cluster
    yield "route", exchange.route
    yield "flags", " ".join(map(str, exchange.response_flags or ()))
    yield "details", exchange.response_code_details
    yield "attempts", exchange.attempts
    yield from (("failed", _attempt(attempt)) for attempt in exchange.failed_attempts or ())
    yield "access log", "missing" if exchange.access_log == "missing" else None
    yield "integrity", [_finding(finding) for finding in exchange.integrity]
    yield "request id", exchange.request_id
    yield "trace", exchange.trace_id
    yield "span", exchange.span_id
    yield "jaeger", f"{jaeger_url}/trace/{exchange.trace_id}" if _is_sampled(exchange) else None
    yield "recorded", f"worker {exchange.worker}, boot {exchange.boot_id}, line {exchange.seq}"


def _is_sampled(exchange: Exchange) -> bool:
    """Whether there is a span of it, by the flags of its trace context."""
    return exchange.begun is not None and bool((exchange.begun.trace_flags or 0) & 1)


def _finding(finding: Difference) -> str:
    return f"{finding.direction}: Envoy counted {finding.envoy} bytes, {finding.recorded} were recorded"


def _attempt(attempt: Attempt) -> str:
    """Where it went, what came of it, how long that took."""
    failure = f"({attempt.upstream_failure})" if attempt.upstream_failure else None
    said = [attempt.status, *(attempt.response_flags or ()), failure]
    what = " ".join(str(each) for each in said if each is not None)
    return f"{attempt.upstream} of {attempt.cluster}: {what}, after {view.duration(attempt.duration_ms)}"


def _times(exchange: Exchange) -> str:
    response = exchange.response or NO_RESPONSE
    parts = [view.duration(exchange.duration_ms)]
    for text, value in (
        ("first byte after", response.first_byte_ms),
        ("first token after", (exchange.llm or NO_LLM).ttft_ms),
        ("last byte after", response.last_byte_ms),
    ):
        if value is not None:
            parts.append(f"{text} {view.duration(value)}")
    return ", ".join(part for part in parts if part)


def _silence(exchange: Exchange) -> str | None:
    """The longest pause within the answer, where it is one that somebody would have noticed."""
    response = exchange.response or NO_RESPONSE
    lasted, began = response.max_silence_ms, view.duration(response.silence_at_ms)
    if lasted is None or lasted < NOTICED_MS:
        return None
    return f"for {view.duration(lasted)}, from {began} on, after {response.silence_at_byte} bytes of the answer"


def _error(error: Error) -> str:
    """What the backend said of its failure: type and code, where it gave them, and its words."""
    named = " ".join(str(each) for each in (error.type, error.code) if each is not None)
    return ": ".join(part for part in (named, error.message) if part) or "without a reason"


def _progress(exchange: Exchange) -> str | None:
    """How far one had come that has not ended, or was cut off by the recorder's own death."""
    progress = exchange.progress
    if progress is None:
        return None
    got = f"{progress.response_bytes} bytes of the answer in {progress.response_chunks} chunks"
    parts = [f"{progress.request_bytes} bytes of the request", got]
    if progress.first_token_ms is not None:
        parts.append(f"first token after {view.duration(progress.first_token_ms)}")
    if progress.last_chunk_at is not None:
        parts.append(f"the last bytes at {view.local_time(progress.last_chunk_at)}")
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
    part = exchange.request if direction == "request" else exchange.response
    if part is None:
        yield from _section(f"{direction.capitalize()}: none was seen")
        return
    facts = [f"{part.bytes} bytes in {part.chunks} {'chunk' if part.chunks == 1 else 'chunks'}"]
    facts.append(f"ended by {part.ended_by}" if part.ended_by else "not ended")
    if part.truncated:
        facts.append("not whole")
    if part.body_lost:
        facts.append("its body could not be recorded")
    yield from _section(f"{direction.capitalize()}: {output.escape(', '.join(facts))}")
    yield from _pairs([("sha256", part.sha256)])
    for name, fields in (("headers", part.headers), ("trailers", part.trailers)):
        if fields:
            yield f"  {output.styled(name, dim=True)}"
            for key, value in fields:
                yield f"    {output.escape(key)}: {output.escape(header_text(value))}"
    yield from _body(exchange, direction, part.headers or [])


def _body(exchange: Exchange, direction: str, headers: Headers) -> Iterator[str]:
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
        yield from _indented(_readable(body, encoding.of_headers(headers)))


def _readable(body: bytes, coding: str | None) -> str:
    """A body for the eye: decoded, JSON laid out, bytes that are no text as escapes."""
    decoder = Decoder(coding, _READ_BYTES)
    decoded = decoder.feed(body) + decoder.finish() or body
    try:
        if len(decoded) < _READ_BYTES:
            return json.dumps(json.loads(decoded), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        pass
    return decoded[: 4 * SHOWN_CHARACTERS].decode("utf-8", "backslashreplace")


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
            raise ExtprocError(f"{exchange.id}: there is no recorded body of the {direction}")
        sys.stdout.flush()
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
    elif as_json:
        sys.stdout.writelines(with_bodies(exchange))
        sys.stdout.write("\n")
    else:
        for line in describe(exchange, options.jaeger_url(config_path)):
            sys.stdout.write(line + "\n")
