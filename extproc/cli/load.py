"""`extproc load`: a bounded load, and what came of it."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from extproc.cli import output, view
from extproc.errors import ConfigError, StackError
from extproc.history import tally
from extproc.processes import signals

if TYPE_CHECKING:
    from extproc.load.run import Plan, Run

DEFAULT_PATH = "/v1/chat/completions"


def _url(text: str) -> str:
    url = urllib.parse.urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise click.UsageError(f"expected a URL such as http://127.0.0.1:8000, got {text!r}")
    return url._replace(path=DEFAULT_PATH).geturl() if url.path in {"", "/"} else text


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"expected a header such as 'authorization: Bearer KEY', got {line!r}")
        headers[name.strip()] = value.strip()
    return headers


async def _go(plan: Plan) -> Run:
    from extproc.load.run import Run

    run = Run(plan)
    signals.call_in_loop(run.stop)
    with output.Progress("sending") as progress:
        await run.go(progress)
    return run


def summary(run: Run) -> dict[str, Any]:
    """The figures of a run; times in milliseconds. Only whole answers count as requests a second."""
    results = run.results
    good = [result for result in results if result.error is None]
    tokens = [result.output_tokens for result in good if result.output_tokens is not None]
    per_second = 0.0 if not run.seconds else 1 / run.seconds
    return {
        "requests": len(results),
        "errors": len(results) - len(good),
        "error_kinds": dict(Counter(result.error for result in results if result.error).most_common()),
        "seconds": round(run.seconds, 3),
        "requests_per_second": round(len(good) * per_second, 1) if good else None,
        "output_tokens_per_second": round(sum(tokens) * per_second, 1) if tokens else None,
        "duration_ms": _percentiles(result.seconds for result in good),
        "ttft_ms": _percentiles(r.first_token_seconds for r in good if r.first_token_seconds is not None),
        "upstreams": dict(Counter(result.upstream or tally.NONE for result in results).most_common()),
    }


def _percentiles(seconds: Iterator[float]) -> dict[str, float] | None:
    values = sorted(round(1000 * each, 3) for each in seconds)
    if not values:
        return None
    return {f"p{percent}": tally.percentile(values, percent) or 0.0 for percent in (50, 90, 99)} | {"max": values[-1]}


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    requests, errors = figures["requests"], figures["errors"]
    failed = f", {errors} of them failed" if errors else ""
    rate = figures["requests_per_second"]
    yield f"{requests} requests in {figures['seconds']} s{failed}" + (f": {rate} a second" if rate is not None else "")
    if figures["output_tokens_per_second"] is not None:
        yield f"{figures['output_tokens_per_second']} output tokens a second"
    for title, name in (("whole answer", "duration_ms"), ("first token", "ttft_ms")):
        if figures[name]:
            times = ", ".join(f"{key} {view.duration(value)}" for key, value in figures[name].items())
            yield f"{title}: {times}"
    for upstream, count in figures["upstreams"].items():
        yield f"{output.escape(upstream)}: {count} ({100 * count / figures['requests']:.1f}%)"
    for kind, count in figures["error_kinds"].items():
        yield output.styled(f"error: {output.escape(kind)}: {count}", fg="red")


@click.command
@click.argument("url")
@click.option("-n", "requests", type=click.IntRange(1, 10_000_000), default=1000, show_default=True, help="Requests.")
@click.option("-c", "concurrency", type=click.IntRange(1, 10_000), default=10, show_default=True, help="At a time.")
@click.option("--stream", is_flag=True, help="Ask for streamed answers.")
@click.option("--model", default="demo", show_default=True, help="Model to ask for.")
@click.option("--prompt", default="Hello", show_default=True, help="What to ask.")
@click.option("--max-tokens", type=click.IntRange(1), default=32, show_default=True, help="Tokens of an answer.")
@click.option("--timeout", type=click.FloatRange(0.1), default=600.0, show_default=True, help="Seconds for a request.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Header of each request.")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
def command(
    url: str,
    requests: int,
    concurrency: int,
    stream: bool,
    model: str,
    prompt: str,
    max_tokens: int,
    timeout: float,
    headers: Sequence[str],
    as_json: bool,
) -> None:
    """Send a bounded load, and say what came of it.

    URL is a server's, then with /v1/chat/completions, or that of /v1/chat/completions or /v1/completions itself. The
    count for each backend is from Envoy's x-upstream. Ctrl-C ends it, and what was measured until then is printed.
    Only whole answers count as
    requests a second. The exit code is 1 when a request failed.

    \b
    Examples:
      extproc load http://127.0.0.1:8000
      extproc load http://127.0.0.1:8000 -n 200 -c 20 --stream
      extproc load http://127.0.0.1:8000/v1/completions -H 'authorization: Bearer KEY' --json
    """
    try:
        # Only here: the HTTP client is in the extra `stack`.
        from extproc.load.run import Plan
    except ModuleNotFoundError as error:
        raise ConfigError(f"load needs the extra 'stack': pip install 'extproc[stack]' ({error})") from None
    plan = Plan(_url(url), requests, concurrency, stream, model, prompt, max_tokens, timeout, _headers(headers))
    if plan.api is None:
        raise click.UsageError(f"expected a path that ends in /chat/completions or /completions, got {url}")
    run = asyncio.run(_go(plan))
    figures = summary(run)
    if not figures["requests"]:
        raise click.exceptions.Exit(1)
    if as_json:
        click.echo(output.json_line(figures))
    else:
        for line in _lines(figures):
            click.echo(line)
    if all(result.status is None for result in run.results):
        raise StackError(f"{plan.url}: no request was answered; is the server there?")
    if figures["errors"]:
        raise click.exceptions.Exit(1)
