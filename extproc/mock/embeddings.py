"""`POST /v1/embeddings` as vLLM answers it: unit vectors made from each input's text, as floats or base64."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from extproc.mock.answer import Context, inputs, integer
from extproc.mock.generation import BadRequestError, Json, count_all


class EmbeddingAnswer:
    """The answer to one embedding request. It is never a stream."""

    stream = False
    completion_tokens = 0
    steps = 0

    def __init__(self, body: Mapping[str, Any], context: Context) -> None:
        self._context = context
        self._format = body.get("encoding_format") or "float"
        if self._format not in ("float", "base64"):
            raise BadRequestError(f"encoding_format must be 'float' or 'base64', got {self._format!r}")
        self._inputs = inputs(body.get("input"), "input")
        self._dimensions = integer(body, "dimensions") or 256
        self.prompt_tokens = sum(count_all(each) for each in self._inputs)

    def whole(self) -> Json:
        return {
            "id": f"embd-{self._context.id}",
            "object": "list",
            "created": self._context.created,
            "model": self._context.model,
            "data": [
                {"index": index, "object": "embedding", "embedding": self._encoded(each)}
                for index, each in enumerate(self._inputs)
            ],
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "total_tokens": self.prompt_tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
            },
        }

    def frames(self) -> Iterator[tuple[int, bytes]]:
        return iter(())

    def _encoded(self, text: Json) -> Json:
        vector = self._vector(text)
        if self._format == "float":
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

    def _vector(self, text: Json) -> list[float]:
        seed = hashlib.sha256(b"%d/" % self._context.seed + json.dumps(text).encode()).digest()
        rng = random.Random(seed)  # noqa: S311 - it makes a vector
        values = [rng.gauss(0, 1) for _ in range(self._dimensions)]
        norm = math.sqrt(sum(value * value for value in values))
        return [value / norm for value in values]
