"""The names of OpenTelemetry's GenAI conventions, in one table: what spans and metrics are called and measured in.

The conventions are in development. By default the names are those of version 1.41, for which dashboards exist;
`OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental` (one of a comma-separated list) asks for the newest ones, of
the repository open-telemetry/semantic-conventions-genai. Metric names are as OpenTelemetry has them; Prometheus gets
them with underscores and its unit suffixes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from extproc.core.joined import Exchange

OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
LATEST: Final = "gen_ai_latest_experimental"

OPERATIONS: Final[Mapping[str, str]] = {
    "chat.completions": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
"""`gen_ai.operation.name` by the API of an exchange."""

PROVIDERS: Final[Mapping[str, str]] = {"messages": "anthropic"}
"""`gen_ai.provider.name` by the API, where it is not OpenAI's: the format is what is known of a server."""
PROVIDER: Final = "openai"

OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
REQUEST_STREAM: Final = "gen_ai.request.stream"
OUTPUT_TYPE: Final = "gen_ai.output.type"
CHOICE_COUNT: Final = "gen_ai.request.choice.count"
STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
TOKEN_TYPE: Final = "gen_ai.token.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
URL_PATH: Final = "url.path"
CLIENT_ADDRESS: Final = "client.address"

PARAMETERS: Final[Mapping[str, tuple[str, type]]] = {
    "temperature": ("gen_ai.request.temperature", float),
    "top_p": ("gen_ai.request.top_p", float),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "top_k": ("gen_ai.request.top_k", int),
    "seed": ("gen_ai.request.seed", int),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "max_output_tokens": ("gen_ai.request.max_tokens", int),
    "dimensions": ("gen_ai.embeddings.dimension.count", int),
}
"""Attributes that are a parameter of the request as it was sent, with their type."""


def cache_write_tokens(latest: bool) -> str:
    """The attribute of the tokens written to a cache."""
    return "gen_ai.usage.cache_write.input_tokens" if latest else "gen_ai.usage.cache_creation.input_tokens"


def is_latest(environ: Mapping[str, str]) -> bool:
    """Whether the newest names were asked for."""
    return LATEST in (each.strip() for each in environ.get(OPT_IN, "").split(","))


# Metrics -----------------------------------------------------------------------------------------------------

# The conventions' lists end at 82 s, and a generation may take many minutes.
DURATION_BUCKETS: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36),
)
TIME_TO_FIRST_TOKEN_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0),
)
TIME_PER_TOKEN_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKEN_BUCKETS: Final = tuple(4.0**power for power in range(14))


@dataclass(frozen=True, slots=True)
class MetricNames:
    """What the GenAI metrics are called. `token_usage` is None where counters and histograms a direction replace it."""

    duration: str
    embeddings_duration: str
    time_to_first_chunk: str
    time_per_output_chunk: str
    token_usage: str | None


_V1_41: Final = MetricNames(
    duration="gen_ai.client.operation.duration",
    embeddings_duration="gen_ai.client.operation.duration",
    time_to_first_chunk="gen_ai.client.operation.time_to_first_chunk",
    time_per_output_chunk="gen_ai.client.operation.time_per_output_chunk",
    token_usage="gen_ai.client.token.usage",
)
_LATEST: Final = MetricNames(
    duration="gen_ai.client.inference.duration",
    embeddings_duration="gen_ai.client.embeddings.duration",
    time_to_first_chunk="gen_ai.client.inference.time_to_first_chunk",
    time_per_output_chunk="gen_ai.client.inference.time_per_output_chunk",
    token_usage=None,
)
USAGE_COUNTERS: Final[Mapping[str, str]] = {
    "input": "gen_ai.client.inference.usage.input_tokens",
    "output": "gen_ai.client.inference.usage.output_tokens",
}
"""By `gen_ai.token.type`; the newest names only."""
USAGE_HISTOGRAMS: Final[Mapping[str, str]] = {
    "input": "gen_ai.client.inference.operation.input_tokens",
    "output": "gen_ai.client.inference.operation.output_tokens",
}
TOKEN_MODALITY: Final = "gen_ai.token.modality"
UNKNOWN_MODALITY: Final = "unknown"


def metric_names(latest: bool) -> MetricNames:
    """The names of the mode that was asked for."""
    return _LATEST if latest else _V1_41


# Reading a record --------------------------------------------------------------------------------------------


def server(exchange: Exchange) -> tuple[str, str]:
    """`server.address` and `server.port`: the backend that answered, behind Envoy. Empty where there was none."""
    host, _, port = (exchange.upstream or "").rpartition(":")
    return host.strip("[]"), port


def usage(counted: object) -> dict[str, int]:
    """The tokens that the server counted: `input`, `output`, `cache_read`, `cache_write`, `reasoning`; never invented.

    OpenAI's names and Anthropic's, llama.cpp's and Ollama's. Anthropic's `input_tokens` leave the cached ones out; the
    conventions' have them in, and so have OpenAI's, also where a gateway adds Anthropic's counts of the cache.
    """
    if not isinstance(counted, Mapping):
        return {}
    input_details = _mapping(counted.get("prompt_tokens_details") or counted.get("input_tokens_details"))
    output_details = _mapping(counted.get("completion_tokens_details") or counted.get("output_tokens_details"))
    found: dict[str, object] = {
        "input": _first(counted, _INPUT),
        "output": _first(counted, _OUTPUT),
        "cache_read": _first(input_details, ("cached_tokens",), _first(counted, _CACHE_READ)),
        "cache_write": counted.get("cache_creation_input_tokens"),
        "reasoning": output_details.get("reasoning_tokens"),
    }
    tokens = {name: value for name, value in found.items() if type(value) is int and value >= 0}
    if "input" in tokens and _leaves_the_cached_out(counted):
        tokens["input"] += tokens.get("cache_read", 0) + tokens.get("cache_write", 0)
    return tokens


_INPUT: Final = ("prompt_tokens", "input_tokens", "tokens_evaluated", "prompt_eval_count", "prompt_n")
_OUTPUT: Final = ("completion_tokens", "output_tokens", "tokens_predicted", "eval_count", "predicted_n")
_CACHE_READ: Final = ("cache_read_input_tokens", "prompt_cache_hit_tokens", "cached_tokens", "cache_n")


def _first(counted: Mapping[str, object], names: Sequence[str], otherwise: object = None) -> object:
    for name in names:
        value = counted.get(name)
        if value is not None:
            return value
    return otherwise


def _leaves_the_cached_out(counted: Mapping[str, object]) -> bool:
    """Whether the input is what had to be read anew: by the names, Anthropic's alone and llama.cpp's timings."""
    if counted.get("prompt_tokens") is not None or counted.get("input_tokens_details") is not None:
        return False
    anew = ("cache_read_input_tokens", "cache_creation_input_tokens", "prompt_n")
    return any(counted.get(name) is not None for name in anew)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
