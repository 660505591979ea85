"""The certificates that a configuration names: there, readable, in their time, and with their key."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from extproc.envoy.config import xds
from extproc.envoy.config.files import Documents
from extproc.envoy.config.findings import Finding
from extproc.envoy.config.xds import Part

_SOON: Final = timedelta(days=14)
_PUBLIC: Final = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def findings(documents: Documents) -> Iterator[Finding]:
    """All of them, in the order of the files. What stands inline, or in the environment, is Envoy's to read."""
    now = datetime.now(UTC)
    for whole in xds.everything(documents):
        for authorities in whole.found("trusted_ca"):
            yield from _authorities(authorities.at("filename"), now)
        for chain in whole.found("certificate_chain"):
            key = xds.document(documents, whole.file).at(*chain.path[:-1], "private_key", "filename")
            yield from _chain(chain.at("filename"), key, now)


def _authorities(file: Part, now: datetime) -> Iterator[Finding]:
    if not isinstance(file.value, str):
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Python's own reader, which takes the odd certificates that every system's bundle has.
        context.load_verify_locations(cafile=file.value)
    except (ssl.SSLError, ValueError):
        yield file.error(f"{file.value} holds no PEM certificate of an authority")
        return
    except OSError as error:
        yield file.error(f"{file.value} cannot be read: {error.strerror}")
        return
    ends = [ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs()]
    if ends and max(ends) < now.timestamp():
        yield file.error(f"{file.value}: every authority in it has expired")


def _chain(file: Part, key: Part, now: datetime) -> Iterator[Finding]:
    if not isinstance(file.value, str):
        return
    try:
        certificate = x509.load_pem_x509_certificates(Path(file.value).read_bytes())[0]
    except OSError as error:
        yield file.error(f"{file.value} cannot be read: {error.strerror}")
    except ValueError:
        yield file.error(f"{file.value} holds no PEM certificate")
    else:
        yield from _in_its_time(certificate, file, now)
        yield from _with_its_key(certificate, file.value, key)


def _in_its_time(certificate: x509.Certificate, file: Part, now: datetime) -> Iterator[Finding]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends < now:
        yield file.error(f"{file.value} expired on {ends:%Y-%m-%d %H:%M} UTC")
    elif begins > now:
        yield file.error(f"{file.value} is valid only from {begins:%Y-%m-%d %H:%M} UTC")
    elif ends - now < _SOON:
        yield file.warning(f"{file.value} expires on {ends:%Y-%m-%d %H:%M} UTC")


def _with_its_key(certificate: x509.Certificate, name: str, file: Part) -> Iterator[Finding]:
    if not isinstance(file.value, str):
        return
    try:
        key = serialization.load_pem_private_key(Path(file.value).read_bytes(), None)
    except OSError as error:
        yield file.error(f"{file.value} cannot be read: {error.strerror}")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        yield file.error(f"{file.value} holds no PEM private key without a password")
    else:
        if key.public_key().public_bytes(*_PUBLIC) != certificate.public_key().public_bytes(*_PUBLIC):
            yield file.error(f"{file.value} is not the key to {name}")
