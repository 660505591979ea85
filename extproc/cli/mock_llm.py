"""`extproc mock-llm`: a demo LLM backend."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import click

from extproc.cli import output
from extproc.config import in_url
from extproc.errors import ConfigError, StackError
from extproc.processes import signals

if TYPE_CHECKING:
    from extproc.mock.dying import Plan
    from extproc.mock.server import Settings


@click.command
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="Port to listen on. 0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--model", default="demo", show_default=True, help="Name of the model.")
@click.option(
    "--ttft-ms", type=click.FloatRange(0), default=50.0, show_default=True, help="Time to the first token, in ms."
)
@click.option(
    "--tokens-per-second",
    type=click.FloatRange(0),
    default=50.0,
    show_default=True,
    help="Pace of the tokens after the first. 0: as fast as they can be sent.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With the same seed, the same request gets the same answer.",
)
@click.option("--strict", is_flag=True, help="Answer 404 for any other model's name.")
@click.option("--die-on", "rules", multiple=True, metavar="RULE", help="Die of such a request; see below.")
@click.option("--die-how", "how", metavar="MODE", help="How; see below. Default: as the engine does.")
@click.option(
    "--restart-after",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="Start again by itself so long after each end. A server that is dead but there is ended after that time.",
)
@click.option(
    "--engine",
    type=click.Choice(["vllm", "sglang", "llama.cpp", "tensorrt-llm"]),
    default="vllm",
    show_default=True,
    help="Whose words and frames it uses when it dies, and what it says of itself.",
)
@click.option(
    "--slots", type=click.IntRange(0), default=0, show_default=True, help="Requests served side by side. 0: all."
)
@click.option("--supervised", is_flag=True, hidden=True)
def command(
    port: int,
    host: str,
    model: str,
    ttft_ms: float,
    tokens_per_second: float,
    seed: int,
    strict: bool,
    rules: tuple[str, ...],
    how: str | None,
    restart_after: float | None,
    engine: str,
    slots: int,
    supervised: bool,
) -> None:
    """Run a demo LLM backend.

    It speaks vLLM's formats on /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses and
    /v1/messages, and has /health and /metrics. What it says means nothing and is the same each time.

    \b
    RULE is a request that kills:
      NAME                        a parameter is there: logprobs, tools.function.strict (in any item of a list)
      NAME=VALUE                  and is that; also != > >= < <=, for texts and lists by their length
      NAME~REGEX                  a text in which the expression is found
      NAME is KIND                null, false, empty, negative, huge or text
      @path=P  @body~REGEX  @bytes>N  @prompt>TOKENS      the request as a whole
      @depth>N  @schema>BYTES  @keyword=NAME              its JSON schemas
      @tokens>N  @running>N  @number=N  @waited>S  @oldest   the moment: tokens and requests in flight, its turn
      @output>N  @cancel          after N of its tokens; when its client leaves before the end
      @chance=P  @same=NAME       by the seed; the parameter is as in the earlier request
      not T, T and T              none, both
      R then R                    the second kills if one like the first was begun earlier in this process
      R beside R                  if one like the first is running

    \b
    MODE is one of
      frames[=S]    an error to each in flight and to all that comes for S seconds (2), then exit 0
      exit, kill    exit 1 at once, SIGKILL
      500[=S]       500 to the request that did it, and S seconds (0.2) later exit 1
      hang          nothing more to anybody, but /health is well
      freeze[=S]    the whole process stands still for S seconds (8), and goes on
      memory[=S]    slower and slower, nothing to the request that did it; SIGKILL after S seconds (2)
      keep-500      an error to each in flight, and 500 to all that comes, for ever
      keep-503      those in flight are cut, and 503 to all that comes, for ever
      alone         500 to that one request, and the engine lives
      latch[=S][,MODE]   the request is answered, and the engine dies S seconds (0.5) after its end

    \b
    Examples:
      extproc mock-llm --port 8001
      extproc mock-llm --port 8001 --ttft-ms 400 --tokens-per-second 20
      extproc mock-llm --port 8001 --die-on response_format.type=text --restart-after 5
      extproc mock-llm --port 8001 --die-on 'structured_outputs then structured_outputs.regex~\\(\\?=' --die-how kill
      extproc mock-llm --port 8001 --die-on '@cancel and session_id' --engine sglang --restart-after 10
      extproc mock-llm --port 8001 --die-on '@tokens>20000' --die-how memory --slots 8
    """
    _require_stack()
    from extproc.cli import again
    from extproc.mock.server import Settings

    plan = _plan(rules, how, engine, slots, restart_after, seed)
    if restart_after is not None and not supervised:
        _run(again.keep(again.command(), restart_after, output.announce, _warn))
    else:
        _serve(Settings(model, ttft_ms, tokens_per_second, seed, strict, engine), plan, host, port)


def _require_stack() -> None:
    """The HTTP server is in the extra `stack`, and so it is imported only where it is needed."""
    try:
        import extproc.mock.server  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"mock-llm needs the extra 'stack': pip install 'extproc[stack]' ({error})") from None


def _plan(
    rules: Sequence[str], how: str | None, engine: str, slots: int, restart_after: float | None, seed: int
) -> Plan:
    """What it dies of, and how."""
    from extproc.mock import dying
    from extproc.mock.engines import ENGINES
    from extproc.mock.rules import RuleError, parse

    usual = ENGINES[engine].how
    try:
        parsed = tuple(parse(rule, seed) for rule in rules)
        return dying.Plan(parsed, dying.parse(how or usual, usual), slots, restart_after, seed)
    except RuleError as error:
        raise click.BadParameter(str(error), param_hint="--die-on") from None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--die-how") from None


def _serve(settings: Settings, plan: Plan, host: str, port: int) -> None:
    from extproc.mock.server import serve

    def ready(bound_host: str, bound_port: int) -> None:
        output.announce(f"ready http://{in_url(bound_host)}:{bound_port}")

    try:
        _run(serve(settings, plan, host, port, ready))
    except OSError as error:
        raise StackError(f"mock-llm cannot listen on {host}:{port}: {error.strerror}") from None


def _run(work: Coroutine[Any, Any, int | None]) -> None:
    """Until it ends, or a signal ends it."""

    async def run() -> int | None:
        task = asyncio.current_task()
        assert task is not None
        signals.call_in_loop(task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            return await work
        return None

    if code := asyncio.run(run()):
        sys.exit(code)


def _warn(line: str) -> None:
    click.echo(f"mock-llm: {line}", err=True)
