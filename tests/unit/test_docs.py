"""The documents say what the program does."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc.config import Config
from extproc.service.exposition import Exposition
from extproc.service.follower import FollowerProcess
from extproc.service.workers import Workers
from extproc.telemetry.metrics import Metrics


@pytest.fixture
def families(tmp_path: Path) -> set[tuple[str, str]]:
    """Every metric that there is, as it is written down: its name and its type."""
    live = Exposition(tmp_path, None, Workers(Config(data_dir=tmp_path)), FollowerProcess(Config()))
    text = Metrics((), {}).text() + asyncio.run(live.text())
    found = [each for each in text_string_to_metric_families(text.decode()) if not each.name.endswith("_created")]
    return {(f"{each.name}_total" if each.type == "counter" else each.name, each.type) for each in found}


def test_every_metric_is_documented(checkout: Path, families: set[tuple[str, str]]) -> None:
    """And no other one is."""
    text = (checkout / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"(?m)^\| `(\w+)` \| (\w+) \|", text)) == families
