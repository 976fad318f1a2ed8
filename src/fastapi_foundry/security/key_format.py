"""The text of an API key: ``ffk_``, 32 random characters, 6 characters of checksum.

The prefix lets secret scanners (and our own log redaction) recognise a key wherever it lands; the checksum lets a
mistyped or made-up key be refused without a look at the store. The form follows what GitHub describes for its tokens:
letters and digits only, so that a double click takes the whole; CRC-32 over the random part.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from typing import Final

__all__ = ["PREFIX", "has_valid_checksum", "hash_key", "looks_like_key", "new_key", "shown_prefix"]

PREFIX: Final = "ffk_"

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH: Final = 32  # 62 ** 32 is more than 190 bits
_CHECKSUM_LENGTH: Final = 6  # 62 ** 6 is more than 2 ** 32
_LENGTH: Final = len(PREFIX) + _RANDOM_LENGTH + _CHECKSUM_LENGTH
_SHOWN: Final = len(PREFIX) + 6


def new_key() -> str:
    """A key that nobody has; the caller shows it once and keeps its hash alone."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return PREFIX + body + _checksum(body)


def looks_like_key(text: str) -> bool:
    """Whether ``text`` means to be a key of ours, right or wrong."""
    return text.startswith(PREFIX)


def has_valid_checksum(text: str) -> bool:
    """Whether ``text`` has the form of a key; false after any change of up to four neighbouring random characters."""
    if len(text) != _LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return False
    body, checksum = text[len(PREFIX) : -_CHECKSUM_LENGTH], text[-_CHECKSUM_LENGTH:]
    return secrets.compare_digest(_checksum(body), checksum)


def hash_key(text: str) -> str:
    """What is stored of a key: SHA-256 in hexadecimal.

    No salt and no slow hash: the input has 190 bits of chance, so there is nothing to guess.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def shown_prefix(text: str) -> str:
    """The part of a key by which its owner recognises it in a list."""
    return text[:_SHOWN]


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        value, index = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[index] + digits
    return digits
