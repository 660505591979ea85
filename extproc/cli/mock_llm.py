"""`extproc mock-llm`: a demo LLM backend."""

from __future__ import annotations

import asyncio
import contextlib

import click

from extproc import signals
from extproc.cli import output
from extproc.config import in_url
from extproc.errors import ConfigError, StackError


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
def command(
    port: int, host: str, model: str, ttft_ms: float, tokens_per_second: float, seed: int, strict: bool
) -> None:
    """Run a demo LLM backend.

    It speaks vLLM's formats on /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses and
    /v1/messages, and has /health and /metrics. What it says means nothing and is the same each time.

    \b
    Examples:
      extproc mock-llm --port 8001
      extproc mock-llm --port 8001 --ttft-ms 400 --tokens-per-second 20
    """
    try:
        # Only here: the HTTP server is in the extra `stack`.
        from extproc.mock.server import Settings, serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"mock-llm needs the extra 'stack': pip install 'extproc[stack]' ({error})") from None

    def ready(bound_host: str, bound_port: int) -> None:
        output.announce(f"ready http://{in_url(bound_host)}:{bound_port}")

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in signals.ending():
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serve(Settings(model, ttft_ms, tokens_per_second, seed, strict), host, port, ready)

    try:
        asyncio.run(run())
    except OSError as error:
        raise StackError(f"mock-llm cannot listen on {host}:{port}: {error.strerror}") from None
