"""Making a certificate of one's own; the one module that imports ``cryptography``."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.settings.home import make_private_directory

__all__ = ["SelfSigned", "is_host", "make_self_signed", "write_pair"]

_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*\.?")
_LONGEST_HOST: Final = 253
_LONGEST_NAME: Final = 64  # of a common name
_CLOCK_SKEW: Final = timedelta(hours=1)  # a client's clock may be behind ours


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """A new pair, in PEM form.

    Attributes:
        fingerprint: SHA-256 of the certificate, as tools show it (``AB:CD:...``).
    """

    certificate: bytes
    private_key: bytes
    fingerprint: str
    expires: datetime


def is_host(text: str) -> bool:
    """Whether ``text`` is a host's name or an address."""
    try:
        _general_name(text)
    except InvalidInputError:
        return False
    return True


def make_self_signed(hosts: Sequence[str], days: int) -> SelfSigned:
    """Make a key and a certificate for ``hosts`` (names and addresses), valid for ``days`` days from now.

    The certificate is no authority: whoever trusts it trusts this server and nothing that its key could sign.

    Raises:
        InvalidInputError: One of the hosts is neither a name nor an address.
    """
    names = [_general_name(host) for host in hosts]
    key, serial = ec.generate_private_key(ec.SECP256R1()), x509.random_serial_number()
    now = datetime.now(UTC).replace(microsecond=0)
    expires = now + timedelta(days=days)
    # Trust is looked up by name, and old and new may have to be trusted side by side: each gets a name of its own.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"FastAPI Foundry {serial:x}"[:_LONGEST_NAME])])
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder(subject, subject, public, serial, now - _CLOCK_SKEW, expires)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return SelfSigned(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        expires,
    )


def write_pair(pair: SelfSigned, certificate: Path, private_key: Path, *, force: bool) -> None:
    """Write both files, the key for its owner alone; each appears as a whole.

    Args:
        force: Whether files that are there already are replaced.

    Raises:
        InvalidInputError: A file is there already, or cannot be written.
    """
    for path in (certificate, private_key):
        if not force and path.exists():
            raise InvalidInputError(f"{path} is there already; --force replaces it, --out DIR takes another place.")
    try:
        make_private_directory(private_key.parent)
        fresh_key = _written(private_key, pair.private_key, 0o600)
        fresh_certificate = _written(certificate, pair.certificate, 0o644)
        fresh_key.replace(private_key)
        fresh_certificate.replace(certificate)
    except OSError as error:
        raise InvalidInputError(
            f"{error.filename or certificate.parent} cannot be written: {error.strerror}."
        ) from error


def _written(path: Path, content: bytes, mode: int) -> Path:
    """A new file beside ``path``, with ``mode`` from its first moment on."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    return fresh


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name) or len(name) > _LONGEST_HOST:
        raise InvalidInputError(f"{host!r} is neither a host's name nor an address.", param="host")
    return x509.DNSName(name.rstrip(".").lower())
