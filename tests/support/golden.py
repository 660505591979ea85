"""The golden fixtures of `tests/fixtures`, loaded: one exchange each, with what its record must say.

`tests/fixtures/README.md` describes the files.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures"


@dataclass(frozen=True, slots=True)
class Golden:
    """One fixture. `request` and `response` are None when they are no call of a model; `first_token` is the range of
    byte positions, of which one completes the event with the first output, or None when the answer has no such event.
    Those of the field have an `outcome`, what `extproc show` must contain, and the tokens that the metrics count.
    """

    name: str
    about: str
    api: str | None
    path: str
    request_headers: list[tuple[str, str]]
    request_body: bytes
    status: int
    response_headers: list[tuple[str, str]]
    response_body: bytes
    ended_by: str
    request: dict[str, Any] | None
    response: dict[str, Any] | None
    output: list[dict[str, Any]] | None
    first_token: range | None
    method: str
    outcome: str | None
    shown: list[str]
    input_tokens: int | None

    @property
    def content_encoding(self) -> str | None:
        """The coding of the response."""
        return dict(self.response_headers).get("content-encoding")

    @property
    def content_type(self) -> str | None:
        """The type of the response."""
        return dict(self.response_headers).get("content-type")


def load(name: str) -> Golden:
    """One fixture by its name."""
    file = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"), object_hook=_special)
    request, response, expected = file["request"], file["response"], file["expected"]
    return Golden(
        name=name,
        about=file["about"],
        api=expected["api"],
        path=request["path"],
        request_headers=[(key, value) for key, value in request["headers"]],
        request_body=body(request["body"]),
        status=response["status"],
        response_headers=[(key, value) for key, value in response["headers"]],
        response_body=body(response["body"]),
        ended_by=response["ended_by"],
        request=expected["request"],
        response=None if expected["response"] is None else {"cut": False, **expected["response"]},
        output=expected["output"],
        first_token=_positions(expected["first_token_byte"]),
        method=request["method"],
        outcome=expected.get("outcome"),
        shown=expected.get("shown", []),
        input_tokens=expected.get("input_tokens"),
    )


def names() -> list[str]:
    """The names of all fixtures."""
    return sorted(path.stem for path in FIXTURES.glob("*.json"))


def field_names() -> list[str]:
    """The names of those that show a fault seen in the field."""
    return sorted(f"field/{path.stem}" for path in (FIXTURES / "field").glob("*.json"))


def chunks(name: str) -> list[bytes]:
    """The body of a fixture's response in the chunks in which the server sent it."""
    spec = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))["response"]["body"]
    return [piece for part in spec.get("parts", [spec]) if (piece := body(part))]


def body(spec: dict[str, Any]) -> bytes:
    """The bytes that a `body` of a fixture stands for."""
    if "text" in spec:
        once = spec["text"].encode("utf-8", "surrogatepass")
    elif "base64" in spec:
        once = base64.b64decode(spec["base64"])
    else:
        once = b"".join(body(part) for part in spec["parts"])
    return bytes(once * spec.get("times", 1))


def _special(value: dict[str, Any]) -> Any:
    """Values that plain JSON cannot hold, and long strings, wherever they stand in what is expected."""
    if value.keys() == {"float"}:
        return float(value["float"])
    if value.keys() == {"repeated", "times"}:
        return value["repeated"] * value["times"]
    if value.keys() == {"joined"}:
        return "".join(value["joined"])
    return value


def _positions(spec: int | list[int] | None) -> range | None:
    if spec is None:
        return None
    first, last = (spec, spec) if isinstance(spec, int) else spec
    return range(first, last + 1)
