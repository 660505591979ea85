"""Traffic as applications send it: each family asks in its own way, with what varies in it.

    traffic = Traffic(random, families)
    path, body = traffic.request(client)    # the next request of a client; a session's grows

What applications send is mostly the same parameters again and again, some seldom, and texts that differ each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

Body = dict[str, Any]

_TEXT: Final = (
    "the river holds its course and the pilot reads each gauge before a turn while weather over the coast moves "
    "slowly north so that every crew keeps watch on pressure fuel heading and time as they wait for a clear signal"
)
WORDS: Final = tuple(_TEXT.split())
CHAT: Final = "/v1/chat/completions"


def text(random: Random, words: float = 40) -> str:
    """Some words, most often about as many as asked for, sometimes far more."""
    count = max(1, int(random.lognormvariate(0, 0.9) * words))
    return " ".join(random.choice(WORDS) for _ in range(count))


class Traffic:
    """What the clients of one deployment send."""

    def __init__(self, random: Random, families: Sequence[str], model: str = "m") -> None:
        self._random = random
        self._model = model
        self._families = list(families)
        self._sessions: dict[int, list[Body]] = {}
        self._tools = [_tool(random, number) for number in range(random.randint(2, 6))]
        self._schemas = [_schema(random, number) for number in range(random.randint(1, 4))]
        self._systems = [text(random, 60) for _ in range(3)]

    def request(self, client: int) -> tuple[str, Body]:
        """The next request of a client."""
        family = self._families[client % len(self._families)]
        path, body = _FAMILIES[family](self, client)
        return path, {"model": self._model, **body}

    def plain(self) -> Body:
        """A request of no special kind, for what is to be added to it."""
        return {"model": self._model, **self._chat(0)[1]}

    def _chat(self, _: int) -> tuple[str, Body]:
        random = self._random
        body: Body = {
            "messages": [
                {"role": "system", "content": random.choice(self._systems)},
                {"role": "user", "content": text(random)},
            ],
            "max_tokens": random.choice([64, 256, 256, 512, 1024]),
            "temperature": random.choice([0, 0.2, 0.7, 0.7, 1]),
            "stream": random.random() < 0.8,
        }
        if body["stream"] and random.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
        self._now_and_then(body)
        return CHAT, body

    def _now_and_then(self, body: Body) -> None:
        random = self._random
        for name, share, value in (
            ("top_p", 0.3, random.choice([0.9, 0.95])),
            ("seed", 0.2, random.randrange(2**31)),
            ("user", 0.2, f"user-{random.randrange(500)}"),
            ("stop", 0.04, random.choice([["\n"], ["###"]])),
            ("frequency_penalty", 0.03, random.choice([0.1, 0.5])),
            ("logprobs", 0.01, True),
            ("n", 0.01, 2),
        ):
            if random.random() < share:
                body[name] = value

    def _session(self, client: int) -> tuple[str, Body]:
        random = self._random
        turns = self._sessions.setdefault(client, [])
        if len(turns) > 16:
            turns.clear()
        if turns:
            turns.append({"role": "assistant", "content": text(random, 60)})
        turns.append({"role": "user", "content": text(random, 20)})
        body: Body = {"messages": list(turns), "stream": True, "max_tokens": 512, "user": f"session-{client}"}
        return CHAT, body

    def _agent(self, _: int) -> tuple[str, Body]:
        random = self._random
        body: Body = {
            "messages": [{"role": "user", "content": text(random, 80)}],
            "tools": random.sample(self._tools, random.randint(1, len(self._tools))),
            "tool_choice": "auto",
            "temperature": 0,
            "stream": random.random() < 0.5,
        }
        return CHAT, body

    def _extraction(self, _: int) -> tuple[str, Body]:
        random = self._random
        body: Body = {
            "messages": [{"role": "user", "content": text(random, 150)}],
            "response_format": {"type": "json_schema", "json_schema": random.choice(self._schemas)},
            "temperature": 0,
            "max_tokens": 400,
            "stream": random.random() < 0.3,
        }
        return CHAT, body

    def _embeddings(self, _: int) -> tuple[str, Body]:
        random = self._random
        count = random.choice([1, 1, 4, 16, 32])
        return "/v1/embeddings", {"input": [text(random, 60) for _ in range(count)], "encoding_format": "float"}

    def _batch(self, _: int) -> tuple[str, Body]:
        random = self._random
        body: Body = {"prompt": text(random, 120), "max_tokens": random.choice([16, 128]), "temperature": 0}
        if random.random() < 0.2:
            body["stop"] = ["\n\n"]
        return "/v1/completions", body

    def _pictures(self, _: int) -> tuple[str, Body]:
        random = self._random
        data = "A" * random.randrange(2_000, 60_000)
        return CHAT, {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": text(random, 15)},
                        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
                    ],
                }
            ],
            "stream": True,
            "max_tokens": 300,
        }


_FAMILIES: Final[dict[str, Callable[[Traffic, int], tuple[str, Body]]]] = {
    "chat": Traffic._chat,
    "session": Traffic._session,
    "agent": Traffic._agent,
    "extraction": Traffic._extraction,
    "embeddings": Traffic._embeddings,
    "batch": Traffic._batch,
    "pictures": Traffic._pictures,
}


def _tool(random: Random, number: int) -> Body:
    members = {f"field_{random.randrange(30)}": {"type": random.choice(["string", "integer"])} for _ in range(3)}
    parameters = {"type": "object", "properties": members, "required": sorted(members)[:1]}
    function = {"name": f"tool_{number}", "description": text(random, 10), "parameters": parameters}
    return {"type": "function", "function": function}


def _schema(random: Random, number: int) -> Body:
    members: Body = {f"field_{random.randrange(30)}": {"type": random.choice(["string", "number"])} for _ in range(4)}
    members["items"] = {"type": "array", "items": {"type": "string"}}
    schema = {"type": "object", "properties": members, "required": sorted(members), "additionalProperties": False}
    return {"name": f"answer_{number}", "schema": schema, "strict": True}
