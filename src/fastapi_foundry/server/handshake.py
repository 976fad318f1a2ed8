"""A TLS handshake with oneself, in memory: what a client will see, found out before one comes."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

__all__ = ["certificate_of"]

_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for
_MOST_ROUNDS: Final = 10


def certificate_of(context: ssl.SSLContext, certificate: Path) -> dict[str, Any]:
    """What a client reads in the certificate of ``context``, as ``SSLSocket.getpeercert`` words it.

    Args:
        context: The server's, with certificate and key.
        certificate: The certificate's file, which the client trusts here.

    Raises:
        ssl.SSLError: Client and server do not come together.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(certificate)
    # The server's own certificate is the one to be trusted, whoever issued it and however old it is.
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(_MOST_ROUNDS):
        waiting = [side for side in waiting if not _goes_on(side)]
        if not waiting:
            break
    return dict(client.getpeercert() or {})


def _goes_on(side: ssl.SSLObject) -> bool:
    """Take the handshake as far as it goes; true when it is done."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
