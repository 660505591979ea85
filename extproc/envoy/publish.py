"""An Envoy directory, written where a running Envoy reads it, with the settings of the deployment in it.

What `up` does for the Envoy that it starts itself, for one that somebody else starts: in compose, in a pod.
"""

from __future__ import annotations

import socket
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from extproc.config import Config
from extproc.envoy import files
from extproc.errors import ConfigError

_RETRY_SECONDS: Final = 0.5


def directory(config: Config) -> Path | None:
    """The directory to read; None, the shipped files, when the default one is not there."""
    if config.envoy_dir.is_dir():
        return config.envoy_dir
    if config.envoy_dir == Config().envoy_dir:
        return None
    raise ConfigError(f"{config.envoy_dir}: there is no such directory; `extproc init .` writes ./envoy for editing")


def publish(config: Config, target: Path, collector: str | None) -> list[Path]:
    """Write the configuration's files into `target`, each renamed into place; their paths. Raises ConfigError."""
    documents = files.read(directory(config))
    if config.backends:
        files.set_backends(documents, config.backends)
    files.set_ports(documents, port=config.port, admin_port=config.envoy_admin_port)
    files.set_sidecar(documents, [config.address(worker) for worker in range(config.workers)])
    if collector is not None:
        files.set_tracing(documents, collector)
    files.set_directory(documents, target.absolute())
    try:
        files.write(documents, target)
    except OSError as error:
        raise ConfigError(f"{error.filename or target}: cannot be written: {error.strerror}") from error
    return [target / name for name in documents]


def resolve(backends: Sequence[str], seconds: float) -> None:
    """Wait until every backend has an address. Raises ConfigError for the first whose name has none by then."""
    until = time.monotonic() + seconds
    for url in backends:
        host = urllib.parse.urlsplit(url).hostname or ""
        while not _resolves(host):
            if time.monotonic() >= until:
                raise ConfigError(
                    f"backend {url}: the name {host} cannot be resolved. In compose, LLM_BACKEND=host:port names your "
                    "server, and --profile demo starts two demo backends"
                )
            time.sleep(_RETRY_SECONDS)


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False
