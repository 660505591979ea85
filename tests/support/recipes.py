"""The recipes of envoy/examples, run as their users run them: `extproc up --envoy-dir envoy/examples/NAME`.

    with Recipe("weights", tmp_path) as recipe:
        assert recipe.spread(2000) == ...           # requests by demo backend: 8001, 8002, ...

A recipe's endpoints at 127.0.0.1:8001 to 8009 stand for demo backends, which `up` starts. With `backends={8001: port}`
a server of the test's own takes the place of one.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from support.stack import RunningStack, eventually

from extproc.envoy.config import files
from extproc.history.join import Exchange

EXAMPLES = Path(__file__).resolve().parents[2] / "envoy" / "examples"

CHAT = {"model": "demo", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}


class Answer(NamedTuple):
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def upstream(self) -> str | None:
        return self.headers.get("x-upstream")

    def json(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)


class Client:
    """One connection that is kept alive, from an address of this machine's (127.0.0.2, ...) where one is named."""

    def __init__(self, port: int, source: str | None = None) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=150, source_address=None if source is None else (source, 0)
        )

    def ask(self, method: str = "POST", path: str = "/v1/chat/completions", body: Any = None, **headers: str) -> Answer:
        """One request and its whole answer. A dict is sent as JSON; `x_model="a"` is the header x-model."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            named.setdefault("content-type", "application/json")
        self._connection.request(method, path, data, named)
        response = self._connection.getresponse()
        content = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def chat(self, **headers: str) -> Answer:
        """A short chat completion."""
        return self.ask(body=CHAT, **headers)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Recipe(RunningStack):
    """The stack on one recipe. `edit` changes the texts of its files before they are used, by name."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *arguments: str | Path,
        backends: Mapping[int, int] | None = None,
        edit: Callable[[str, str], str] | None = None,
        **settings: object,
    ) -> None:
        self.envoy_dir = copied(name, directory / "envoy", backends or {}, edit)
        self._clients: list[Client] = []
        settings_file = self.envoy_dir / "extproc.yaml"
        config = ("--config", settings_file) if settings_file.exists() else ()
        super().__init__(
            directory, "--envoy-dir", self.envoy_dir, "--envoy-concurrency", "2", *config, *arguments, **settings
        )

    def client(self, source: str | None = None) -> Client:
        """A new client of the gateway, closed with it at the latest."""
        client = Client(self.port, source)
        self._clients.append(client)
        return client

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Close what clients are still there, then as `RunningStack`."""
        for client in self._clients:
            client.close()
        return super().stop(number)

    def spread(
        self, requests: int, ask: Callable[[Client, int], Answer] = lambda client, _: client.chat(), clients: int = 8
    ) -> Counter[str]:
        """The number of answers of each upstream. `ask` sends the request of a number; all must be 200."""
        share = [range(first, requests, clients) for first in range(clients)]

        def run(numbers: range) -> Counter[str]:
            client = self.client()
            count: Counter[str] = Counter()
            for number in numbers:
                answer = ask(client, number)
                assert answer.status == 200, answer
                count[answer.upstream or "none"] += 1
            client.close()
            return count

        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            return sum(pool.map(run, share), Counter())

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Change one of its files while it runs, and wait until the change is live."""
        path = self.envoy_dir / name
        before, new = self.stderr().count("live: "), path.with_name(f".{name}.new")
        text = path.read_text()
        changed = change(text)
        assert changed != text, f"nothing to change in {name}"
        new.write_text(changed)
        new.rename(path)
        eventually(lambda: self.stderr().count("live: ") > before, f"{name} live: {self.stderr()[-500:]}")

    def settled(self, answer: Answer | str) -> Exchange:
        """The exchange of an answer, or of an id, once it has ended and Envoy has said why."""
        return self.told(answer if isinstance(answer, str) else answer.headers["x-audit-id"])

    def demo_backends(self) -> list[int]:
        """The process ids of the demo backends, in the order in which they were started: that of their ports."""
        return sorted(pid for pid, line in self.children().items() if " mock-llm " in line)


def copied(name: str, target: Path, backends: Mapping[int, int], edit: Callable[[str, str], str] | None = None) -> Path:
    """A copy of a recipe with the test's own servers in it, and in the shipped clusters.yaml, over which it is laid."""
    shutil.copytree(EXAMPLES / name, target)
    if backends and not (target / files.CLUSTERS).exists():
        (target / files.CLUSTERS).write_bytes((files.shipped() / files.CLUSTERS).read_bytes())
    for path in target.glob("*.yaml"):
        text = path.read_text()
        for port, real in backends.items():
            text, _ = re.subn(rf"(address: 127\.0\.0\.1, port_value: ){port}\b", rf"\g<1>{real}", text)
        path.write_text(text if edit is None else edit(path.name, text))
    return target
