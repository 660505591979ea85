"""The stack's own decisions. The end-to-end tests run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.config import Config
from extproc.envoy.process.proxy import State
from extproc.up.stack import Stack, _missing

UP = {"127.0.0.1:1": True}
DOWN = {"127.0.0.1:1": False}


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        (None, "Envoy does not answer yet"),
        (State(live=True, port=1, hosts={}, rejected=False), "does not reach the sidecar at any address"),
        (State(live=True, port=1, hosts={"extproc": DOWN}, rejected=False), "the sidecar at 127.0.0.1:1"),
        (State(live=True, port=1, hosts={"extproc": UP, "llm": {}}, rejected=False), "cannot be resolved"),
        (State(live=True, port=1, hosts={"extproc": UP, "llm": DOWN}, rejected=False), "no backend is healthy"),
        (State(live=False, port=1, hosts={"extproc": UP, "llm": UP}, rejected=False), "Envoy is not ready yet"),
        (State(live=True, port=0, hosts={"extproc": UP, "llm": UP}, rejected=False), "Envoy is not ready yet"),
        (State(live=True, port=1, hosts={"extproc": UP, "llm": DOWN | {"b": True}}, rejected=False), ""),
        (State(live=True, port=1, hosts={"extproc": UP, "mine": DOWN}, rejected=False), ""),
    ],
)
def test_what_a_request_would_fail_for(state: State | None, missing: str) -> None:
    """Ready is when nothing is missing."""
    assert missing in _missing(state)
    assert bool(missing) == bool(_missing(state))


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy and the workers must mean the same files."""
    monkeypatch.chdir(tmp_path)
    stack = Stack(Config())
    assert stack.run_dir == tmp_path / "data" / "run"
    assert stack._config.address() == f"unix:{tmp_path}/data/run/extproc.sock"
