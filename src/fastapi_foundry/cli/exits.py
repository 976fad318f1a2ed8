"""Exit codes, and which failure ends with which."""

from __future__ import annotations

from typing import Final

from fastapi_foundry import errors

__all__ = ["DENIED", "FAILURE", "INTERRUPTED", "NOT_FOUND", "NOT_RUNNING", "OFFLINE", "OK", "USAGE", "exit_code_for"]

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
NOT_RUNNING: Final = 3
NOT_FOUND: Final = 4
OFFLINE: Final = 5
DENIED: Final = 6
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count

# The most specific class first; the first match wins.
_CODES: Final[tuple[tuple[type[errors.FoundryError], int], ...]] = (
    (errors.ConfigurationError, USAGE),
    (errors.InvalidInputError, USAGE),
    (errors.AuthenticationError, DENIED),
    (errors.ForbiddenError, DENIED),
    (errors.KeyNotFoundError, NOT_FOUND),
    (errors.ModelNotFoundError, NOT_FOUND),
    (errors.CatalogUnavailableError, OFFLINE),
    (errors.EngineUnavailableError, NOT_RUNNING),
    (errors.ModelUnavailableError, NOT_RUNNING),
    (errors.StorageUnavailableError, NOT_RUNNING),
)


def exit_code_for(fact: errors.FoundryError) -> int:
    """The exit code that a failed command ends with; 1 for whatever has no code of its own."""
    return next((code for kind, code in _CODES if isinstance(fact, kind)), FAILURE)
