"""The certificate of the server: read, checked, and read again when its files change.

A new pair is loaded into a context of its own, which takes the place of the old one for the connections that come
after; those that are open keep theirs. A pair that does not work is reported and changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.server.handshake import certificate_of
from fastapi_foundry.settings import TlsSettings

__all__ = ["Certificate", "CertificateFiles", "load_certificate"]

logger = get_logger(__name__)

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_SOON_S: Final = 14 * 86_400
_MAX_FILE_BYTES: Final = 1_048_576


_State = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A pair of certificate and key that works.

    Attributes:
        context: For the server's side of new connections.
        names: What the certificate is for: host names and addresses.
        expires: When it ends, in seconds since the epoch.
        warnings: What is not right with it and does not keep it from working.
    """

    context: ssl.SSLContext
    names: tuple[str, ...]
    expires: float
    warnings: tuple[str, ...]


def load_certificate(settings: TlsSettings, *, now: float | None = None) -> Certificate:
    """Read and check what the settings name; blocks for the read of two small files.

    Args:
        settings: With a certificate.
        now: Seconds since the epoch; the clock's unless given.

    Raises:
        ConfigurationError: A file cannot be read or is none of its kind, or the two do not belong together.
    """
    if settings.certificate is None:
        raise ConfigurationError("tls.certificate", "settings", "is not set")
    certificate, key = settings.certificate, settings.private_key or settings.certificate
    _require_pem(certificate, "tls.certificate", b"CERTIFICATE-----", "certificate")
    _require_pem(key, "tls.private_key", b"PRIVATE KEY-----", "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load(context, certificate, key, settings)
    try:
        told = certificate_of(context, certificate)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or _words(error)
        raise ConfigurationError("tls.certificate", str(certificate), f"no client could use it: {reason}") from error
    names = tuple(str(value) for _, value in told.get("subjectAltName", ()))
    expires = ssl.cert_time_to_seconds(str(told["notAfter"]))
    warnings = _warnings(certificate, key, told, names, time.time() if now is None else now)
    return Certificate(context, names, expires, warnings)


class CertificateFiles:
    """The certificate in use, and the watch over its files.

    Args:
        settings: With a certificate.

    Raises:
        ConfigurationError: As ``load_certificate``.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._paths = [path for path in (settings.certificate, settings.private_key) if path is not None]
        self._seen = self._state()
        self._changing: _State | None = None
        self.current = load_certificate(settings)
        self._wanted = asyncio.Event()

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self.current.context

    def reload_soon(self) -> None:
        """Have ``watch`` read the files now, whether they have changed or not; on the event loop alone."""
        self._wanted.set()

    async def watch(self) -> None:
        """Look at the files again and again, and read them when somebody asks for it, until cancelled."""
        while True:
            if await self._asked_within(self._settings.reload_check_s):
                await self._reload()
            else:
                await self.look()

    async def look(self) -> None:
        """Read the files if they have changed and come to rest: two files are written one after the other."""
        state = await asyncio.to_thread(self._state)
        if state != self._seen and state == self._changing:
            await self._reload()
        else:
            self._changing = state if state != self._seen else None

    async def _asked_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            return False
        self._wanted.clear()
        return True

    async def _reload(self) -> None:
        self._seen, self._changing = await asyncio.to_thread(self._state), None
        try:
            self.current = await asyncio.to_thread(load_certificate, self._settings)
        except ConfigurationError as fact:
            logger.error(  # noqa: TRY400 - a fact, not a bug
                "new certificate not usable, the old one stays", setting=fact.key, file=fact.source, error=fact.reason
            )
            return
        logger.info("certificate read again", names=list(self.current.names), expires=_day(self.current.expires))
        for warning in self.current.warnings:
            logger.warning("certificate is questionable", error=warning)

    def _state(self) -> _State:
        return tuple(_identity(path) for path in self._paths)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _require_pem(path: Path, key: str, mark: bytes, what: str) -> None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(key, str(path), f"cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigurationError(key, str(path), f"is larger than {_MAX_FILE_BYTES} bytes, so it is no {what}")
    if mark not in content:
        hint = "; a DER file becomes one with: openssl x509 -inform der" if what == "certificate" else ""
        raise ConfigurationError(key, str(path), f"holds no {what} in PEM form (-----BEGIN ...){hint}")


def _load(context: ssl.SSLContext, certificate: Path, key: Path, settings: TlsSettings) -> None:
    """Load the pair; the password is handed over by a function, since OpenSSL asks at the terminal otherwise."""
    asked = False
    given = settings.private_key_password

    def password() -> str:
        nonlocal asked
        asked = True
        return given.get_secret_value() if given is not None else ""

    try:
        context.load_cert_chain(certificate, key, password=password)
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", "") or ""
        if reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}:
            why = f"does not belong to the certificate in {certificate}"
        elif asked:
            why = "has a password; set tls.private_key_password" if given is None else "has another password"
            name = "tls.private_key" if given is None else "tls.private_key_password"
            raise ConfigurationError(name, str(key), why) from None  # its cause may hold what was tried
        else:
            why = f"cannot be used together with the certificate in {certificate}: {_words(error)}"
        raise ConfigurationError("tls.private_key", str(key), why) from error


def _warnings(
    certificate: Path, key: Path, told: dict[str, Any], names: tuple[str, ...], now: float
) -> tuple[str, ...]:
    found = []
    ends, begins = ssl.cert_time_to_seconds(str(told["notAfter"])), ssl.cert_time_to_seconds(str(told["notBefore"]))
    if ends <= now:
        found.append(f"{certificate}: the certificate expired on {_day(ends)}; clients will refuse it")
    elif ends - now < _SOON_S:
        found.append(f"{certificate}: the certificate expires on {_day(ends)}")
    if begins > now:
        found.append(f"{certificate}: the certificate is valid from {_day(begins)} only; clients will refuse it")
    if not names:
        found.append(f"{certificate}: the certificate names no host (subjectAltName); clients will refuse it")
    if os.name != "nt" and key.stat().st_mode & stat.S_IRWXO:
        found.append(f"{key}: every user of this machine can get at the private key; run: chmod 600 {key}")
    return tuple(found)


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(reason).replace("_", " ").lower()


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
