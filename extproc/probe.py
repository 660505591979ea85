"""`python -m extproc.probe`: whether the sidecar on this machine is ready. For a container's health check.

It asks where `serve` and `up` answer with the same settings: EXTPROC_ADMIN_PORT, EXTPROC_ADMIN_HOST, and extproc.yaml
in the working directory, or the file that is named: `python -m extproc.probe --config FILE`.
"""

from __future__ import annotations

import argparse
import http.client
import sys
from typing import Final

from extproc import config
from extproc.errors import ConfigError
from extproc.processes import stdio

SECONDS: Final = 3.0


def main() -> int:
    """0 when /readyz says so, else 1 and a line that says why."""
    stdio.prepare()
    parser = argparse.ArgumentParser(prog="extproc.probe", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="settings; default: extproc.yaml, if there is one")
    path = parser.parse_args().config
    try:
        settings = config.load(path)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    host = config.near_host(settings.admin_host)
    connection = http.client.HTTPConnection(host, settings.admin_port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"/readyz on {host}, port {settings.admin_port}: {error}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
