"""Certificates that a configuration names: there, readable, in their time, and with their key."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from support.certificates import Authority

from extproc.envoy.check import certificates
from extproc.envoy.config import files, source
from extproc.envoy.config.files import Documents


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority `ca`, what it has signed, and files that are none of this."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = Authority(directory, "ca")
    authority.sign("server", days=60)
    authority.sign("soon", days=13)
    authority.sign("other", days=60)
    dated(directory, "expired", -3, -1)
    dated(directory, "future", 1, 100)
    dated(directory, "old-ca", -3, -1)
    (directory / "text.pem").write_text("no certificate\n")
    (directory / "empty.pem").touch()
    (directory / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for name, both in (("chain", ("server", "ca")), ("both-ca", ("ca", "old-ca"))):
        (directory / f"{name}.pem").write_text("".join((directory / f"{each}.pem").read_text() for each in both))
    locked = ("openssl", "ec", "-in", directory / "server.key", "-out", directory / "locked.key")
    subprocess.run([*locked, "-aes256", "-passout", "pass:x"], check=True, capture_output=True)
    return directory


def dated(directory: Path, name: str, begins: int, ends: int) -> None:
    """A certificate of its own authority, from a day to another, counted from today; openssl 3.0 makes no such."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder(named, named, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) + timedelta(days=begins))
        .not_valid_after(datetime.now(UTC) + timedelta(days=ends))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def documents(text: str) -> Documents:
    """The shipped documents and one more."""
    made = files.read(None)
    made.add("mine.yaml", source.parse(text.encode(), "mine.yaml"))
    return made


def found(text: str, directory: Path) -> list[str]:
    """The findings as lines, without the directory."""
    lines = map(str, certificates.findings(documents(text.replace("DIR", str(directory)))))
    return [line.replace(f"{directory}/", "") for line in lines]


def pair(chain: str, key: str) -> str:
    """A certificate and its key, as a listener has them; the names stand in the lines 3 and 4."""
    return (
        "tls_certificates:\n"
        "-\n"
        f"  certificate_chain: {{filename: DIR/{chain}}}\n"
        f"  private_key: {{filename: DIR/{key}}}\n"
    )


@pytest.mark.parametrize(
    ("chain", "key", "lines"),
    [
        ("server.pem", "server.key", []),
        ("chain.pem", "server.key", []),
        ("none.pem", "none.key", ["3:33: error: none.pem cannot be read: No such file or directory"]),
        (".", "server.key", ["3:33: error: . cannot be read: Is a directory"]),
        ("text.pem", "server.key", ["3:33: error: text.pem holds no PEM certificate"]),
        ("empty.pem", "server.key", ["3:33: error: empty.pem holds no PEM certificate"]),
        ("broken.pem", "server.key", ["3:33: error: broken.pem holds no PEM certificate"]),
        ("server.key", "server.key", ["3:33: error: server.key holds no PEM certificate"]),
        ("server.pem", "other.key", ["4:27: error: other.key is not the key to server.pem"]),
        ("server.pem", "none.key", ["4:27: error: none.key cannot be read: No such file or directory"]),
        ("server.pem", "text.pem", ["4:27: error: text.pem holds no PEM private key without a password"]),
        ("server.pem", "locked.key", ["4:27: error: locked.key holds no PEM private key without a password"]),
    ],
)
def test_a_certificate_and_its_key(directory: Path, chain: str, key: str, lines: list[str]) -> None:
    """Each is read, and held against the other."""
    assert found(pair(chain, key), directory) == [f"mine.yaml:{line}" for line in lines]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("expired", "error: expired.pem expired on {:%Y-%m-%d}"),
        ("future", "error: future.pem is valid only from {:%Y-%m-%d}"),
        ("soon", "warning: soon.pem expires on {:%Y-%m-%d}"),
    ],
)
def test_a_certificate_out_of_its_time(directory: Path, name: str, text: str) -> None:
    """Past and future are errors, and what ends within two weeks is said in time."""
    day = datetime.now(UTC) + timedelta(days={"expired": -1, "future": 1, "soon": 13}[name])
    (line,) = found(pair(f"{name}.pem", f"{name}.key"), directory)
    days = (day + timedelta(seconds=each) for each in (0, -60))
    assert line.startswith(tuple(f"mine.yaml:3:33: {text.format(each)}" for each in days))
    assert line.endswith(" UTC")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("ca.pem", []),
        ("both-ca.pem", []),
        ("old-ca.pem", ["old-ca.pem: every authority in it has expired"]),
        ("none.pem", ["none.pem cannot be read: No such file or directory"]),
        ("text.pem", ["text.pem holds no PEM certificate of an authority"]),
        ("empty.pem", ["empty.pem holds no PEM certificate of an authority"]),
        ("broken.pem", ["broken.pem holds no PEM certificate of an authority"]),
        ("server.key", ["server.key holds no PEM certificate of an authority"]),
    ],
)
def test_authorities(directory: Path, name: str, lines: list[str]) -> None:
    """The file has to be one, with an authority that is still valid."""
    text = f"validation_context: {{trusted_ca: {{filename: DIR/{name}}}}}\n"
    assert found(text, directory) == [f"mine.yaml:1:45: error: {line}" for line in lines]


@pytest.mark.parametrize("name", ["", "\\0", "a\\0b", "\\n"])
@pytest.mark.parametrize("member", ["trusted_ca", "certificate_chain"])
def test_names_that_are_none(directory: Path, member: str, name: str) -> None:
    """They are refused like a file that is not there."""
    assert len(found(f'{member}: {{filename: "{name}"}}\n', directory)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "certificate_chain: {inline_string: x}\nprivate_key: {inline_string: y}\n",
        "certificate_chain: {environment_variable: X}\n",
        "trusted_ca: {inline_string: x}\n",
        "trusted_ca:\ncertificate_chain: 5\n",
    ],
)
def test_what_stands_in_no_file(directory: Path, text: str) -> None:
    """It is Envoy's to read."""
    assert found(text, directory) == []


def test_a_certificate_without_a_key(directory: Path) -> None:
    """Only the certificate is looked at: the key may come from elsewhere."""
    assert found("certificate_chain: {filename: DIR/server.pem}\n", directory) == []
