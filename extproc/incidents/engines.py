"""What known engines say when they die: extra evidence, on which nothing depends alone.

Each with the version it was seen on. An engine's exit code, and the type and code of its error, tell nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Engine:
    """A message by which an engine tells of its end."""

    name: str
    message: str
    seen_on: str


ENGINES: Final = (
    Engine("vLLM", "EngineCore encountered an issue", "0.11.0, 0.32.0"),
    Engine("vLLM", "EngineDeadError", "0.8"),
    Engine("vLLM", "Background loop has errored already", "0.5"),
    Engine("vLLM", "MQLLMEngine", "0.6"),
)


def engine_of(errors: Iterable[str]) -> Engine | None:
    """The engine whose message is among the errors."""
    texts = [error for error in errors if error]
    return next((engine for engine in ENGINES for text in texts if engine.message in text), None)
