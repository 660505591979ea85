"""`python -m extproc.probe`: whether the sidecar on this machine is ready. For a container's health check."""

from __future__ import annotations

import http.client
import os
import sys

from extproc.config import Config


def main() -> int:
    """0 when /readyz says so, else 1 and a line that says why."""
    port = int(os.environ.get("EXTPROC_ADMIN_PORT") or Config().admin_port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"/readyz on port {port}: {error}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
