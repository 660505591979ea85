"""Certificates for a test: an authority, and what it signs. Made by the openssl program."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A certificate authority in a directory. `certificate` and `key` are its files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.certificate, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        files = ("-keyout", str(self.key), "-out", str(self.certificate))
        _openssl("req", "-x509", *_KEY, *files, "-days", "2", "-subj", f"/CN={name}")

    def sign(self, name: str, *, days: int = 2, names: str = "DNS:localhost, IP:127.0.0.1") -> tuple[Path, Path]:
        """A certificate for localhost, or for other names, and its key."""
        certificate, key, request, extensions = (
            self.directory / f"{name}.{ending}" for ending in ("pem", "key", "csr", "ext")
        )
        extensions.write_text(f"subjectAltName = {names}\n")
        _openssl("req", *_KEY, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}")
        signed_by = ("-CA", str(self.certificate), "-CAkey", str(self.key), "-CAcreateserial")
        files = ("-in", str(request), "-out", str(certificate), "-extfile", str(extensions))
        _openssl("x509", "-req", *signed_by, *files, "-days", str(days))
        return certificate, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
