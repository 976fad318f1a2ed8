"""Certificates and keys for tests, made on the spot."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Pair", "fingerprint_of", "make_pair", "trusting"]


class Pair(NamedTuple):
    """The files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes a gateway use it."""
        return {
            "FASTAPI_FOUNDRY__TLS__CERTIFICATE": str(self.certificate),
            "FASTAPI_FOUNDRY__TLS__PRIVATE_KEY": str(self.key),
        }

    @property
    def fingerprint(self) -> bytes:
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(self.certificate.read_text()))


def make_pair(
    directory: Path,
    *,
    password: str | None = None,
    begins_days: float = -1,
    ends_days: float = 100,
    hosts: tuple[str, ...] = ("localhost",),
) -> Pair:
    """A self-signed pair in ``directory``, in place of one that is there."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    serial = x509.random_serial_number()
    # Trust is looked up by name: two of one name could not both be trusted.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {serial}"[:64])])
    begins, ends = now + timedelta(days=begins_days), now + timedelta(days=ends_days)
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, begins, ends)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False)
    hidden = (
        serialization.BestAvailableEncryption(password.encode())
        if password is not None
        else serialization.NoEncryption()
    )
    pair = Pair(directory / "certificate.pem", directory / "key.pem")
    pair.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    pair.key.chmod(0o600)
    return pair


def trusting(*certificates: Path) -> ssl.SSLContext:
    """A client's context that trusts just these, and checks names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for certificate in certificates:
        context.load_verify_locations(certificate)
    return context


def fingerprint_of(der: bytes | None) -> bytes:
    return x509.load_der_x509_certificate(der or b"").fingerprint(hashes.SHA256())
