"""A real Prometheus on a free port, which scrapes one target every second."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.stack import eventually

CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
- job_name: extproc
  static_configs: [{{targets: ["{target}"]}}]
"""


def program(name: str) -> str:
    """`prometheus` or `promtool`. `.ci/run` installs Debian's package, so that there is no skipping these tests."""
    path = shutil.which(name)
    assert path is not None, f"{name} is missing: install Debian's package prometheus"
    return path


class Prometheus:
    """A running one; `target` is the URL of what it scrapes, without a path."""

    def __init__(self, directory: Path, target: str, rules: Path) -> None:
        self._directory = directory
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        text = CONFIGURATION.format(rules=rules, target=target.removeprefix("http://"))
        (directory / "prometheus.yml").write_text(text)

    def __enter__(self) -> Self:
        with (self._directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={self._directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._directory / 'tsdb'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
                cwd=self._directory,
            )
        eventually(self._is_ready, "Prometheus")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(150)

    def query(self, query: str) -> list[dict[str, Any]]:
        """The series of a query now. Fails, saying why, for one that is none."""
        url = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        return result

    def exemplars(self, query: str) -> list[dict[str, str]]:
        """The labels of the exemplars of these series."""
        url = f"{self.url}/api/v1/query_exemplars?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=10) as answer:
            series = json.load(answer)["data"]
        return [each["labels"] for one in series for each in one["exemplars"]]

    def rules(self) -> dict[str, str]:
        """The health of each alert: `ok` once it has been evaluated."""
        with urllib.request.urlopen(f"{self.url}/api/v1/rules", timeout=10) as answer:
            groups = json.load(answer)["data"]["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            assert self._process.poll() is None, (self._directory / "prometheus.log").read_text()[-2000:]
            return False
