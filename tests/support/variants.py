"""Deaths as others may have had them: a journal's exchanges, changed in what another fleet would have had otherwise.

Each variant takes the exchanges, the ids of the killers and the moments, and gives exchanges and moments; what befell
the backends, and who did it, stays the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

from extproc.incidents import atoms
from extproc.incidents.evidence import End, Flight

Moments = Sequence[float]
Variant = Callable[[Sequence[Flight], Collection[str], Moments, Random], tuple[list[Flight], list[float]]]

PARAMETERS: Final[tuple[dict[str, Any], ...]] = (
    {"guided_choice": []},
    {"structured_outputs": {"json": ""}},
    {"structured_outputs": {"grammar": "root ::= a\nroot ::= b"}},
    {"logit_bias": {"191222": -100}},
    {"stop_token_ids": [151_645], "min_tokens": 1},
    {"prompt_logprobs": 20},
    {"n": 1_000_000},
    {"repetition_penalty": 1.05},
    {"top_k": -1},
    {"max_tokens": 0},
    {"allowed_token_ids": [99_999]},
    {"bad_words": [""]},
    {"temperature": 0.000_001},
    {"seed": 2**63},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "structural_tag", "structures": [], "triggers": []}},
    {"truncate_prompt_tokens": -1},
    {"messages": []},
    {"messages": [{"role": "user", "content": "<|im_start|>"}]},
    {"prompt": [99_999_999]},
)
"""Of each a killer is made that the journal does not have."""


def at_another_pace(factor: float) -> Variant:
    """A machine that is slower or faster."""

    def variant(
        found: Sequence[Flight], _: Collection[str], moments: Moments, __: Random
    ) -> tuple[list[Flight], list[float]]:
        first = min(each.started for each in found)

        def scaled(at: float) -> float:
            return first + (at - first) * factor

        return [moved(each, scaled) for each in found], [scaled(at) for at in moments]

    return variant


def moved(each: Flight, to: Callable[[float], float]) -> Flight:
    """The same at other times."""

    def when(at: float | None) -> float | None:
        return None if at is None else to(at)

    silence = None if each.silence is None else (to(each.silence[0]), to(each.silence[1]))
    return replace(
        each,
        started=to(each.started),
        ended=when(each.ended),
        first_byte=when(each.first_byte),
        last_byte=when(each.last_byte),
        token=when(each.token),
        silence=silence,
    )


def hardly_warm(
    found: Sequence[Flight], _: Collection[str], moments: Moments, random: Random
) -> tuple[list[Flight], list[float]]:
    """A journal that holds little of what was served before: half of it."""
    first = min(moments, default=float("inf"))
    return [each for each in found if each.ended is None or each.ended > first - 0.5 or random.random() < 0.5], list(
        moments
    )


def cut_at_the_death(
    found: Sequence[Flight], _: Collection[str], moments: Moments, __: Random
) -> tuple[list[Flight], list[float]]:
    """The machine went with it: nothing came afterwards, and no engine's words are known."""
    last = max(moments, default=float("inf"))
    return [replace(each, error="") for each in found if each.started < last + 0.1], list(moments)


def queued(
    found: Sequence[Flight], killers: Collection[str], moments: Moments, random: Random
) -> tuple[list[Flight], list[float]]:
    """The killer had waited for long."""
    return [
        replace(each, started=each.started - random.uniform(5, 25)) if each.id in killers else each for each in found
    ], list(moments)


def of_another_parameter(parameter: dict[str, Any]) -> Variant:
    """The killer asks for something else."""

    def variant(
        found: Sequence[Flight], killers: Collection[str], moments: Moments, __: Random
    ) -> tuple[list[Flight], list[float]]:
        plain = {"model": "tiny", "messages": [{"role": "user", "content": "What is a record?"}], "max_tokens": 64}
        raw = json.dumps({**plain, **parameter}).encode()
        path = "/v1/completions" if "prompt" in parameter else "/v1/chat/completions"
        digest = hashlib.sha256(raw).hexdigest()
        asked = atoms.of(path, raw, None, len(raw))
        shape = digest[:16]
        return [
            replace(each, body=digest, size=len(raw), fingerprint=shape, path=path, atoms=asked)
            if each.id in killers
            else each
            for each in found
        ], list(moments)

    return variant


def with_fewer_beside(
    found: Sequence[Flight], killers: Collection[str], moments: Moments, random: Random
) -> tuple[list[Flight], list[float]]:
    """A third of the requests were not there."""
    return [each for each in found if each.id in killers or random.random() < 0.7], list(moments)


def on_two_backends(
    found: Sequence[Flight], _: Collection[str], moments: Moments, __: Random
) -> tuple[list[Flight], list[float]]:
    """Another backend serves the same, half an hour later, and lives."""
    fine = [each for each in found if each.end is End.GOOD]

    def later(at: float) -> float:
        return at + 1800

    beside = [replace(moved(each, later), id=f"{each.id}-2", upstream="10.9.9.9:8000") for each in fine]
    return [*found, *beside], list(moments)


VARIANTS: Final[dict[str, Variant]] = {
    "twice as fast": at_another_pace(0.5),
    "half as fast": at_another_pace(2),
    "hardly warm": hardly_warm,
    "cut at the death": cut_at_the_death,
    "queued": queued,
    "fewer beside": with_fewer_beside,
    "two backends": on_two_backends,
}
