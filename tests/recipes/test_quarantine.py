"""envoy/examples/quarantine: what is in quarantine meets no server that serves others."""

from __future__ import annotations

from pathlib import Path

from support.commands import invoke
from support.recipes import CHAT, Recipe
from support.stack import eventually

KILLER = {**CHAT, "response_format": {"type": "text"}}


def test_requests_in_quarantine_go_to_a_cluster_of_their_own(tmp_path: Path) -> None:
    """Once the mode says so; all others stay where they were."""
    with Recipe("quarantine", tmp_path) as recipe:
        client = recipe.client()
        arguments = ("--data-dir", recipe.data_dir)
        assert invoke("quarantine", "add", "--atom", 'response_format.type="text"', *arguments).exit_code == 0
        assert invoke("quarantine", "mode", "route", *arguments).exit_code == 0

        def rerouted() -> str | None:
            id = client.ask(body=KILLER).headers["x-audit-id"]
            return id if recipe.exchange(id).cluster == "sacrificial" else None

        eventually(rerouted, "a request at the sacrificial cluster")
        for _ in range(10):
            other = client.ask(body=CHAT)
            assert other.status == 200
            assert recipe.exchange(other.headers["x-audit-id"]).cluster == "llm"
        assert recipe.stop() == 0
        assert recipe.findings() == []
